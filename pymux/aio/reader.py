"""A connection's messages, and the asyncio tasks that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING, Any

from ..handlers.buffer import ReceiveBuffer
from ..handlers.current import RESTING
from ..objects.connection import Connection
from ..values.checks import duration

if TYPE_CHECKING:
    from .loop import LoopEngine
    from .nursery import LoopNursery

__all__ = ["Reader"]


class Reader(ReceiveBuffer):
    """A connection's messages, and the futures of the tasks that wait for it.

    Attributes:
        coroutine: of the connection's handler, None if there is no handler.
        task: the task of that coroutine while it runs.
        gone: whether the connection has ended on both sides.
        opening: the future of the task that connects.
        waiter: the future of the task that waits for input.
        flushes: the futures of tasks that wait until output is under low water.
        ends: the futures of tasks that wait for the end.
        nursery: the tasks that the handler has spawned, once it has.
    """

    __slots__ = (
        "coroutine",
        "ends",
        "flushes",
        "gone",
        "nursery",
        "opening",
        "task",
        "waiter",
    )

    engine: LoopEngine

    def __init__(self, conn: Connection, coroutine: Any = None) -> None:
        super().__init__(conn)
        self.coroutine: Any = coroutine
        self.task: asyncio.Task[Any] | None = None
        self.gone: bool = False
        self.opening: asyncio.Future[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.flushes: list[asyncio.Future[None]] = []
        self.ends: list[asyncio.Future[None]] = []
        self.nursery: LoopNursery | None = None

    # --- called by the dispatcher -----------------------------------------

    def deliver(self, data: bytes) -> None:
        """Take a message."""
        self.keep((data,))
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Take several messages."""
        self.keep(messages)
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def drained(self) -> None:
        """Wake the tasks that wait for output to fall under low water."""
        self._settle(self.flushes)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """Wake the tasks: the peer's stream has ended, or (`gone`) the connection."""
        self.note_end(error, gone)
        self.wake()
        if gone:
            self.gone = True
            if self.waiting is not None and self not in self.engine.aware:
                self.waiting.look()
            self._settle(self.flushes)
            self._settle(self.ends)
            opening, self.opening = self.opening, None
            if opening is not None and not opening.done():
                error = error or OSError(errno.ECONNABORTED, "the mux was closed")
                opening.set_exception(error)

    def end_with_loop(self) -> None:
        """Note that the mux was closed after its loop, which runs no task more."""
        self.note_end(None, True)
        self.gone = True

    def abandon(self) -> None:
        """Cancel the handler, once."""
        task, self.task = self.task, None
        if task is not None:
            self.engine.aware.add(self)
            task.cancel()

    def is_at_work(self) -> bool:
        """Whether no task waits for the peer, or one that was spawned works."""
        if self.nursery is not None and self.nursery.is_at_work():
            return True
        return self.waiter is None and not self.flushes

    def shut(self) -> None:
        super().shut()
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits for input."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
            self.engine.expect_sends()

    def _settle(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
        futures.clear()
        self.engine.expect_sends()

    # --- the handler's task -------------------------------------------------

    def is_run_by(self, task: Any) -> bool:
        """Whether a task runs the connection's handler."""
        coroutine = None if task is None else task.get_coro()
        return coroutine is not None and coroutine is self.coroutine

    def note_told(self) -> None:
        task = asyncio.current_task(self.engine.loop)
        if self.is_run_by(task):
            self.engine.aware.add(self)

    # --- called by tasks ---------------------------------------------------

    async def wait_for_input(self, timeout: float | None) -> None:
        """Wait until there is a message or the end."""
        timeout = duration("timeout", timeout)
        engine = self.engine
        if engine.is_over():  # its loop was closed
            return
        timer = over = None
        waiter = self.waiter = engine.loop.create_future()
        if timeout is not None:
            over = partial(self._time_is_over, waiter, timeout)
            timer = engine.loop.call_later(timeout, over, context=engine.context)
        try:
            await waiter
        finally:
            self.waiter = None
            # The future holds its error, whose traceback holds this frame.
            del waiter, over
            if timer is not None:
                timer.cancel()

    def _time_is_over(self, waiter: asyncio.Future[None], timeout: float) -> None:
        """Time out. A busy loop may be late, so first look for what came in time."""
        if waiter.done():
            return
        engine = self.engine
        if engine.has_woken():
            again = partial(self._time_is_over, waiter, timeout)
            engine.loop.call_soon(again, context=engine.context)
            return
        try:
            engine.take_turn()
        finally:
            if waiter.done():
                pass
            elif engine.expects(self.conn.id):
                again = partial(self._time_is_over, waiter, timeout)
                engine.loop.call_soon(again, context=engine.context)
            else:
                error = TimeoutError(f"recv(): no message within {timeout} seconds")
                waiter.set_exception(error)

    async def wait_in(self, futures: list[asyncio.Future[None]]) -> None:
        """Wait until the futures of `flushes` or `ends` are settled."""
        if self.engine.is_over():
            return
        future = self.engine.loop.create_future()
        futures.append(future)
        task = asyncio.current_task()
        RESTING.add(task)
        try:
            await future
        finally:
            RESTING.discard(task)
            with contextlib.suppress(ValueError):  # a settled future was removed
                futures.remove(future)
