"""Drain the connections of a server that stops."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from ..engine import clock
from ..engine.engine import Engine
from ..engine.owner import FORKED
from ..engine.timers import Timer
from ..values.checks import LONGEST, duration

__all__ = ["Drain", "stop_time"]


class Drain:
    """Accepts peers in the backlog, lets handlers answer received messages, and resets
    the remaining connections when time is over. The mux's thread does all of this.

    Args:
        tell: called once with the engine and the seconds that connections have.

    Attributes:
        asked: the deadline on the clock; None until a stop is asked for.
        by: the deadline of the drain that has begun. A signal handler may raise in
            `begin`, which `over` then calls again.
    """

    def __init__(
        self,
        engine: Engine,
        handlers: Any,
        tell: Callable[[Engine, float], None] | None = None,
    ) -> None:
        self.asked: float | None = None
        self.by: float | None = None
        self._engine = engine
        self._handlers = handlers
        self._tell = tell
        self._timer: Timer | None = None
        self._out_of_time = False

    def ask(self, by: float) -> None:
        """Let the drain begin in the next harvest, after its messages. Any thread may
        ask, one at a time."""
        self._engine.call_threadsafe(self.begin, by)
        if self.asked is None or by < self.asked:
            self.asked = by

    def begin(self, by: float) -> None:
        """Begin to drain by that time; an earlier deadline stays."""
        if self.asked is None or by < self.asked:
            self.asked = by
        self._handlers.before_drain()
        if self._engine.c is None or self._engine.thread == FORKED:
            return  # `stopping` has closed the mux, or this is its forked child
        if self.by is not None and self.by <= by:
            return
        left = by - clock.now()
        if self.by is None and self._tell is not None:
            self._tell(self._engine, max(left, 0))
        self._engine.drain()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._engine.call_later(max(left, 0), self._reset_rest)
        self.by = by

    def _reset_rest(self) -> None:
        """Reset every connection that is left when time is over."""
        engine = self._engine
        self._out_of_time = self._handlers.late = True
        engine.reset_all(errno.ETIMEDOUT)
        if engine.counts.listeners:  # peers in the backlog are accepted and reset
            self._timer = engine.call_later(0, self._reset_rest)

    def over(self) -> bool:
        """Return True if nothing is left. Called after each dispatch of a drain."""
        engine = self._engine
        if self.asked is not None and (self.by is None or self.by > self.asked):
            if engine.calls:
                return False  # `begin` is one of the calls
            self.begin(self.asked)
            if engine.c is None:
                return True
        engine.submit()  # the next harvest may wait without an event
        counts = engine.counts
        if counts.listeners:
            return False
        if counts.connections:
            if counts.connections == counts.outgoing and not self._handlers.outlives:
                engine.close_outgoing()  # no accepted connection needs these
            return False
        if engine.has_ends():
            return False  # handlers still have to hear of a closed connection
        if not self._handlers.busy:
            return True
        return self._out_of_time and not self._handlers.cleans_up()


def stop_time(drain_timeout: float | None, default: float | None) -> float:
    """Return the time on the clock by which a `stop` that is called now must end."""
    span = duration("drain_timeout", drain_timeout)
    if span is None:
        span = default
    return clock.now() + (LONGEST if span is None else min(span, LONGEST))
