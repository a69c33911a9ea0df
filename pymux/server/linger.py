"""Let the connections of a server go one by one before it drains."""

from __future__ import annotations

import random
from typing import Any

from ..engine import clock
from ..engine.engine import Engine
from ..engine.stops import QUIET, WHOLE

__all__ = ["Linger"]

LEAST = 100  # connections a second: a few need not wait for the whole time
TICK = 0.01  # seconds between two looks whose turn it is
AGAIN = 0.05  # seconds until the server asks again for a connection that is not quiet


class Linger:
    """Retires, and gives each connection its turn to end, in random order, so that
    the peers do not all connect to other servers at once.

    Between a dispatch and the next harvest the mux's thread calls `step`.

    Args:
        engine: of the server.
        handlers: its `Handlers`.
    """

    def __init__(self, engine: Engine, handlers: Any) -> None:
        self._engine = engine
        self._handlers = handlers
        self._retired = False
        self._order: list[int] | None = None  # of turns; those that had theirs left
        self._count = 0  # how many there were
        self._began = 0.0
        self._rate = 0.0  # turns a second
        self._early: list[int] = []  # had their turn before they were reported
        self._coroutines: list[int] = []  # had their turn inside a message, or
        self._others: list[int] = []  # before all output was sent
        self._next = 0.0  # when there is something to do

    def step(self, until: float) -> bool:
        """Let those go whose turn has come; True if some are left to wait for.

        Args:
            until: when time is over, on the clock.
        """
        engine = self._engine
        if not self._retired:
            engine.retire()
            self._retired = True
        now = clock.now()
        counts = engine.counts
        if self._order is not None and counts.connections == counts.outgoing:
            return False
        if now < self._next:
            return True
        if counts.listeners:  # peers in the backlog are being accepted
            self._wake(now, now + TICK, until)
            return True
        if self._order is None:
            if counts.connections == counts.outgoing:
                return False
            self._draw_lots(now, until)
        self._take_turns(now)
        self._wake(now, self._next_turn(now), until)
        return True

    def _draw_lots(self, now: float, until: float) -> None:
        order = self._engine.accepted()
        random.Random().shuffle(order)  # no other generator's state is touched
        self._order, self._count, self._began = order, len(order), now
        self._rate = max(len(order) / max(until - now, TICK), LEAST)

    def _take_turns(self, now: float) -> None:
        """Let those go whose turn has come, and those that were busy before."""
        engine, order = self._engine, self._order
        assert order is not None
        due = int((now - self._began) * self._rate) + 1 - (self._count - len(order))
        ids = self._early + [order.pop() for _ in range(min(due, len(order)))]
        self._early = engine.not_open(ids)
        if self._early:
            early = set(self._early)
            ids = [id for id in ids if id not in early]
        coroutines, others = self._handlers.take_leave(ids)
        if engine.c is None:  # a handler has closed the mux
            return
        self._coroutines = engine.end_inputs(self._coroutines + coroutines, WHOLE)
        self._others = engine.end_inputs(self._others + others, QUIET)

    def _next_turn(self, now: float) -> float:
        """When there is something to do again, as far as is known."""
        at = float("inf")
        if self._order:
            at = self._began + (self._count - len(self._order)) / self._rate
        if self._early or self._coroutines or self._others:
            at = min(at, now + AGAIN)
        return max(at, now + TICK)

    def _wake(self, now: float, at: float, until: float) -> None:
        """Have a harvest return by then, or when time is over."""
        self._next = min(at, until)
        if self._engine.c is not None:
            self._engine.call_later(max(self._next - now, 0), int)
