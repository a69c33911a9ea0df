"""Connections that tasks have dialled, and the mux that they share in a loop.

An outgoing connection belongs to those who hold it: no handler does. So the
mux's table does not hold it. In its place stands its seat, which holds what
has come for it, and the tasks that wait; those hold the connection. One that
nobody holds any more warns and closes, as asyncio's streams do; what was sent
still leaves.

The mux lives as long as there are connections, a moment longer, and never
longer than its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import time
import warnings
import weakref
from functools import partial
from threading import get_ident
from typing import Any

from .._core import lib
from ..engine.arena import MANY, Arena
from ..engine.backends import choose
from ..mux import FORKED
from ..objects.connection import CLOSE, CLOSED, Connection
from ..server.drain import Drain
from .loop import GuestConnection, GuestMux, Reader, ReaderDispatcher

__all__ = ["OutgoingConnection", "OutgoingMux", "mux_of"]

IDLE = 0.1  # seconds that a mux outlives its last connection: the next may come
LINGER = 5.0  # seconds that the end of the loop gives what was sent, as Client.close


class Seat(Reader):
    """Stands for a connection in its mux's table, without holding it.

    Attributes:
        id: the connection's.
        unclosed: whether the loop has ended before anybody closed it.
    """

    __slots__ = ("_ref", "id", "unclosed")

    def __init__(self, conn: OutgoingConnection) -> None:
        super().__init__(conn)
        self.id: int = conn.id
        self.unclosed: bool = False

    # A connection that is gone was closed, and asks for nothing.

    @property
    def conn(self) -> Any:
        """The connection; this itself, in its place, when that is gone."""
        return self._ref() or self

    @conn.setter
    def conn(self, conn: Connection) -> None:
        self._ref: weakref.ref[Connection] = weakref.ref(conn)

    @property
    def _task(self) -> Seat:
        return self

    @property
    def _status(self) -> int:
        conn = self._ref()
        return CLOSED if conn is None else conn._status

    @_status.setter
    def _status(self, status: int) -> None:
        conn = self._ref()
        if conn is not None:
            conn._status = status

    @property
    def _names(self) -> Any:
        conn = self._ref()
        return None if conn is None else conn._names

    @_names.setter
    def _names(self, names: Any) -> None:
        conn = self._ref()
        if conn is not None:
            conn._names = names

    @property
    def stopping(self) -> bool:
        """Whether the end of the loop has cut its input."""
        conn = self._ref()
        return conn is not None and conn.stopping

    def _keep_addresses(self) -> None:
        conn = self._ref()
        if conn is not None:
            conn._keep_addresses()

    def is_left_open(self) -> bool:
        """Whether somebody holds the connection and has not closed it."""
        conn = self._ref()
        return conn is not None and not conn.closed


class OutgoingConnection(GuestConnection):
    """A connection that a task has dialled.

    It is open for as long as somebody holds it, or waits for something of it.
    One that is dropped before it was closed warns (`ResourceWarning`), and
    closes as by `close()`.
    """

    __slots__ = ()

    mux: OutgoingMux

    @property
    def seat(self) -> Seat:
        """What stands for it in the mux's table."""
        return self._task  # type: ignore[return-value]

    def __del__(self) -> None:
        seat, mux = self._task, self.mux
        if seat is None or mux._owner == FORKED:
            return
        if self.closed and not seat.unclosed:  # type: ignore[attr-defined]
            return
        text = repr(self)
        mux.drop(self)
        warnings.warn(f"unclosed {text}", ResourceWarning, stacklevel=2, source=self)

    def close(self) -> None:
        super().close()
        self.seat.unclosed = False

    def abort(self) -> None:
        super().abort()
        self.seat.unclosed = False

    async def __aexit__(self, *exc: Any) -> None:
        """Close it, and wait until the peer's side has all that was sent.

        That takes at most `Limits.close_timeout` seconds without progress. A
        block that is left by an exception, as by a cancellation, does not
        wait: what was sent leaves while the loop runs on. In a forked child
        the connection is the parent's, and nothing is done.

        Raises:
            ConnectionClosed: it was lost before that.
        """
        if self.mux._owner == FORKED:
            return
        seat = self.seat
        told = seat.gone
        self.close()
        if told or exc[0] is not None:
            return
        pause = 0.001
        while not seat.gone and not self.mux.is_over():
            left = lib.pmx_unacknowledged(self.mux._c, self.id)
            if left == -errno.ENOTSUP:  # what the kernel took counts as delivered
                left = lib.pmx_queued(self.mux._c, self.id)
            if not left:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        if seat.lost is not None:
            raise seat.closed_error()


