"""A harvest that keeps the GIL.

cffi gives up the GIL for every call. That is right for a wait, and costs
nothing where nobody else wants it; but beside a thread that computes without a
pause, taking it back costs a whole switch interval (5 ms by default), so each
turn would take that long, however little there was to do. So a mux that
notices that it waits for the GIL looks for what is ready without giving it up
first, and gives it up only to wait. The interpreter still makes it share: it
asks for the GIL back after each switch interval.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from .._core import ffi, lib

__all__ = ["Gil"]


def exchange_holding_the_gil() -> Callable[..., int] | None:
    """`pmx_exchange` for a call that keeps the GIL, None where there is none.

    It is an optimisation: where ctypes cannot be had for whatever reason, as in a
    service that may not have executable memory, or without a descriptor to import
    it with, all works without.
    """
    if sys.implementation.name != "cpython":
        return None
    try:
        return _exchange()
    except Exception:
        return None


@cache
def _exchange() -> Callable[..., int]:
    import ctypes

    address = int(ffi.cast("uintptr_t", ffi.addressof(lib, "pmx_exchange")))
    kind = ctypes.PYFUNCTYPE(
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_uint64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint64,
    )
    function: Callable[..., int] = kind(address)
    return function


LOOK_EVERY = 7  # turns, of eight: a mask


class Gil:
    """Notices, by looking every few turns, that the GIL has to be waited for.

    Attributes:
        left: for so many turns, look for what is ready without giving it up.
        turns: how many harvests the core has begun.
    """

    LATE_NS = 1_000_000  # between the core's return and ours others had the GIL
    LASTS = 256  # turns that the finding holds for

    __slots__ = ("_address", "_call", "_turn", "left", "turns")

    def __init__(self, turn: Any) -> None:
        self.left: int = 0
        self._turn = turn
        self._address = int(ffi.cast("uintptr_t", turn))
        self.turns: int = 0
        self._call: Callable[..., int] | None = exchange_holding_the_gil()

    def look(self) -> None:
        """After a call that gave the GIL up, now and then."""
        if time.monotonic_ns() - self._turn.done_ns > self.LATE_NS:
            self.left = self.LASTS if self._call else 0

    def arguments(self, span: int, shape: int, ids: Any, bounds: Any, data: Any) -> Any:
        """`pmx_exchange` that keeps the GIL, and what to call it with so that
        it does not wait, nor ends a batch early that may still gather. Pointers
        are not kept alive by this."""
        self.left -= 1
        ids, bounds, start = (
            one if type(one) is bytes else int(ffi.cast("uintptr_t", one))
            for one in (ids, bounds, data)
        )
        look = lib.PMX_LOOK if span else 0
        return self._call, self._address, look, shape, ids, bounds, start, len(data)
