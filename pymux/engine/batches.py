"""The batches of an engine, and to whom they are dispatched."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._core import lib
from .arena import Arenas
from .connections import Connections, Objects
from .state import DISPATCHING, IDLE, TURNING
from .turn import MESSAGES

if TYPE_CHECKING:
    pass

__all__ = ["Batches"]

GAPS = lib.PMX_GAPS
LARGE = lib.PMX_LARGE
OTHER_ROWS = lib.PMX_OTHER_ROWS


class Batches(Connections):
    """The fifth layer of an engine: harvests, batches, and their dispatch.

    Attributes:
        batch: the last one, while it is dispatched or its user's.
        valid: the number of the batch that may be read and answered, or 0.
        ends: how many connections have ended with each errno.
        running: the task that runs.
        given: the rows of the batch that is dispatched, as far as they are given.
        handlers: the handlers of the connections (`Handlers`), if any.
        dialled: buffers of the connections that a task has dialled, by the task.
        late: timeouts to be told when this batch has been dispatched.
    """

    def __init__(self, c: Any, arenas: Arenas, objects: Objects) -> None:
        super().__init__(c, arenas, objects)
        self.batches = 0
        self.ends: dict[int, int] = {}
        self.running: Any = None
        self.given: Any = None
        self.handlers: Any = None
        self.late: list[Any] = []
        self.dialled: dict[Any, list[Any]] = {}
        self._ends_before = self.ends  # and before the batch of turn `_counted`
        self._counted = 0
        self._news = False  # whether the last batch has more than messages

    def harvest(self, deadline: float | None, minimum: int, delay_ns: int) -> Any:
        """A batch. The caller sets `received` to False once it has the batch."""
        if self.thread != get_ident() or self.c is None:
            self.claim()
        if self.state is not IDLE:
            raise RuntimeError("harvest() cannot be called in a handler or timer")
        try:
            self.state = TURNING  # a signal handler may neither close nor harvest
            result = self.exchange(deadline, minimum, delay_ns)
            if self.c is None:  # a call, or a signal handler, has closed it
                batch = self.objects.batch(self, self.arena, 0, None, False, -1)
                return batch  # noqa: RET504 (behind a call a signal may strike)
            # The batch may be made again, where a signal handler raises before the
            # caller has noted that it has the batch.
            arena = self.arena
            if result & LARGE:
                arena = self.arenas.adopt(self.turn.arena)
                self.stale = True
            if len(self.services) > 1:
                self.serving = self.services[self.turn.service]
            gap = self.serving.gap if result & GAPS else None
            rows, news = result >> MESSAGES, result & OTHER_ROWS != 0
            if self.splitting is not None:
                arena, rows = self.splitting.split(arena, rows, gap)
            self.batches += 1
            batch = self.objects.batch(self, arena, rows, gap, news, self.batches)
            self.valid = self.batches
            # An empty batch is not kept: it would hold a mux that is dropped.
            self.batch = batch if news or rows else None
            self._news = news
            return batch
        finally:  # whatever a signal handler that raised has left behind
            self.state = IDLE
            if self.close_asked:
                self.close_now()

    def serve(self, deadline: float | None) -> None:
        """Dispatch one harvest of an engine whose services all have dispatchers. It
        may close the engine."""
        form = self.services[0].dispatcher
        assert form is not None
        batch = self.harvest(deadline, form.min_messages, form.delay_ns)
        if self.c is not None:
            self.dispatch(batch)

    def dispatch(self, batch: Any) -> None:
        """Dispatch a batch to its service's dispatcher. It may close the engine."""
        dispatcher = self.serving.dispatcher
        try:
            self.received = False
            self.state = DISPATCHING
            if dispatcher is not None:
                dispatcher(batch)
            if self.late:
                self._run_late()
            elif self.counts.shortages != self._shortages:
                self.warn_of_shortage()
        finally:
            self.state = IDLE
            if self.batch is not None:  # valid on, for a handler that kept it
                batch, self.batch = self.batch, None
                if self._news and self.c is not None:
                    self.objects.forget(self, batch)
            if self.close_asked:
                self.close_now()

    def harvest_and_dispatch(
        self, deadline: float | None, minimum: int, delay_ns: int
    ) -> Any:
        """A harvest for the caller, who is service 0 and has no dispatcher. Rows of
        another service are dispatched, and the batch that is returned is empty."""
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
        """End the waits of coroutines to which this batch brought nothing in time."""
        while self.late and self.c is not None:
            task, timer, timeout = self.late.pop(0)
            task.time_out(timer, timeout)

    def leave(self, error: BaseException) -> None:
        """A handler raised what is to leave pymux. Here it does so at once."""
        raise error

    def forget_batch(self) -> None:
        batch, self.batch = self.batch, None
        if self._news and self.c is not None:
            self.objects.forget(self, batch)

    def count_ends(self, numbers: list[int]) -> None:
        """Count the ends of this turn, once, however often its batch is made."""
        if self._counted != self.turns:
            self._ends_before, self._counted = self.ends, self.turns
        ends = self._ends_before.copy()
        for number in numbers:
            ends[number] = ends.get(number, 0) + 1
        self.ends = ends