class SeatDispatcher(ReaderDispatcher):
    """Brings messages to the seats of their connections."""

    def begin(self, conn: Any) -> None:
        """A connection has opened; for whom it was dialled is told."""
        self.tell_waits(conn)
        opening, conn.opening = conn.opening, None
        if opening is not None and not opening.done():
            opening.set_result(None)

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Put each into its connection's inbox."""
        seats = self.mux._table
        runs = arena.runs(seats, rows) if rows >= MANY else None
        if runs is not None:
            messages, at = arena.messages(rows, gap), 0
            for seat, length in runs:
                if not seat.over:
                    seat.deliver_all(messages[at : at + length])
                at += length
            return
        for seat, data in zip(arena.conns(seats, rows), arena.cut(rows, gap)):
            if not seat.over:
                seat.deliver(data)


# The mux of a loop's outgoing connections, by the loop's id and the backend. The
# loop keeps it alive: it watches its descriptor until it is closed.
_MUXES: weakref.WeakValueDictionary[tuple[int, bytes | None], OutgoingMux]
_MUXES = weakref.WeakValueDictionary()


class OutgoingMux(GuestMux):
    """The mux of the connections that were dialled in a loop."""

    _kind = OutgoingConnection

    def __init__(self, loop: asyncio.AbstractEventLoop, backend: str | None) -> None:
        self._key = id(loop), choose(backend)
        self._drain: Drain | None = None  # when the loop ends
        self._ended: asyncio.Future[None]
        self._idle: asyncio.TimerHandle | None = None
        self._dialling = False
        super().__init__(loop, backend)
        # Nothing is kept of the context of who happened to dial first.
        self._context = contextvars.Context()
        self._on_callback_error = partial(_report, loop)
        try:
            self.join(SeatDispatcher(weakref.proxy(self), None, None))
        except BaseException:
            self.close()
            raise

    def _conn(self, id: int) -> Any:
        """The seat of a connection; itself, while it is dialled."""
        slot = id & 0xFFFFFFFF
        table = self._table
        while slot >= len(table):
            table.append(None)
        seat = table[slot]
        if seat is not None and seat.id == id:
            return seat
        conn = OutgoingConnection(self, id)
        conn._task = table[slot] = Seat(conn)
        if self._dialling:
            return conn
        Connection.abort(conn)  # a signal's handler has interrupted the dialling
        return conn.seat

    def _dial(self, *args: Any) -> OutgoingConnection:
        self._dialling = True
        try:
            return super()._dial(*args)  # type: ignore[return-value]
        finally:
            self._dialling = False

    def listen(self, *args: Any, **options: Any) -> Any:
        """Not here: nobody would get what is accepted."""
        raise RuntimeError(
            "this mux has outgoing connections only; to serve, use pymux.aio.serve()"
        )

    def drop(self, conn: OutgoingConnection) -> None:
        """Nobody holds a connection any more: close it. Any thread may be the
        one that finds out, in the middle of whatever it does."""
        if self.is_over():
            return
        if self._owner == get_ident():
            Connection.close(conn)
            self.touched()
        else:
            conn._status, conn.seat.over = CLOSED, True
            self.call_threadsafe(self._log.op, conn.id | CLOSE)

    # --- its end ------------------------------------------------------------

    def _is_used(self) -> bool:
        """Its connections warn themselves."""
        return False

    def _after(self) -> None:
        """Something may have ended: if it was the last connection, close."""
        if self._c is None:
            if self._drain is not None:
                self._drain = None
                self._ended.set_result(None)
        elif self._drain is not None:
            if self._drain.over():
                self._close_now()
        elif self._idle is None and not self._counts.connections:
            self._idle = self.loop.call_later(
                IDLE, self._close_idle, context=self._context
            )

    def _close_idle(self) -> None:
        self._idle = None
        if self._c is None or self._drain is not None or any(self._table):
            return
        if self._calls or self._timers.next() is not None:
            return  # their turn looks again
        self.adopt_thread()
        self._close_now()

    async def finish(self) -> None:
        """Close what is open, and have what was sent delivered. Then the rest
        is reset."""
        self.adopt_thread()
        for seat in self._table:
            if seat is not None and seat.is_left_open():
                seat.conn.close()
                seat.unclosed = True
        self._ended = self.loop.create_future()
        self._drain = Drain(self, self._dispatcher)
        self._drain.begin(time.monotonic() + LINGER)
        self.touched()
        await asyncio.wait([self._ended])

    def _free(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.loop.is_closed() and not self.forked():
            for seat in self._table:
                if seat is not None and seat.is_left_open():
                    seat.unclosed = True
        super()._free()
        if _MUXES.get(self._key) is self:
            del _MUXES[self._key]


def _report(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    loop.call_exception_handler(
        {"message": "a timer of a connection's mux raised", "exception": error}
    )


def mux_of(loop: asyncio.AbstractEventLoop, backend: str | None) -> OutgoingMux:
    """The mux of a loop's outgoing connections, made where there is none."""
    key = id(loop), choose(backend)
    mux = _MUXES.get(key)
    if mux is None or mux._c is None or mux.loop is not loop or mux.forked():
        mux = _MUXES[key] = OutgoingMux(loop, backend)
    mux.adopt_thread()
    return mux
