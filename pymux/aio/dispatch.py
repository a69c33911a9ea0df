"""Handlers in an asyncio loop, where a coroutine handler is a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..handlers.all import Handlers
from ..handlers.base import Dispatcher, OnError
from ..handlers.coroutine import CoroutineDispatcher
from ..objects.connection import Connection
from ..objects.status import drop_buffer, fail, is_closed, set_buffer
from ..values.errors import FATAL
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
        try:
            task = reader.task = self.engine.loop.create_task(coroutine)
        except BaseException as error:  # a task factory's, or Ctrl-C in an eager task
            self.readers.discard(reader)
            coroutine.close()
            self.failed(conn, error)
            return
        task.add_done_callback(lambda task: self.ended(reader, task))
        self.engine.expect_sends()

    def ended(self, reader: Reader, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that returned, raised or was
        cancelled."""
        conn = reader.conn
        reader.task = None
        self.readers.discard(reader)
        if self.engine.thread == FORKED:
            return
        error = None if task.cancelled() else task.exception()
        try:
            if isinstance(error, FATAL):  # the task has raised it into the loop
                fail(conn, error)
            elif error is not None:
                self.failed(conn, error)
            if not is_closed(conn):
                conn.close()
        finally:  # on_error may raise
            reader.over = True
            if reader.gone:
                drop_buffer(conn)  # no cycle is left behind
            if not self.engine.loop.is_closed():
                reader.wake()  # other tasks may wait for the connection
                self.engine.touched()

    def outlived(self, task: Any) -> None:
        """Drop the reader of a connection that has ended, unless its handler runs."""
        if task not in self.readers:
            drop_buffer(task.conn)

    @property
    def outlives(self) -> bool:
        return any(reader.gone for reader in self.readers)

    def abandon(self) -> None:
        """Cancel every handler that still runs."""
        for reader in list(self.readers):
            reader.abandon()

    def report(self, conn: Connection | None, error: BaseException) -> None:
        """Pass an error to on_error, else to the loop's exception handler."""
        if self.on_error is not None:
            super().report(conn, error)
            return
        of = f"of {conn!r}" if conn is not None else "of a timer"
        self.engine.loop.call_exception_handler(
            {"message": f"the handler {of} raised", "exception": error}
        )

    def runs(self, task: Any) -> bool:
        """Whether a task runs one of these handlers."""
        coroutine = task.get_coro()
        return any(reader.coroutine is coroutine for reader in self.readers)


class LoopHandlers(Handlers):
    """The handlers of an engine in a loop."""

    def form_of(self, handler: Any) -> type[Dispatcher]:
        form = super().form_of(handler)
        return TaskDispatcher if form is CoroutineDispatcher else form

    def runs(self, task: Any) -> bool:
        """Whether a task runs one of these handlers."""
        tasks = (one for one in self.all if isinstance(one, TaskDispatcher))
        return any(one.runs(task) for one in tasks)
