"""Which backends there are, and which of them work here."""

from __future__ import annotations

import errno
import os

from ._core import ffi, lib
from .errors import BackendUnavailable

__all__ = ["backends"]

KNOWN = ("epoll", "kqueue", "poll", "select")


def reasons() -> dict[str, str | None]:
    """Every known backend: None where it works here, else why it does not."""
    built: list[str] = []
    while lib.pmx_backend_name(len(built)):
        built.append(ffi.string(lib.pmx_backend_name(len(built))).decode())
    found: dict[str, str | None] = {}
    for name in built:
        error = lib.pmx_backend_probe(name.encode())
        found[name] = os.strerror(-error) if error else None
    for name in KNOWN:
        found.setdefault(name, "this operating system does not offer it")
    return found


def backends() -> tuple[str, ...]:
    """The backends that really work on this machine, best first, by trying.

    >>> "select" in backends()
    True
    """
    return tuple(name for name, reason in reasons().items() if not reason)


def compiler() -> str:
    """What the core was compiled with."""
    return str(ffi.string(lib.pmx_compiler()).decode())


def select_limit() -> str:
    """What to say where select is full."""
    limit = lib.pmx_select_limit()
    others = [name for name in backends() if name != "select"]
    instead = f"; use {' or '.join(others)}" if others else ""
    return f"select holds no descriptor from {limit} on (FD_SETSIZE){instead}"


def choose(backend: str | None) -> bytes | None:
    """The backend's name for the core, None for the best; raises for no name."""
    name = backend if backend is not None else os.environ.get("PYMUX_BACKEND") or None
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; a str or None is needed")
    if name not in KNOWN:
        raise ValueError(f"backend is {name!r}; known are {', '.join(KNOWN)}")
    return name.encode()


def unavailable(backend: str | None, number: int) -> OSError:
    """The error to raise where a mux cannot be opened."""
    if number in (errno.ENOMEM, errno.ENFILE, errno.EMFILE):
        return OSError(number, os.strerror(number))
    name = backend or os.environ.get("PYMUX_BACKEND") or "any"
    if name == "select" and number == errno.ENOSPC:
        return BackendUnavailable(number, f"backend select: {select_limit()}")
    reason = reasons().get(name) or os.strerror(number)
    return BackendUnavailable(
        number,
        f"backend {name} is unavailable: {reason}; "
        f"these work here: {', '.join(backends())}",
    )
