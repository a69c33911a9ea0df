"""Backends: known, compiled, and working here."""

from __future__ import annotations

import errno
import os
import sys

from .._core import ffi, lib
from ..values.errors import BackendUnavailable
from .os_errors import meaning

__all__ = ["backends"]

KNOWN = ("epoll", "kqueue", "poll", "select")
WATCHABLE = ("epoll", "kqueue")  # they have a descriptor

# For the tests. The core reads no environment: without the GIL, another thread might
# change the environment meanwhile.
lib.pmx_wakeup_by_pipe(os.environ.get("PYMUX_WAKEUP") == "pipe")


def built() -> list[str]:
    """Return the backends that were compiled, best first."""
    names: list[str] = []
    while lib.pmx_backend_name(len(names)):
        names.append(ffi.string(lib.pmx_backend_name(len(names))).decode())
    return names


def watchable(backend: str | None) -> str | None:
    """Choose a backend that another loop can watch, if the caller names none.

    If it does not work, the error names it, and not the next best backend.
    """
    if choose(backend) is not None:
        return backend
    return next((name for name in built() if name in WATCHABLE), None)


def reasons() -> dict[str, str | None]:
    """Return, for each known backend, None if it works, or why it does not."""
    found: dict[str, str | None] = {}
    for name in built():
        error = lib.pmx_backend_probe(name.encode())
        found[name] = meaning(-error) if error else None
    for name in KNOWN:
        found.setdefault(name, missing(name, sys.platform))
    return found


def missing(name: str, platform: str) -> str:
    """Say why a backend is not compiled on a `sys.platform`."""
    if platform.startswith("sunos"):
        return (
            "not used on Solaris and illumos, nor are their /dev/poll and "
            "event ports; poll serves there"
        )
    if platform == "win32" and name == "poll":
        return "WSAPoll is not used; select serves on Windows"
    return "this operating system does not offer it"


def backends() -> tuple[str, ...]:
    """Try the backends; return those that work on this machine, best first.

    >>> "select" in backends()
    True
    """
    return tuple(name for name, reason in reasons().items() if not reason)


def compiler() -> str:
    """Return the name of the compiler of the core."""
    return str(ffi.string(lib.pmx_compiler()).decode())


def select_limit() -> str:
    """Return the error message for a full select."""
    limit = lib.pmx_select_limit()
    if sys.platform == "win32":
        return f"select holds {limit} sockets at most"
    others = [name for name in backends() if name != "select"]
    instead = f"; use {' or '.join(others)}" if others else ""
    return f"select holds no descriptor from {limit} on (FD_SETSIZE){instead}"


def choose(backend: str | None) -> bytes | None:
    """Check a backend's name, and encode it for the core; None means the best."""
    name = backend if backend is not None else os.environ.get("PYMUX_BACKEND") or None
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; a str or None is needed")
    if name not in KNOWN:
        raise ValueError(f"backend is {name!r}; known are {', '.join(KNOWN)}")
    return name.encode()


def unavailable(backend: str | None, number: int) -> OSError:
    """Return the error of a mux that cannot be opened."""
    if number in (errno.ENOMEM, errno.ENFILE, errno.EMFILE):
        return OSError(number, meaning(number))
    name = backend or os.environ.get("PYMUX_BACKEND") or "any"
    if name == "select" and number == errno.ENOSPC:
        return BackendUnavailable(number, f"backend select: {select_limit()}")
    reason = reasons().get(name) or meaning(number)
    return BackendUnavailable(
        number,
        f"backend {name} is unavailable: {reason}; "
        f"these work here: {', '.join(backends())}",
    )
