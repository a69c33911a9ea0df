"""A harvest that keeps the GIL.

cffi releases the GIL for every call. For a wait that is right, and it costs nothing
if no other thread wants the GIL. But beside a thread that computes, taking the GIL
back costs a whole switch interval (5 ms by default), so each turn would take that
long. So a mux that notices such delays first looks for ready connections with the
GIL, and releases it only to wait. The computing thread still gets its share: the
interpreter asks for the GIL after each switch interval.
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
    """Return `pmx_exchange` as a call that keeps the GIL, or None.

    This is only an optimisation. ctypes may fail for many reasons: a service may
    forbid executable memory, or no descriptor is left to import it with.
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


LOOK_EVERY = 7  # a mask: one turn of eight


class Gil:
    """Notices, by a look every few turns, that the mux waits for the GIL.

    Attributes:
        left: the number of turns left that first look with the GIL.
        turns: the number of turns that the core has begun.
    """

    LATE_NS = 1_000_000  # a longer delay after the core's return is a wait for the GIL
    LEAST_NS = 20_000  # a shorter delay is that of the return itself
    LASTS = 256  # turns that look with the GIL after such a wait

    __slots__ = ("_address", "_call", "_turn", "left", "turns")

    def __init__(self, turn: Any) -> None:
        self.left: int = 0
        self._turn = turn
        self._address = int(ffi.cast("uintptr_t", turn))
        self.turns: int = 0
        self._call: Callable[..., int] | None = exchange_holding_the_gil()

    def look(self, counts: Any) -> None:
        """Measure the delay after a call that released the GIL, for the figures too.

        Args:
            counts: the figures; `gil_ns` grows by an estimate for all turns.
        """
        now = time.monotonic_ns()
        if now - self._turn.done_ns > self.LATE_NS:
            self.left = self.LASTS if self._call else 0
        since = counts.in_handler_since  # when the core returned
        delay = now - since if since else 0
        if delay > self.LEAST_NS:
            counts.gil_ns += delay * (LOOK_EVERY + 1)

    def arguments(self, span: int, shape: int, ids: Any, bounds: Any, data: Any) -> Any:
        """Return `pmx_exchange` that keeps the GIL, and its arguments.

        The call does not wait, and lets an unfinished batch gather on. The caller
        keeps the memory of the pointers alive.
        """
        self.left -= 1
        ids, bounds, start = (
            part if type(part) is bytes else int(ffi.cast("uintptr_t", part))
            for part in (ids, bounds, data)
        )
        look = lib.PMX_LOOK if span else 0
        return self._call, self._address, look, shape, ids, bounds, start, len(data)
