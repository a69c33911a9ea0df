"""The coroutine form: stepped by the mux, without asyncio."""

from __future__ import annotations

import contextlib
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ..engine import clock
from ..engine.ops import WAITS
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import asked_about, begin_rows, for_each_buffer, has_news, row_count
from ..objects.status import buffer_of, is_closed, set_buffer
from .base import Dispatcher, OnError, wholly
from .generators import Generators
from .tasks import Task

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["CoroutineDispatcher"]

GRACE = 0.4  # seconds in which coroutines may clean up when the server ends


class CoroutineDispatcher(Dispatcher):
    """`async def handler(conn)`, once a connection."""

    half_open = True

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        self.orphans: set[Task] = set()  # they run on, their connections gone
        self.told: set[Task] = set()  # those that know that the server ends
        self.until: float | None = None  # they may clean up
        self.ending: bool = False
        self.context: Context | None = None
        self.generators: Generators = Generators(self)

    def __call__(self, batch: Batch) -> None:
        """Step every coroutine that something happened to."""
        news = has_news(batch)
        if news:
            if batch.opened and row_count(batch):
                begin_rows(batch)
            for conn in batch.opened:
                self.begin(conn)
        if row_count(batch):
            self.messages(batch)
        if news:
            self.others(batch)
            self.failed_to_connect(batch)

    def begin(self, conn: Connection) -> None:
        """A connection opened: start its coroutine."""
        if self.ending:
            return
        base = self.context
        context = copy_context() if base is None else base.copy()
        try:
            coroutine = context.run(self.handler, conn)
        except BaseException as error:
            self.failed(conn, error)
            return
        task = Task(conn, coroutine, self, context)
        set_buffer(conn, task)
        self.tell_waits(conn)
        task.resume(None)

    def tell_waits(self, conn: Connection) -> None:
        """Tell the core that a task takes the messages of a connection, and
        has none that it has not answered."""
        self.engine.log.op(conn.id | WAITS)

    def messages(self, batch: Batch) -> None:
        """Give each message to its connection's buffer, which steps the coroutine
        if that waits for one."""
        for_each_buffer(batch)

    def others(self, batch: Batch) -> None:
        """What happened to connections beside messages."""
        for conn in batch.drained:
            if (task := buffer_of(conn)) is not None:
                task.drained()
        for conn in batch.ended:
            if (task := buffer_of(conn)) is not None:
                task.end(None, False)
        for conn in asked_about(batch):
            task = buffer_of(conn)
            if task is not None and not task.is_at_work():
                self.tell_waits(conn)
        for conn, error in batch.closed:
            task = buffer_of(conn)
            if task is not None:
                self.outlived(task)
                if self.late and task.waiting in ("recv", "drain"):
                    self.told.add(task)
                task.end(error, True)

    def outlived(self, task: Task) -> None:
        """A connection has ended before its coroutine."""
        self.orphans.add(task)

    def finished(self, task: Task, error: BaseException | None) -> None:
        """A coroutine has returned or raised: its connection closes."""
        conn = task.conn
        set_buffer(conn, None)
        self.orphans.discard(task)
        self.told.discard(task)
        task.close_dialled()
        if isinstance(error, RuntimeError):
            error = explained(error)
        if error is not None:
            self.failed(conn, error)
        if not is_closed(conn):
            conn.close()

    @property
    def busy(self) -> bool:
        """Whether coroutines outlive their connections, or generators are being
        finished."""
        return bool(self.orphans or self.generators.closers)

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, this thread steps coroutines. Their contexts
        begin as its own is now, whatever timers and calls set in it later."""
        self.context = copy_context()
        return self.generators.watched()

    def bereave(self) -> None:
        """Keep hold of the coroutines, which are found by their connections."""
        for conn in self.engine.table:
            task = None if conn is None else buffer_of(conn)
            if isinstance(task, Task) and task.owner is self:
                self.orphans.add(task)

    def cleans_up(self) -> bool:
        """Tell the coroutines; whether any of them is still cleaning up."""
        if self.until is None:
            self.until = clock.now() + GRACE
            self.engine.call_later(GRACE, int)  # the harvest is to end then
        self.interrupt(None)
        return self.busy and clock.now() < self.until

    def interrupt(self, cause: BaseException | None) -> None:
        """Tell each coroutine, once, that the server ends."""
        self.bereave()
        for task in self.orphans - self.told:
            self.told.add(task)
            task.interrupt(cause)

    def clean_up(self) -> None:
        """Serve while they clean up, for a moment."""
        engine = self.engine
        if self.until is None:
            self.until = clock.now() + GRACE
        with contextlib.suppress(OSError):  # of the harvest, which may have ended it
            while self.busy and engine.c is not None and clock.now() < self.until:
                engine.serve(self.until)

    def abandon(self) -> None:
        """Close the coroutines that are left at their await."""
        for task in [*self.orphans, *self.generators.closers]:
            task.abandon()

    def wind_up(self, cause: BaseException | None) -> None:
        """Tell the coroutines, let them clean up, and close those that do not
        come to an end; then likewise the generators that they have left."""
        self.ending = True
        raised: list[BaseException] = []
        wholly(raised, self.interrupt, cause)
        wholly(raised, self.clean_up)
        wholly(raised, self.abandon)
        self.until = None
        wholly(raised, self.generators.finish_all)
        wholly(raised, self.clean_up)
        wholly(raised, self.abandon)
        if raised and cause is None:
            raise raised[0]


def explained(error: RuntimeError) -> RuntimeError:
    """asyncio's own complaint does not say what to do about it."""
    if "no running event loop" not in str(error):
        return error
    better = RuntimeError(
        "asyncio has no running loop here: a coroutine handler runs on the mux; "
        "to use asyncio in it, serve with pymux.aio"
    )
    better.__cause__ = error
    return better
