"""Calls that a mux makes later."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from ..values.checks import LONGEST, number
from . import clock

__all__ = ["Timer", "Timers"]

NS = 1_000_000_000


class Timer:
    """A call that a mux makes later, made by `Mux.call_later`.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     kept = mux.call_later(0, print, "now")
    ...     timer = mux.call_later(0, print, "never")
    ...     timer.cancel()
    ...     batch = mux.harvest()
    now
    """

    __slots__ = ("_args", "_fn", "_number", "_timers", "_when")

    def __init__(
        self, timers: Timers, when: float, fn: Callable[..., Any], args: Any
    ) -> None:
        self._timers = timers
        self._when = when
        self._number = timers.made  # a coarse clock makes timers due at the same time
        self._fn: Callable[..., Any] | None = fn
        self._args = args

    def cancel(self) -> None:
        """Cancel the call; after the call, do nothing."""
        if self._fn is not None:
            self._fn = self._args = None
            self._timers.cancelled += 1

    def __lt__(self, other: Timer) -> bool:
        if self._when == other._when:
            return self._number < other._number
        return self._when < other._when


class Timers:
    """The timers of a mux, the next one first.

    A cancelled timer stays until its time, or until most timers are cancelled: so a
    timeout for each message neither costs a search nor fills the memory.
    """

    __slots__ = ("cancelled", "heap", "made")

    def __init__(self) -> None:
        self.made: int = 0
        self.heap: list[Timer] = []
        self.cancelled: int = 0

    def add(self, delay: float, fn: Callable[..., Any], args: Any) -> Timer:
        """Set a timer, `delay` seconds from now."""
        if type(delay) is not float or delay != delay:  # nan
            delay = number("delay", delay)
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        if self.cancelled > 64 and self.cancelled > len(self.heap) // 2:
            self.heap = [timer for timer in self.heap if timer._fn is not None]
            heapq.heapify(self.heap)
            self.cancelled = 0
        self.made += 1
        timer = Timer(self, clock.now() + min(max(delay, 0), LONGEST), fn, args)
        heapq.heappush(self.heap, timer)
        return timer

    def next(self) -> float | None:
        """Return the time of the next timer, or None."""
        heap = self.heap
        while heap and heap[0]._fn is None:
            heapq.heappop(heap)
            self.cancelled -= 1
        return heap[0]._when if heap else None

    def pop_due(self, now: float, newest: int) -> tuple[Callable[..., Any], Any] | None:
        """Remove a timer that is due; return its call, or None.

        A timer set after timer number `newest` is not due yet.
        """
        when = self.next()
        if when is None or when > now or self.heap[0]._number > newest:
            return None
        timer = heapq.heappop(self.heap)
        fn, args = timer._fn, timer._args
        timer._fn = timer._args = None
        assert fn is not None
        return fn, args
