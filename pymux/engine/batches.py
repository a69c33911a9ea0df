"""The batches of an engine, and their dispatch."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._core import lib
from .arena import Arenas
from .connections import Objects
from .owner import FORKED
from .services import ServiceState
from .state import DISPATCHING, IDLE, TURNING, TurnState
from .stops import Stops
from .turn import MESSAGES, NOTABLE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Batches"]

GAPS = lib.PMX_GAPS
LARGE = lib.PMX_LARGE
OTHER_ROWS = lib.PMX_OTHER_ROWS
UNUSUAL = GAPS | LARGE | OTHER_ROWS | NOTABLE


class Batches(Stops):
    """The sixth layer of an engine: harvests, batches, and their dispatch.

    Attributes:
        batch: the last batch, until it has been dispatched or is over.
        valid: the number of the batch that may be read and answered, or 0.
        ends: the number of connections that ended with each errno.
        running: the task that runs.
        given: the rows of the dispatched batch, and which of them were delivered.
        handlers: the handlers of the connections (`Handlers`), if any.
        dialled: buffers of the connections that a task has dialled, by the task.
        nurseries: the `Nursery` of each task that has spawned others, by the task.
        guests: tasks that wait for output of another task's connection, by its buffer.
        aware: tasks that know that their connection has ended: they were told so.
        late: expired timeouts of coroutines, raised once the batch is dispatched.
        between: called by a server after each dispatch.
    """

    batch: Any
    batches: int
    serving: ServiceState
    state: TurnState
    valid: int

    def __init__(self, c: Any, arenas: Arenas, objects: Objects) -> None:
        super().__init__(c, arenas, objects)
        self.batches = 0
        self.ends: dict[int, int] = {}
        self.running: Any = None
        self.given: Any = None
        self.handlers: Any = None
        self.late: list[Any] = []
        self.between: list[Callable[[], None]] = []
        self.dialled: dict[Any, list[Any]] = {}
        self.nurseries: dict[Any, Any] = {}
        self.guests: dict[Any, list[Any]] = {}
        self.aware: set[Any] = set()
        self._ends_before = self.ends  # `ends` before the batch of turn `_counted`
        self._counted = 0
        self._news = False  # True if the last batch has more than messages

    def harvest(self, deadline: float | None, minimum: int, delay_ns: int) -> Any:
        """Harvest a batch. A caller that has the batch sets `received` to False."""
        if self.thread != get_ident() or self.c is None:
            self.claim()
        if self.state is not IDLE:
            raise RuntimeError("harvest() cannot be called in a handler or timer")
        if self.debts is not None and self.debts.waiting and not self.calls:
            self.calls.append((self.settle_waiting, ()))  # a signal handler raised
        try:
            self.state = TURNING  # a signal handler may neither close nor harvest
            result = self.exchange(deadline, minimum, delay_ns)
            if self.c is None:  # a call, or a signal handler, closed the engine
                batch = self.objects.batch(self, self.arena, 0, None, False, -1)
                return batch  # noqa: RET504 (behind a call a signal may strike)
            # The batch is made again if a signal handler raises before the caller
            # has set `received` to False.
            arena, gap, news, rows = self.arena, None, False, result >> MESSAGES
            if len(self.services) > 1:
                self.serving = self.services[self.turn.service]
            if result & UNUSUAL:
                if result & LARGE:
                    arena = self.arenas.adopt(self.turn.arena)
                    self.stale = True
                if result & GAPS:
                    gap = self.serving.gap
                news = result & OTHER_ROWS != 0
                if result & NOTABLE:
                    self.warn_of_peers()
            if self.splitting is not None:
                arena, rows = self.splitting.split(arena, rows, gap)
            self.batches = number = self.batches + 1
            batch = self.objects.batch(self, arena, rows, gap, news, number)
            self.valid = number
            # An empty batch is not kept: it would keep a dropped mux alive.
            self.batch = batch if rows or news else None
            self._news = news
            return batch
        finally:  # also after a signal handler that raised
            self.state = IDLE
            if self.close_asked:
                self.close_now()

    def serve(self, deadline: float | None) -> None:
        """Harvest and dispatch one batch; every service has a dispatcher.

        A handler may close the engine.
        """
        form: Any = self.services[0].dispatcher
        batch = self.harvest(deadline, form.min_messages, form.delay_ns)
        if self.c is not None:
            self.dispatch(batch)

    def dispatch(self, batch: Any) -> None:
        """Dispatch a batch to its service. A handler may close the engine."""
        form: Any = self.serving.dispatcher
        try:
            self.received = False
            self.state = DISPATCHING
            if self._news:
                form(batch)
            elif self.batch is not None:
                form.messages(batch)
            if self.late:
                self._run_late()
        finally:
            self.state = IDLE
            if self.batch is not None:  # `valid` stays: a handler may keep a batch
                batch, self.batch = self.batch, None
                if self._news and self.c is not None:
                    self.objects.forget(self, batch)
            if self.close_asked:
                self.close_now()

    def harvest_and_dispatch(
        self, deadline: float | None, minimum: int, delay_ns: int
    ) -> Any:
        """Harvest for a caller that handles the batches of service 0 itself.

        A batch of another service is dispatched, and an empty batch returned.
        """
        batch = self.harvest(deadline, minimum, delay_ns)
        if self.serving.dispatcher is None and not self.late:
            return batch
        if self.serving.dispatcher is not None:
            self.dispatch(batch)
            self.serving = self.services[0]
            return self.objects.batch(self, self.arena, 0, None, False, self.valid)
        try:
            self.state = DISPATCHING
            self._run_late()
        finally:
            self.state = IDLE
            if self.close_asked:
                self.close_now()
        return batch

    def _run_late(self) -> None:
        """Raise the timeouts of coroutines that this batch brought nothing."""
        while self.late and self.c is not None:
            task, timer, timeout = self.late.pop(0)
            task.time_out(timer, timeout)

    def settle(self, call: Callable[..., Any], *args: Any) -> None:
        """Make a call of `Debts`: now in the mux's thread, else in its next harvest.
        After the close there is nothing to do. Any thread may call.

        Raises:
            RuntimeError: this process is a fork of the mux's.
        """
        debts = self.debts
        if self.thread == FORKED:
            self.check()
        quiet = self.state is IDLE or self.state is DISPATCHING
        if quiet and debts is not None and not debts.at_work and self.is_here():
            self.settle_here(call, *args)
        else:
            self.settle_soon(call, *args)

    def settle_soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Make a call of `Debts` in the next harvest, if there is one."""
        with self.lock:
            debts = self.debts
            if self.c is not None and debts is not None:
                debts.waiting.append((call, args))
                self.call_threadsafe(self.settle_waiting)

    def settle_here(self, call: Callable[..., Any], *args: Any) -> None:
        """Make a call of `Debts` in the mux's thread."""
        debts = self.debts
        if debts is None or self.c is None:
            return
        before, debts.at_work = debts.at_work, True
        try:
            call(*args)
        finally:
            debts.at_work = before

    def settle_waiting(self) -> None:
        """Make the calls of `Debts` that other threads have left. One in which a
        signal handler raises is made again: what it had done is not done twice."""
        debts = self.debts
        while debts is not None and debts.waiting and self.c is not None:
            call, args = debts.waiting[0]
            self.settle_here(call, *args)
            debts.waiting.popleft()

    def leave(self, error: BaseException) -> None:
        """Raise a handler's exception out of pymux."""
        raise error

    def forget_batch(self) -> None:
        batch, self.batch = self.batch, None
        if self._news and self.c is not None:
            self.objects.forget(self, batch)

    def count_ends(self, numbers: list[int]) -> None:
        """Count the ends of this turn once, even if its batch is made again."""
        if self._counted != self.turns:
            self._ends_before, self._counted = self.ends, self.turns
        ends = self._ends_before.copy()
        for number in numbers:
            ends[number] = ends.get(number, 0) + 1
        self.ends = ends
