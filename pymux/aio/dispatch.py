"""Handlers in an asyncio loop, where a coroutine handler is a task."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..handlers.all import Handlers
from ..handlers.base import Dispatcher, OnError
from ..handlers.coroutine import CoroutineDispatcher
from ..handlers.current import HOME
from ..objects.connection import Connection
from ..objects.status import drop_buffer, fail, is_closed, set_buffer
from ..values.errors import FATAL
from .nursery import LoopNursery
from .reader import Reader

if TYPE_CHECKING:
    from .loop import LoopEngine

__all__ = ["LoopHandlers", "ReaderDispatcher", "TaskDispatcher"]


class ReaderDispatcher(CoroutineDispatcher):
    """Brings messages to the readers of their connections."""

    engine: LoopEngine

    def outlived(self, task: Any) -> None:
        """Keep nothing of a connection that has ended."""

    def bereave(self) -> None:
        """Do nothing: the loop holds the tasks."""

    def wind_up(self, cause: BaseException | None) -> None:
        """Do nothing: each task learns of the end from its reader."""

    def cleans_up(self) -> bool:
        """Whether to wait before cancelling: no, a cancelled task can clean up."""
        return False


class TaskDispatcher(ReaderDispatcher):
    """`async def handler(conn)`: an asyncio task for each connection."""

    def __init__(
        self, engine: LoopEngine, handler: Any, on_error: OnError | None
    ) -> None:
        super().__init__(engine, handler, on_error)
        self.readers: set[Any] = self.orphans  # of all tasks that run
        self.nurseries: set[LoopNursery] = set()  # with tasks that handlers spawned

    def begin(self, conn: Any) -> None:
        """Start the task of a connection that has opened."""
        try:
            coroutine = self.handler(conn)
        except BaseException as error:
            self.failed(conn, error)
            return
        reader = Reader(conn, coroutine)
        set_buffer(conn, reader)
        self.tell_waits(conn)
        self.readers.add(reader)
        context = copy_context()
        context.run(HOME.set, weakref.ref(conn))
        try:
            task = reader.task = context.run(self.engine.loop.create_task, coroutine)
        except BaseException as error:  # a task factory's, or Ctrl-C in an eager task
            self.readers.discard(reader)
            coroutine.close()
            self.failed(conn, error)
            return
        task.add_done_callback(lambda task: self.ended(reader, task))
        self.engine.expect_sends()

    def ended(self, reader: Reader, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that returned, raised or was
        cancelled, once all that it has spawned have ended too."""
        reader.task = None
        if self.engine.thread == FORKED:
            self.readers.discard(reader)
            return
        error = None if task.cancelled() else task.exception()
        if reader.nursery is not None:
            if reader.nursery.joins(task):
                return
            reader.nursery.end()
        self.finish(reader, error)

    def finish(self, reader: Reader, error: BaseException | None) -> None:
        """Close the connection of a handler, which has ended with all it spawned."""
        conn = reader.conn
        reader.nursery = None  # no cycle is left behind
        self.readers.discard(reader)
        self.engine.aware.discard(reader)
        try:
            if error is not None:
                self.failed_in_task(conn, error)
            if not is_closed(conn):
                conn.close()
        finally:  # on_error may raise
            reader.over = True
            if reader.gone:
                drop_buffer(conn)  # no cycle is left behind
            if not self.engine.loop.is_closed():
                reader.wake()  # other tasks may wait for the connection
                self.engine.touched()

    def failed_in_task(self, conn: Connection, error: BaseException) -> None:
        """End a connection: a task of its handler has raised."""
        if isinstance(error, FATAL):  # the task has raised it into the loop
            fail(conn, error)
        else:
            self.failed(conn, error)
        if not is_closed(conn):
            conn.close()

    def outlived(self, task: Any) -> None:
        """Drop the reader of a connection that has ended, unless its handler runs.
        Cancel what the handler has spawned."""
        if task.nursery is not None:
            task.nursery.end()
        if task not in self.readers:
            drop_buffer(task.conn)

    @property
    def busy(self) -> bool:
        """Whether a handler or what it has spawned runs."""
        return super().busy or bool(self.nurseries)

    @property
    def outlives(self) -> bool:
        return any(reader.gone for reader in self.readers) or any(
            nursery.reader.gone for nursery in self.nurseries
        )

    def abandon(self) -> None:
        """Cancel every handler that still runs, and what handlers have spawned."""
        for reader in list(self.readers):
            reader.abandon()
        for nursery in list(self.nurseries):
            nursery.end()

    def report(
        self, conn: Connection | None, error: BaseException, what: str = ""
    ) -> None:
        """Pass an error to on_error, else to the loop's exception handler."""
        if self.on_error is not None:
            super().report(conn, error, what)
            return
        if conn is not None:
            what = f"the handler of {conn!r}"
        self.engine.loop.call_exception_handler(
            {"message": f"{what} raised", "exception": error}
        )

    def runs(self, task: Any) -> bool:
        """Whether a task runs one of these handlers, or was spawned by one."""
        if any(task in nursery.tasks for nursery in self.nurseries):
            return True
        coroutine = task.get_coro()
        return any(reader.coroutine is coroutine for reader in self.readers)


class LoopHandlers(Handlers):
    """The handlers of an engine in a loop."""

    def form_of(self, handler: Any) -> type[Dispatcher]:
        form = super().form_of(handler)
        return TaskDispatcher if form is CoroutineDispatcher else form

    def say_stopping(self) -> None:
        """Tell the handlers, unless the loop has closed: then nothing can be sent."""
        engine: Any = self.engine
        if not engine.loop.is_closed():
            super().say_stopping()

    def runs(self, task: Any) -> bool:
        """Whether a task runs one of these handlers, or was spawned by one."""
        return any(one.runs(task) for one in self._of_tasks())

    def dispatcher_of(self, reader: Any) -> TaskDispatcher | None:
        """Return the dispatcher of a connection whose handler, or what it has
        spawned, runs."""
        for one in self._of_tasks():
            if reader in one.readers:
                return one
        return None

    def _of_tasks(self) -> list[TaskDispatcher]:
        return [one for one in self.all if isinstance(one, TaskDispatcher)]
