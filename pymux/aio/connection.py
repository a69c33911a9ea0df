"""What users hold in an asyncio loop: connections and batches."""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..handlers.timeouts import Timeout
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.made import Made
from ..objects.rows import engine_of as engine_of_batch
from ..objects.status import buffer_of, engine_of, refusal
from ..values.checks import duration
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..values.framing import Framing
    from .loop import LoopEngine
    from .reader import Reader

__all__ = ["LoopBatch", "LoopConnection", "LoopMade", "loop_of"]

ENTRIES = 32  # so many entries of the log count as one wait that ended at once


def loop_of(conn: Connection) -> LoopEngine:
    """The engine of a connection in a loop."""
    return engine_of(conn)  # type: ignore[return-value]  # made by LoopMade


class LoopConnection(Connection):
    """A connection in an asyncio loop.

    A `pymux.Connection` whose `recv`, `drain` and iteration any task of the loop may
    await. The connections of coroutine handlers and of `pymux.aio.connect` have
    these. A connection belongs to the loop's thread.
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

    def fail(self, error: BaseException) -> None:
        engine = loop_of(self)
        if not engine.is_over():
            super().fail(error)
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

    @property
    def queued(self) -> int:
        return 0 if loop_of(self).is_over() else super().queued

    def set_framing(self, framing: Framing | None, unread: Buffer = b"") -> None:
        super().set_framing(framing, unread)
        loop_of(self).touched()  # input that is cut anew waits for a turn

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
                "pymux.aio.connect(); the server's handler gets these messages"
            )
        return reader

    async def recv(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next message.

        Args:
            timeout: seconds to wait, None for ever.

        Returns:
            The message, or None once the peer has ended its stream. A `recv`
            that is cancelled takes no message.

        Raises:
            TimeoutError: nothing came in time; the connection is as before.
            ConnectionClosed: the connection was lost, and every message was taken.
            RuntimeError: another task waits in `recv` already.
        """
        if buffer_of(self) is None and self.closed:
            await asyncio.sleep(0)  # let others run, if the task calls in a loop
        reader = self._reader("recv()")
        if reader.waiter is not None:
            raise RuntimeError("recv() while another task waits in it: one at a time")
        if not reader.untaken and not reader.over:
            await reader.wait_for_input(timeout)
        elif not reader.untaken and reader.too_eager():
            await asyncio.sleep(0)
        message = reader.take()
        if reader.engine.log.entries:  # resume reading
            reader.engine.touched()
        return message

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until output is under low water, if output is over high water.

        After much output `drain` waits for one step of the loop in any case. In that
        step other tasks run, and the loss of the connection is noticed.

        Args:
            timeout: seconds to wait, None for ever.

        Raises:
            TimeoutError: output was not under low water in time; it stays queued.
            ConnectionClosed: the connection was lost.
        """
        if duration("timeout", timeout) is not None:
            text = f"drain(): not under low water within {timeout} seconds"
            async with Timeout(timeout, text):
                await self.drain()
            return
        if buffer_of(self) is None and self.closed:
            await asyncio.sleep(0)
        reader = self._reader("drain()")
        engine = reader.engine
        waited = False
        if reader.lost is None and not self.closed:
            reader.eager += len(engine.log.entries) // ENTRIES
            waited = self.queued > reader.high_water
            engine.submit()
            if self.queued > reader.high_water:
                await reader.wait_in(reader.flushes)
        if reader.too_eager() or engine.handed_over == engine.turns:
            engine.handed_over = -1
            waited = True
            await asyncio.sleep(0)
        if waited and not self.closed and engine.is_lost(self.id):
            # The core has discarded the output. It reports the loss soon.
            await reader.wait_in(reader.flushes)
        if reader.lost is not None:
            reader.note_told()
            raise reader.closed_error()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended on both sides.

        After `close()` this takes until the output has been sent and the peer has
        ended its stream, or until `Limits.close_timeout` seconds have passed without
        progress.
        """
        if buffer_of(self) is None and self.closed:
            return
        reader = self._reader("wait_closed()")
        if not reader.gone:
            await reader.wait_in(reader.ends)

    async def __anext__(self) -> bytes:  # type: ignore[override]  # for tasks
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> LoopConnection:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if loop_of(self).thread != FORKED:  # in a child, the parent closes it
            self.close()


class LoopBatch(Batch):
    """A batch that any code of the loop may answer until the next harvest."""

    __slots__ = ()

    def _touched(self) -> None:
        engine: Any = engine_of_batch(self)
        engine.touched()

    def reply(self, replies: Any) -> None:
        super().reply(replies)
        self._touched()

    def reply_data(self, data: Any, offsets: Any = None, *, mask: Any = None) -> None:
        super().reply_data(data, offsets, mask=mask)
        self._touched()


class LoopMade(Made):
    """The objects of a mux in a loop."""

    connection: type[Connection] = LoopConnection
    batch: type[Batch] = LoopBatch
