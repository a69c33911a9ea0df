"""How a server stops."""

from __future__ import annotations

import errno
import time

from .._core import lib
from ..engine.timers import Timer
from ..handlers.forms import Dispatcher
from ..mux import Mux
from ..values.checks import LONGEST, duration

__all__ = ["Drain", "stop_time"]


class Drain:
    """Accepts who waits, has what has arrived answered, and resets the rest
    when the time is over. All in the mux's thread.

    Attributes:
        asked: monotonic, when the time is over; None until a stop was asked for.
        by: the same, once it has begun. A signal's handler may raise in `begin`,
            which `over` then calls again.
    """

    def __init__(self, mux: Mux, dispatcher: Dispatcher) -> None:
        self.asked: float | None = None
        self.by: float | None = None
        self._mux = mux
        self._dispatcher = dispatcher
        self._timer: Timer | None = None
        self._out_of_time = False

    def ask(self, by: float) -> None:
        """Begin in the next harvest, behind what it receives. Any thread may ask,
        one at a time."""
        self._mux.call_threadsafe(self.begin, by)
        if self.asked is None or by < self.asked:
            self.asked = by

    def begin(self, by: float) -> None:
        """Stop by then, or sooner if told so before."""
        if self.asked is None or by < self.asked:
            self.asked = by
        if self.by is not None and self.by <= by:
            return
        if self._mux._stopped is None:
            self._mux._stopped = set()
        lib.pmx_drain(self._mux._c)
        if self._timer is not None:
            self._timer.cancel()
        left = by - time.monotonic()
        self._timer = self._mux.call_later(max(left, 0), self._reset_rest)
        self.by = by

    def _reset_rest(self) -> None:
        """Out of time: reset every connection that is left."""
        mux = self._mux
        self._out_of_time = self._dispatcher.late = True
        mux._submit()
        lib.pmx_reset_all(mux._c, errno.ETIMEDOUT)
        if mux._counts.listeners:  # who still waits there comes and goes
            self._timer = mux.call_later(0, self._reset_rest)

    def _close_outgoing(self) -> None:
        """No accepted connection is left that they could serve."""
        for conn in self._mux._table:
            if conn is not None and not conn.closed:
                conn.close()
        self._mux._submit()

    def over(self) -> bool:
        """After a dispatch, once it was asked for: whether nothing is left."""
        mux = self._mux
        if self.asked is not None and (self.by is None or self.by > self.asked):
            if mux._calls:
                return False  # `begin` is among them
            self.begin(self.asked)
        mux._submit()  # the next harvest may have nothing to wake it
        counts = mux._counts
        if counts.listeners:
            return False
        if counts.connections:
            if counts.connections == counts.outgoing and not self._dispatcher.busy:
                self._close_outgoing()
            return False
        if lib.pmx_next_timeout(mux._c) == 0:
            return False  # an end is still to be reported
        if not self._dispatcher.busy:
            return True
        return self._out_of_time and not self._dispatcher.cleans_up()


def stop_time(drain_timeout: float | None, default: float | None) -> float:
    """When (monotonic) a `stop` that is called now runs out of time."""
    span = duration("drain_timeout", drain_timeout)
    if span is None:
        span = default
    return time.monotonic() + (LONGEST if span is None else min(span, LONGEST))
