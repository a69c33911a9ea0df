"""The coroutine form: the mux steps the coroutines, without asyncio."""

from __future__ import annotations

import contextlib
import weakref
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ..engine import clock
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import begin_rows, row_count
from ..objects.status import buffer_of, drop_buffer, is_closed, set_buffer
from ..values.errors import Cancelled
from .base import OnError, repeat
from .buffered import BufferedDispatcher
from .current import HOME
from .generators import Generators
from .tasks import Task

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["CoroutineDispatcher"]

GRACE = 0.4  # seconds in which coroutines may clean up when the server ends


class CoroutineDispatcher(BufferedDispatcher):
    """Runs `async def handler(conn)` once for each connection."""

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        self.orphans: set[Task] = set()  # tasks that outlive their connections
        self.told: set[Task] = set()  # tasks that know that the server ends
        self.until: float | None = None  # when the time to clean up is over
        self.ending: bool = False
        self.context: Context | None = None
        self.generators: Generators = Generators(self)

    def __call__(self, batch: Batch) -> None:
        """Step every coroutine that the batch has messages or news for."""
        rows = row_count(batch)
        if batch.opened and rows:
            begin_rows(batch)
        for conn in batch.opened:
            self.begin(conn)
        if rows:
            self.messages(batch)
        self.news(batch)
        self.tell_closed(batch)
        self.failed_to_connect(batch)

    def begin(self, conn: Connection) -> None:
        """Start the coroutine of a new connection."""
        if self.ending:
            return
        base = copy_context() if self.context is None else self.context
        home = weakref.ref(self.engine)
        if base.get(HOME) is not home:  # the first connection
            base.run(HOME.set, home)
        context = base.copy()
        try:
            coroutine = context.run(self.handler, conn)
        except BaseException as error:
            self.failed(conn, error)
            return
        task = Task(conn, coroutine, self, context)
        set_buffer(conn, task)
        self.tell_waits(conn)
        task.resume(None)

    def tell_closed(self, batch: Batch) -> None:
        """Tell the tasks of closed connections."""
        for conn, error in batch.closed:
            task = buffer_of(conn)
            if task is not None:
                self.outlived(task)
                if self.late and task.ends_wait():
                    self.told.add(task)
                task.end(error, True)
                nursery = self.engine.nurseries.get(task)
                if nursery is not None:
                    nursery.end("the connection has ended")

    def outlived(self, task: Task) -> None:
        """Keep a task whose connection has ended before its coroutine."""
        self.orphans.add(task)

    def finished(self, task: Task, error: BaseException | None) -> None:
        """Close the connection of a coroutine that has returned or raised, once all
        that it has spawned have ended too."""
        if self.engine.nurseries and self._has_spawned(task, error):
            return
        conn = task.conn
        drop_buffer(conn)
        self.forget(task)
        if self.engine.dialled:
            task.close_dialled()
        if error is not None and not (is_closed(conn) and type(error) is Cancelled):
            self.failed(conn, explained(error))
        if not is_closed(conn):
            conn.close()

    def _has_spawned(self, task: Task, error: BaseException | None) -> bool:
        """Finish a task that has spawned others, or wait for them. False if it has
        not."""
        nursery = self.engine.nurseries.get(task)
        if nursery is None:
            return False
        if not nursery.joins(error):  # the nursery is over
            try:
                nursery.end("the handler has ended")
            finally:
                self.finished(task, error)
        return True

    def forget(self, task: Task) -> None:
        """Forget a task that has ended."""
        self.orphans.discard(task)
        self.told.discard(task)
        self.engine.aware.discard(task)

    # --- what a nursery needs ---------------------------------------------------

    def is_told(self, task: Task) -> bool:
        """Return True if a task knows that the server ends."""
        return self.ending or task in self.told

    def let_clean_up(self, task: Task) -> None:
        """Keep a spawned task that is about to be cancelled until it has ended."""
        self.orphans.add(task)
        self.told.add(task)

    def child_failed(self, conn: Connection, error: BaseException) -> None:
        """End a connection: a coroutine that its handler has spawned has raised."""
        self.failed(conn, explained(error))
        if not is_closed(conn):
            conn.close()

    # --- its end ----------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Return True if coroutines outlive their connections, or generators are
        being finished."""
        return bool(self.orphans or self.generators.closers)

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread step coroutines while the block runs. Each coroutine
        starts with a copy of the thread's present context."""
        self.context = copy_context()
        return self.generators.watched()

    def bereave(self) -> None:
        """Keep the tasks: their connections, which lead to them, end now."""
        for conn in self.engine.table:
            task = None if conn is None else buffer_of(conn)
            if isinstance(task, Task) and task.owner is self:
                self.orphans.add(task)
                nursery = self.engine.nurseries.get(task)
                if nursery is not None:
                    self.orphans.update(nursery.children())

    def cleans_up(self) -> bool:
        """Tell the coroutines that time is over; True if one is still cleaning up."""
        if self.until is None:
            self.until = clock.now() + GRACE
            self.engine.call_later(GRACE, int)  # the timer ends the harvest
        self.interrupt(None)
        return self.busy and clock.now() < self.until

    def interrupt(self, cause: BaseException | None) -> None:
        """Tell each coroutine once that the server ends."""
        self.bereave()
        for task in spawned_first(self.orphans - self.told):
            if task in self.orphans:  # it has not ended with another one
                self.told.add(task)
                task.interrupt(cause)

    def clean_up(self) -> None:
        """Serve for at most GRACE seconds while the coroutines clean up."""
        engine = self.engine
        if self.until is None:
            self.until = clock.now() + GRACE
        with contextlib.suppress(OSError):  # a failing harvest may end the server
            while self.busy and engine.c is not None and clock.now() < self.until:
                engine.serve(self.until)

    def abandon(self) -> None:
        """Close the coroutines that still wait in an await."""
        for task in [*spawned_first(self.orphans), *self.generators.closers]:
            task.abandon()

    def wind_up(self, cause: BaseException | None) -> None:
        """Interrupt the coroutines, let them clean up, and close the rest.
        Then do the same for the generators that the coroutines have left."""
        self.ending = True
        raised: list[BaseException] = []
        repeat(raised, self.interrupt, cause)
        repeat(raised, self.clean_up)
        repeat(raised, self.abandon)
        self.until = None
        repeat(raised, self.generators.finish_all)
        repeat(raised, self.clean_up)
        repeat(raised, self.abandon)
        if raised and cause is None:
            raise raised[0]


def spawned_first(tasks: set[Task]) -> list[Task]:
    """List tasks, those that were spawned before the ones that wait for them."""
    return sorted(tasks, key=lambda task: task.family is task)


def explained(error: BaseException) -> BaseException:
    """Return a better error if asyncio has no running loop: its own gives no advice."""
    if not isinstance(error, RuntimeError) or "no running event loop" not in str(error):
        return error
    better = RuntimeError(
        "asyncio has no running loop here: a coroutine handler runs on the mux; "
        "to use asyncio in it, serve with pymux.aio"
    )
    better.__cause__ = error
    return better
