"""What users hold in an asyncio loop: connections and batches."""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.made import Made
from ..objects.rows import engine_of as engine_of_batch
from ..objects.status import buffer_of, engine_of, refusal
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .loop import LoopEngine
    from .reader import Reader

__all__ = ["LoopBatch", "LoopConnection", "LoopMade", "loop_of"]

ENTRIES = 32  # entries of the log that count as one wait which is satisfied at once


def loop_of(conn: Connection) -> LoopEngine:
    """The engine of a connection in a loop."""
    return engine_of(conn)  # type: ignore[return-value]


class LoopConnection(Connection):
    """A connection in an asyncio loop.

    As every `pymux.Connection`, but for `recv`, `drain` and iteration: those
    are asyncio's to await, in any task of the loop, on the connections of
    coroutine handlers and of `pymux.aio.connect`. All of it belongs to the
    loop's thread.
    """

    __slots__ = ()

    def send(self, data: Buffer) -> None:
        engine = loop_of(self)
        try:
            super().send(data)
            engine.touched()
        except RuntimeError:
            if not engine.is_over():
                raise
            raise refusal(self) from None

    def send_eof(self) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().send_eof()
            engine.touched()

    def close(self) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().close()
            engine.leave_soon()

    def abort(self) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().abort()
            engine.leave_soon()

    def pause(self) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().pause()
            engine.touched()

    def resume(self) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().resume()
            engine.touched()

    def _reader(self, what: str) -> Reader:
        reader: Reader | None = buffer_of(self)
        engine = loop_of(self)
        if reader is not None and engine.thread == get_ident() and engine.c is not None:
            return reader
        if reader is None and self.closed:
            raise ConnectionClosed(f"{self!r}", connection=self)
        if reader is None or not engine.is_over():
            engine.check()
        if reader is None:
            raise RuntimeError(
                f"{what} is for connections of coroutine handlers and of "
                "pymux.aio.connect(); what comes here goes to the server's handler"
            )
        return reader

    # asyncio's coroutines are awaited as the base's generators are.
    async def recv(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next message.

        Args:
            timeout: seconds to wait, None for ever.

        Returns:
            The message, or None once the peer has ended its stream. A message
            is taken only by a `recv` that returns it: one that is cancelled
            leaves it.

        Raises:
            TimeoutError: nothing came in time; the connection is as before.
            ConnectionClosed: it was lost, and every message has been taken.
            RuntimeError: another task waits in `recv` already.
        """
        if buffer_of(self) is None and self.closed:
            await asyncio.sleep(0)  # nobody is to go on for ever being told
        reader = self._reader("recv()")
        if reader.waiter is not None:
            raise RuntimeError("recv() while another task waits in it: one at a time")
        if not reader.inbox and not reader.over:
            await reader.wait_for_input(timeout)
        elif not reader.inbox and reader.too_eager():
            await asyncio.sleep(0)
        message = reader.take()
        if reader.engine.log.entries:  # reading goes on
            reader.engine.touched()
        return message

    async def drain(self) -> None:
        """Wait until output is under low water, if it is over high water.

        After much output the loop goes one step in any case, in which others
        run and the loss of the peer is noticed.

        Raises:
            ConnectionClosed: the connection was lost.
        """
        if buffer_of(self) is None and self.closed:
            await asyncio.sleep(0)
        reader = self._reader("drain()")
        engine = reader.engine
        if reader.lost is None and not self.closed:
            reader.eager += len(engine.log.entries) // ENTRIES
            engine.submit()
            if self.queued > reader.high_water:
                await reader.wait_in(reader.flushes)
        if reader.too_eager() or engine.handed_over == engine.turns:
            engine.handed_over = -1
            await asyncio.sleep(0)
        if reader.lost is not None:
            raise reader.closed_error()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended on both sides.

        After `close()`: until the output has been sent and the peer has ended
        its stream, or `Limits.close_timeout` seconds have passed without
        progress.
        """
        if buffer_of(self) is None and self.closed:
            return
        reader = self._reader("wait_closed()")
        if not reader.gone:
            await reader.wait_in(reader.ends)

    async def __anext__(self) -> bytes:  # type: ignore[override]
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> LoopConnection:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if loop_of(self).thread != FORKED:  # in a child it is the parent's to close
            self.close()


class LoopBatch(Batch):
    """A batch that may be answered from elsewhere, until the next harvest."""

    __slots__ = ()

    def _touched(self) -> None:
        engine: Any = engine_of_batch(self)
        engine.touched()

    def reply(self, replies: Any) -> None:
        super().reply(replies)
        self._touched()

    def reply_data(self, data: Any, offsets: Any = None) -> None:
        super().reply_data(data, offsets)
        self._touched()


class LoopMade(Made):
    """The objects of a mux in a loop."""

    connection = LoopConnection
    batch = LoopBatch
