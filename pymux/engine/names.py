"""The addresses of connections, as the core has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from .owner import BUSY
from .structs import from_core

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["names_of", "pack_names", "unpack_names"]


def names_of(engine: Engine, id: int) -> tuple[Any, Any]:
    """(peer, local) of a connection; empty strings where the core knows none.

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


def pack_names(names: Any) -> Any:
    """What is kept of the names of a connection that has ended; None: no names.

    Paths lie in memory of the core, so they are read now; numbers are read when
    they are asked for.
    """
    if not names:
        return None
    if names[0].family == 1 or names[1].family == 1:
        return from_core(names[0]), from_core(names[1])
    return ffi.buffer(names, 2 * ffi.sizeof("pmx_address"))[:]


def unpack_names(kept: bytes) -> tuple[Any, Any]:
    """(peer, local) of what `pack_names` has kept."""
    pair = ffi.cast("pmx_address *", ffi.from_buffer(kept))
    return from_core(pair[0]), from_core(pair[1])
