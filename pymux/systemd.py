"""What systemd gives a service and is told by one: sockets, and its state.

Both need environment variables and a datagram alone, no library of systemd's. Anything
else that speaks the same protocols will do: `systemd-socket-activate`, podman, s6.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["from_systemd", "notify", "reloading", "watchdog_period"]

FIRST = 3  # the number of the first descriptor that is passed
VARIABLES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"

_waiting: list[tuple[str, int]] = []  # (name, descriptor) of what was not handed out
_came: list[str] = []  # the names of all that came


def from_systemd(name: str | None = None) -> list[socket.socket]:
    """Return the listening sockets that systemd has passed to this process.

    The first call reads ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES``, removes
    them from the environment, and sees to it that programs started from here do not
    inherit the descriptors. Each socket is handed out once. The caller closes it; a
    server duplicates it, and leaves its backlog and its path alone.

    Args:
        name: hand out the sockets that the socket unit calls so: its
            ``FileDescriptorName=``, else the name of the unit, like ``app.socket``.
            None hands out all that are left, in the order of the unit.

    Returns:
        A list, which is an address to listen on. With None it is empty where systemd
        has passed nothing, so that ``from_systemd() or ("127.0.0.1", 8093)`` serves in
        both cases.

    Raises:
        LookupError: no socket of that name came, or it was handed out before.
        ValueError: what came under that name is no socket.

    >>> from_systemd() or ("127.0.0.1", 8093)
    ('127.0.0.1', 8093)
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is {name!r}; a str or None is needed")
    _take()
    wanted = [one for one in _waiting if name in (None, one[0])]
    if name is not None and not wanted:
        known = ", ".join(repr(one) for one in dict.fromkeys(_came)) or "none"
        again = " (it was handed out before)" if name in _came else ""
        raise LookupError(
            f"no socket {name!r} has come from systemd{again}; what came: {known}"
        )
    made: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for called, number in wanted:
            try:
                made.append(socket.socket(fileno=number))
            except OSError as error:
                raise ValueError(
                    f"descriptor {number}, {called!r}, from systemd is no socket: "
                    f"{error.strerror}"
                ) from None
            undo.callback(made[-1].detach)
        undo.pop_all()
    for one in wanted:
        _waiting.remove(one)
    return made


def _take() -> None:
    """Take what the environment tells of, once; a child of ours is told of nothing."""
    pid, count, names = (os.environ.pop(one, "") for one in VARIABLES)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return
    called = names.split(":") if names else []
    for index in range(int(count)):
        number = FIRST + index
        name = called[index] if index < len(called) else "unknown"
        try:
            os.set_inheritable(number, False)
        except OSError:  # the variables are wrong
            break
        _waiting.append((name, number))
        _came.append(name)


# --- what systemd is told ---------------------------------------------------------


def notify(*lines: str) -> bool:
    """Tell the service manager something; True if it was told.

    Nothing is raised: a service runs without a service manager too.

    Args:
        lines: like ``"READY=1"``, ``"STATUS=..."``: see sd_notify(3). A line break in
            a line becomes a space.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    text = "\n".join(" ".join(line.splitlines()) for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # a manager that hangs holds nobody
            sock.connect(path)
            sock.send(text.encode(errors="replace"))
    except (OSError, ValueError):
        return False
    return True


def reloading(status: str = "") -> bool:
    """Tell the service manager that the service loads its code or settings anew; say
    ``READY=1`` when that is done. True if it was told."""
    now = time.monotonic_ns() // 1000
    lines = ["RELOADING=1", f"MONOTONIC_USEC={now}"]
    return notify(*lines, *([f"STATUS={status}"] if status else []))


def watchdog_period() -> float | None:
    """Return how often, in seconds, ``WATCHDOG=1`` is to be said; None: never.

    It is half of the time after which the service manager takes the service for stuck.
    """
    text = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit()) or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 2_000_000 or None
