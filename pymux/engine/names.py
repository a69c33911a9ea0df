"""The addresses of connections, from the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from .owner import BUSY
from .structs import from_core

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["kept_names_of", "names_of", "pack_names", "proxied_by", "unpack_names"]

BOTH = 2 * ffi.sizeof("pmx_address")


def names_of(engine: Engine, id: int) -> tuple[Any, Any]:
    """Return (peer, local) of a connection; empty strings if the core knows none.

    Raises:
        RuntimeError: another thread is inside the core.
    """
    pair = ffi.new("pmx_address[2]")
    error = lib.pmx_addresses(engine.c, id, pair)
    if error == BUSY:
        raise RuntimeError("another thread is inside this connection's mux")
    if error < 0:
        return "", ""
    return from_core(pair[0]), from_core(pair[1])


def kept_names_of(engine: Engine, id: int) -> Any:
    """Return the same as `pack_names` does, of a connection that is open."""
    pair = ffi.new("pmx_address[2]")
    error = lib.pmx_addresses(engine.c, id, pair)
    if error == BUSY:
        raise RuntimeError("another thread is inside this connection's mux")
    return ("", "") if error < 0 else pack_names(pair)


def proxied_by(engine: Engine, id: int) -> tuple[Any, bytes] | None:
    """Return (balancer, PROXY header of version 2) of a connection, or None.

    Raises:
        RuntimeError: another thread is inside the core.
    """
    told = ffi.new("pmx_proxied *")
    error = lib.pmx_proxy_of(engine.c, id, told)
    if error == BUSY:
        raise RuntimeError("another thread is inside this connection's mux")
    if error < 0:
        return None
    return from_core(told.transport), ffi.buffer(told.header, told.size)[:]


def pack_names(names: Any) -> Any:
    """Pack the addresses of a connection that has ended; None without addresses.

    Paths lie in the core's memory, so they are read now. Other addresses are
    unpacked when a user asks for them.
    """
    if not names:
        return None
    if names[0].family == 1 or names[1].family == 1:
        return from_core(names[0]), from_core(names[1])
    return ffi.buffer(names, BOTH)[:]


def unpack_names(kept: bytes) -> tuple[Any, Any]:
    """Return (peer, local) from the bytes of `pack_names`."""
    pair = ffi.cast("pmx_address *", ffi.from_buffer(kept))
    return from_core(pair[0]), from_core(pair[1])
