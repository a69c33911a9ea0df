"""A connection's messages, and the asyncio tasks that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING, Any

from ..handlers.buffer import ReceiveBuffer
from ..objects.connection import Connection
from ..values.checks import duration

if TYPE_CHECKING:
    from .loop import LoopEngine

__all__ = ["Reader"]


class Reader(ReceiveBuffer):
    """A connection's messages, and the tasks that wait for something of it."""

    __slots__ = ("coroutine", "ends", "flushes", "gone", "opening", "task", "waiter")

    engine: LoopEngine

    def __init__(self, conn: Connection, coroutine: Any = None) -> None:
        super().__init__(conn)
        self.coroutine: Any = coroutine  # of a handler,
        self.task: asyncio.Task[Any] | None = None  # and what steps it
        self.gone: bool = False
        self.opening: asyncio.Future[None] | None = None
        self.waiter: asyncio.Future[None] | None = None  # for input
        self.flushes: list[asyncio.Future[None]] = []  # for output to fall
        self.ends: list[asyncio.Future[None]] = []  # for the end

    # --- what the dispatcher tells ----------------------------------------

    def deliver(self, data: bytes) -> None:
        """A message came."""
        self.keep((data,))
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Several came."""
        self.keep(messages)
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def drained(self) -> None:
        """Output fell under low water."""
        self._settle(self.flushes)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """The stream has ended (error None), or the connection is gone."""
        self.note_end(error, gone)
        self.wake()
        if gone:
            self.gone = True
            self._settle(self.flushes)
            self._settle(self.ends)
            opening, self.opening = self.opening, None
            if opening is not None and not opening.done():
                error = error or OSError(errno.ECONNABORTED, "the mux was closed")
                opening.set_exception(error)

    def end_with_loop(self) -> None:
        """The mux was closed after its loop: nobody is left to be woken."""
        self.note_end(None, True)
        self.gone = True

    def abandon(self) -> None:
        """Cancel the handler where it waits, once."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()

    def is_at_work(self) -> bool:
        """Whether no task waits for what the peer does."""
        return self.waiter is None and not self.flushes

    def shut(self) -> None:
        super().shut()
        self.wake()

    def wake(self) -> None:
        """Let who waits for input look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
            self.engine.expect_sends()

    def _settle(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
        futures.clear()
        self.engine.expect_sends()

    # --- waiting, in a task ------------------------------------------------

    async def wait_for_input(self, timeout: float | None) -> None:
        """Until there is a message or the end."""
        timeout = duration("timeout", timeout)
        engine = self.engine
        if engine.is_over():  # without a word of its loop, which has closed
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
            # The future knows its error, whose traceback knows this frame.
            del waiter, over
            if timer is not None:
                timer.cancel()

    def _time_is_over(self, waiter: asyncio.Future[None], timeout: float) -> None:
        """The loop may have been busy: what came in time is looked for first."""
        if waiter.done():
            return
        engine = self.engine
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
        """Until the futures of `flushes` or `ends` are settled."""
        if self.engine.is_over():
            return
        future = self.engine.loop.create_future()
        futures.append(future)
        try:
            await future
        finally:
            with contextlib.suppress(ValueError):  # it is settled
                futures.remove(future)
