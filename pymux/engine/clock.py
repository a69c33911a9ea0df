"""The clock of every time limit of the package.

It is the monotonic clock, as in the core. A test may shift both: then an idle timeout
of a minute expires at once, and no test depends on a margin. A shift does not wake a
mux that waits.
"""

from __future__ import annotations

import time

from .._core import lib

__all__ = ["now", "shift"]

MS = 1000
_ahead = 0.0


def now() -> float:
    """Return the seconds of a clock that never goes back."""
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
