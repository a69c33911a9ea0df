"""Drain the connections of a server that stops."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import Any, Protocol

from ..engine import clock
from ..engine.engine import Engine
from ..engine.owner import FORKED
from ..engine.timers import Timer
from ..values.checks import LONGEST, duration, number
from .linger import Linger

__all__ = ["Drain", "check_linger", "stop_time"]


class Gift(Protocol):
    """Connections that move to another server."""

    @property
    def on_the_way(self) -> bool:
        """Whether some have left that may come back."""

    def give_up(self) -> None:
        """Wait for these no more."""


class Drain:
    """Accepts peers in the backlog, lets handlers answer received messages, and resets
    the remaining connections when time is over. Before that the connections may
    linger: see `Linger`. The mux's thread does all of this.

    Args:
        tell: called once with the engine and the seconds that connections have.
        tell_retiring: called once with the engine, when the server accepts nobody
            more, and the seconds in which its connections end, or None.

    Attributes:
        asked: the deadline on the clock; None until a stop is asked for.
        lingers: until when connections linger; no later than any stop has asked for.
        on_stop: called once, in the mux's thread, when the stop begins.
        gifts: what moves connections to another server. The drain begins when none is
            on its way, or at half the time: one that comes back needs a place.
        by: the deadline of the drain that has begun. A signal handler may raise in
            `begin`, which `over` then calls again.
    """

    def __init__(
        self,
        engine: Engine,
        handlers: Any,
        tell: Callable[[Engine, float], None] | None = None,
        tell_retiring: Callable[[Engine, float | None], None] | None = None,
    ) -> None:
        self.asked: float | None = None
        self.lingers: float = math.inf
        self.by: float | None = None
        self.gifts: list[Gift] = []
        self._gifts_by = math.inf
        self._engine = engine
        self.on_stop: Callable[[], object] | None = None
        self._handlers = handlers
        self._tell = tell
        self._tell_retiring = tell_retiring
        self._timer: Timer | None = None
        self._out_of_time = False
        self._linger = Linger(engine, handlers)

    def ask(self, by: float, lingers: float = 0.0) -> None:
        """Let the drain begin in the next harvest, after its messages. Any thread may
        ask, one at a time.

        Args:
            by: when the drain is to be over.
            lingers: until when connections linger before it.
        """
        self._engine.call_threadsafe(self.begin, by, lingers)
        self._note(by, lingers)

    def _note(self, by: float, lingers: float) -> None:
        self.lingers = min(self.lingers, lingers)
        if self.asked is None or by < self.asked:
            self.asked = by

    def begin(self, by: float, lingers: float = 0.0) -> None:
        """Begin to drain by that time; an earlier deadline stays. If connections are
        to linger, `over` begins when these have ended, or at that time."""
        self._note(by, lingers)
        on_stop, self.on_stop = self.on_stop, None
        if on_stop is not None:
            on_stop()
        left = self.lingers - clock.now()
        if self.by is None and left > 0:
            self._say_retiring(left)
            return
        if self.by is None and self._waits_for_gifts(by):
            return
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

    def _waits_for_gifts(self, by: float) -> bool:
        """Whether connections are on their way; after half the time, give them up."""
        if not any(one.on_the_way for one in self.gifts):
            return False
        now = clock.now()
        half = now + max(by - now, 0) / 2
        if half < self._gifts_by:
            self._gifts_by = half
            self._engine.call_later(half - now, int)  # a harvest returns then
        if now < self._gifts_by:
            return True
        for one in list(self.gifts):
            one.give_up()
        return False

    def retire(self) -> None:
        """Accept the peers that wait, close the listeners, and serve on."""
        if self._engine.c is not None:
            self._engine.retire()
            if self.asked is None:
                self._say_retiring(None)

    def _say_retiring(self, seconds: float | None) -> None:
        tell, self._tell_retiring = self._tell_retiring, None
        if tell is not None:
            tell(self._engine, seconds)

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
        if self.by is None and clock.now() < self.lingers:
            if self._linger.step(self.lingers):
                return engine.c is None
            self.lingers = 0.0
        if self.asked is not None and (self.by is None or self.by > self.asked):
            if engine.calls:
                return False  # `begin` is one of the calls
            self.begin(self.asked)
            if engine.c is None:
                return True
            if self.by is None and engine.thread != FORKED:
                return False  # connections are on their way
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


def check_linger(linger: float) -> float:
    """Return the time on the clock until which connections linger from now on.

    Raises:
        TypeError, ValueError: this is no number of seconds.
    """
    span = number("linger", linger, "0 or more seconds are needed")
    if span < 0:
        raise ValueError(f"linger is {linger!r}; it must be 0 or more seconds")
    return clock.now() + min(span, LONGEST) if span else 0.0


def stop_time(
    drain_timeout: float | None, default: float | None, lingers: float = 0.0
) -> float:
    """Return the time on the clock by which a `stop` that is called now must end.

    Args:
        lingers: the time at which its drain begins, if that is later than now.
    """
    span = duration("drain_timeout", drain_timeout)
    if span is None:
        span = default
    begins = max(clock.now(), lingers)
    return begins + (LONGEST if span is None else min(span, LONGEST))
