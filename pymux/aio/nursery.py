"""`pymux.spawn` in asyncio: the coroutines are tasks, with the rules of a mux's.

handlers/nursery.py says what they are. A task that is cancelled gets
`asyncio.CancelledError`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..handlers.current import HOME, RESTING
from ..handlers.nursery import not_in_a_handler, spawn_in_asyncio
from ..objects.status import buffer_of, is_closed, refusal
from .connection import LoopConnection, loop_of

if TYPE_CHECKING:
    from .dispatch import TaskDispatcher
    from .reader import Reader

__all__ = ["LoopNursery"]


class LoopNursery:
    """The tasks that one connection's handler has spawned.

    Attributes:
        reader: the reader of the connection.
        tasks: those that have not ended.
    """

    def __init__(self, dispatcher: TaskDispatcher, reader: Reader) -> None:
        self.reader: Reader = reader
        self.tasks: set[asyncio.Task[Any]] = set()
        self._dispatcher = dispatcher
        self._ended = False  # the tasks were cancelled
        self._joined = False  # the handler has returned, and waits for the tasks

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Start a task.

        Raises:
            ConnectionClosed: the connection has ended, or was closed.
        """
        reader = self.reader
        if self._ended or is_closed(reader.conn):
            reader.note_told()
            raise reader.closed_error()
        task: asyncio.Task[Any] = reader.engine.loop.create_task(coroutine)
        self.tasks.add(task)
        self._dispatcher.nurseries.add(self)
        task.add_done_callback(self._finished)
        return task

    def is_at_work(self) -> bool:
        """Return True if the peer may be waiting for one of the tasks."""
        return not self.tasks <= RESTING

    def joins(self, handler: asyncio.Task[Any]) -> bool:
        """Return True if the handler has returned, and its tasks go on."""
        failed = handler.cancelled() or handler.exception() is not None
        self._joined = bool(self.tasks) and not failed
        return self._joined

    def end(self) -> None:
        """Cancel the tasks, once: their connection ends."""
        if not self._ended:
            self._ended = True
            for task in self.tasks:
                task.cancel()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        """Take note that a task has ended. Its error ends the connection."""
        reader, dispatcher = self.reader, self._dispatcher
        self.tasks.discard(task)
        if not self.tasks:
            dispatcher.nurseries.discard(self)
        if reader.engine.thread == FORKED:
            return
        error = None if task.cancelled() else task.exception()
        try:
            if error is not None:
                self.end()
                dispatcher.failed_in_task(reader.conn, error)
        finally:
            if error is not None and reader.task is not None:
                reader.engine.aware.add(reader)
                reader.task.cancel()
            if self._joined and not self.tasks:
                self._joined = False
                dispatcher.finish(reader, None)
            elif not reader.engine.loop.is_closed():
                reader.engine.touched()


def _start(coroutine: Any) -> asyncio.Task[Any]:
    """Start a task for the handler in whose context this is called."""
    home = HOME.get(None)
    conn: Any = None if home is None else home()
    if not isinstance(conn, LoopConnection):
        raise not_in_a_handler()
    engine = loop_of(conn)
    if engine.loop is not asyncio.get_running_loop():  # the context was taken along
        raise not_in_a_handler()
    reader, handlers = buffer_of(conn), engine.handlers
    dispatcher = None if handlers is None else handlers.dispatcher_of(reader)
    if dispatcher is None:
        raise refusal(conn)  # its handler has ended
    if reader.nursery is None:
        reader.nursery = LoopNursery(dispatcher, reader)
    return reader.nursery.start(coroutine)  # type: ignore[no-any-return]


spawn_in_asyncio(_start)
