"""The clock that every time limit of the package is reckoned by.

The monotonic clock, as the core reads it. A test may move both on: an idle timeout
of a minute is then tested at once, and no margin decides the test. A wait that is
under way notices nothing until its mux is woken.
"""

from __future__ import annotations

import time

from .._core import lib

__all__ = ["now", "shift"]

MS = 1000
_ahead = 0.0


def now() -> float:
    """Seconds on a clock that never goes back, to compare with others of its own."""
    return time.monotonic() + _ahead


def shift(seconds: float) -> None:
    """Let the clock run ahead of the system's, here and in the core. For tests.

    Args:
        seconds: how much, in whole milliseconds; 0 takes the clock back.
    """
    global _ahead
    ms = round(seconds * MS)
    lib.pmx_shift_clock(ms)
    _ahead = ms / MS
