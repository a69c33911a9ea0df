"""Connections that tasks have dialled, and the mux that they share in a loop.

An outgoing connection has no handler that holds it, and belongs to the code that
refers to it. So the mux's table does not hold the connection either: the table has
its seat, with the messages that have come and the futures of the tasks that wait.
Those tasks hold the connection. A connection without references warns and closes, as
asyncio's streams do, and what was sent still leaves.

The mux lives while it has connections, and OUTLIVES seconds longer, but never longer
than its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from ..engine import clock
from ..engine.backends import choose
from ..engine.engine import Engine
from ..engine.ops import CLOSE
from ..engine.owner import FORKED
from ..objects.base import engine_of, mux_with
from ..objects.connection import Connection
from ..objects.status import CLOSED, buffer_of, mark_closed, set_buffer
from ..server.drain import Drain
from .connection import LoopConnection, loop_of
from .dispatch import ReaderDispatcher
from .loop import LoopEngine, LoopMux
from .reader import Reader

__all__ = ["OutgoingConnection", "engine_in"]

OUTLIVES = 0.1  # seconds that a mux waits for another connection after its last one
LINGER = 5.0  # seconds that the loop's end waits for output, as Client.close does

_OF_CONNECTIONS: Any = Connection


class Seat(Reader):
    """Stands for a connection in its mux's table, without a reference to it.

    A connection that is gone was closed, and needs nothing more.

    Attributes:
        id: the connection's id.
        unclosed: whether the loop ended before the connection was closed.
    """

    __slots__ = ("_last_names", "_ref", "id", "unclosed")

    engine: OutgoingEngine

    def __init__(self, conn: OutgoingConnection) -> None:
        super().__init__(conn)
        self.id: int = conn.id
        self.unclosed: bool = False
        self._last_names: Any = None  # of a connection that is gone

    @property
    def conn(self) -> Any:
        """The connection, or this seat once the connection is gone."""
        return self._ref() or self

    @conn.setter
    def conn(self, conn: Connection) -> None:
        self._ref: weakref.ref[Connection] = weakref.ref(conn)

    # Lines in the log say of a seat what they say of a connection.

    def __repr__(self) -> str:
        return str(_OF_CONNECTIONS.__repr__(self))

    _address_text = _OF_CONNECTIONS._address_text
    _addresses = _OF_CONNECTIONS._addresses
    closed = _OF_CONNECTIONS.closed
    peer = _OF_CONNECTIONS.peer
    local = _OF_CONNECTIONS.local
    stopping = _OF_CONNECTIONS.stopping

    # The functions of objects/status.py need these.

    @property
    def _buffer(self) -> Seat:
        return self

    @property
    def _engine(self) -> LoopEngine:
        return self.engine

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
        return self._last_names if conn is None else conn._names

    @_names.setter
    def _names(self, names: Any) -> None:
        conn = self._ref()
        if conn is not None:
            conn._names = names
        else:
            self._last_names = names

    def is_left_open(self) -> bool:
        """Whether the connection exists and was not closed."""
        conn = self._ref()
        return conn is not None and not conn.closed


class OutgoingConnection(LoopConnection):
    """A connection that a task has dialled.

    The connection is open while there is a reference to it, or a task waits for it. A
    connection that is dropped before it was closed warns (`ResourceWarning`), and
    closes as by `close()`.
    """

    __slots__ = ()

    @property
    def seat(self) -> Seat:
        """The connection's entry in the mux's table."""
        seat: Seat = buffer_of(self)
        return seat

    def __del__(self) -> None:
        seat = self.seat
        if seat is None or seat.engine.thread == FORKED:
            return
        if self.closed and not seat.unclosed:
            return
        text = repr(self)
        seat.engine.drop(self)
        warnings.warn(f"unclosed {text}", ResourceWarning, stacklevel=2, source=self)

    def close(self) -> None:
        super().close()
        self.seat.unclosed = False

    def abort(self) -> None:
        super().abort()
        self.seat.unclosed = False

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self.seat.unclosed = False

    async def __aexit__(self, *exc: Any) -> None:
        """Close the connection, and wait until the peer's system has all output.

        The wait ends after `Limits.close_timeout` seconds without progress. A block
        that an exception or a cancellation leaves does not wait: what was sent leaves
        while the loop runs on. In a forked child nothing is done, since the
        connection is the parent's.

        Raises:
            ConnectionClosed: the connection was lost before that.
        """
        engine = loop_of(self)
        if engine.thread == FORKED:
            return
        seat = self.seat
        told = seat.gone
        self.close()
        if told or exc[0] is not None:
            return
        pause = 0.001
        while not seat.gone and not engine.is_over():
            if not engine.undelivered(self.id):
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        if seat.lost is not None:
            raise seat.closed_error()


class SeatDispatcher(ReaderDispatcher):
    """Brings messages to the seats of their connections."""

    def begin(self, conn: Any) -> None:
        """Wake the task that has dialled the connection, which has opened."""
        self.tell_waits(conn)
        opening, conn.opening = conn.opening, None
        if opening is not None and not opening.done():
            opening.set_result(None)

    def failed_to_connect(self, batch: Any) -> None:
        """Do nothing: `connect` raises the error."""


# The engine of a loop's outgoing connections, by the loop's id and the backend. The
# loop keeps the engine alive, since it watches the engine's descriptor.
_ENGINES: weakref.WeakValueDictionary[tuple[int, bytes | None], OutgoingEngine]
_ENGINES = weakref.WeakValueDictionary()


class OutgoingMux(LoopMux):
    """The mux of the connections that were dialled in a loop."""

    __slots__ = ()

    def listen(self, *args: Any, **options: Any) -> Any:
        """Refuse: no handler would get the accepted connections."""
        raise RuntimeError(
            "this mux has outgoing connections only; to serve, use pymux.aio.serve()"
        )


class OutgoingEngine(LoopEngine):
    """The engine of the connections that were dialled in a loop."""

    context: contextvars.Context
    on_callback_error: Callable[[BaseException, str], None] | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: str | None,
        join: Callable[[Engine], None],
    ) -> None:
        self._key = id(loop), choose(backend)
        self._drain: Drain | None = None  # once the loop ends
        self._ended: asyncio.Future[None]
        self._idle: asyncio.TimerHandle | None = None
        self._dialling = False
        self._seats: SeatDispatcher
        super().__init__(loop, backend, join)
        # The context of the task that happened to dial first must not live on.
        self.context = contextvars.Context()
        self.on_callback_error = partial(_report, loop)
        try:
            seats = SeatDispatcher(weakref.proxy(self), None, None)
            self.services[0].dispatcher = self._seats = seats
            self.join()
        except BaseException:
            self.close()
            raise

    def connection(self, id: int) -> Any:
        """The seat of a connection; while it is dialled, the connection itself."""
        slot = id & 0xFFFFFFFF
        table = self.table
        while slot >= len(table):
            table.append(None)
        seat = table[slot]
        if seat is not None and seat.id == id:
            return seat
        conn = OutgoingConnection(self, id)
        seat = table[slot] = Seat(conn)
        set_buffer(conn, seat)
        if self._dialling:
            return conn
        Connection.abort(conn)  # a signal's handler has interrupted the dialling
        return seat

    def dial(self, *args: Any) -> Any:
        self._dialling = True
        try:
            return super().dial(*args)
        finally:
            self._dialling = False

    def drop(self, conn: OutgoingConnection) -> None:
        """Close a connection without references. Its finalizer may call this in any
        thread, between any two steps."""
        if self.is_over():
            return
        if self.thread == get_ident():
            Connection.close(conn)
            self.touched()
        else:
            mark_closed(conn)
            conn.seat.over = True
            self.call_threadsafe(self.log.op, conn.id | CLOSE)

    # --- its end ------------------------------------------------------------

    def is_used(self) -> bool:
        """Whether to warn: never, since the connections warn themselves."""
        return False

    def after(self) -> None:
        """Look whether the last connection, or the drain, has ended."""
        if self.c is None:
            if self._drain is not None:
                self._drain = None
                self._ended.set_result(None)
        elif self._drain is not None:
            if self._drain.over():
                self.close_now()
        elif self._idle is None and not self.counts.connections:
            self._idle = self.loop.call_later(
                OUTLIVES, self._close_idle, context=self.context
            )

    def _close_idle(self) -> None:
        self._idle = None
        if self.c is None or self._drain is not None or any(self.table):
            return
        if self.calls or self.timers.next() is not None:
            return  # the turn that runs them looks again
        self.adopt_thread()
        self.close_now()

    async def finish(self) -> None:
        """Close every connection and wait until output is delivered; after LINGER
        seconds the rest is reset."""
        self.adopt_thread()
        for seat in self.table:
            if seat is not None and seat.is_left_open():
                seat.conn.close()
                seat.unclosed = True
        self._ended = self.loop.create_future()
        self._drain = Drain(self, self._seats)
        self._drain.begin(clock.now() + LINGER)
        self.touched()
        await asyncio.wait([self._ended])

    def close_outgoing(self) -> None:
        """Do nothing: `finish` has closed them."""

    def free(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.loop.is_closed() and not self.forked():
            for seat in self.table:
                if seat is not None and seat.is_left_open():
                    seat.unclosed = True
        super().free()
        if _ENGINES.get(self._key) is self:
            del _ENGINES[self._key]


def _report(loop: asyncio.AbstractEventLoop, error: BaseException, what: str) -> None:
    loop.call_exception_handler(
        {"message": f"{what} of a connection's mux raised", "exception": error}
    )


def engine_in(loop: asyncio.AbstractEventLoop, backend: str | None) -> OutgoingEngine:
    """The engine of a loop's outgoing connections, made if the loop has none."""
    key = id(loop), choose(backend)
    engine = _ENGINES.get(key)
    if engine is None or engine.c is None or engine.loop is not loop or engine.forked():
        mux = mux_with(OutgoingMux, partial(OutgoingEngine, loop, backend))
        made: Any = engine_of(mux)
        engine = _ENGINES[key] = made
    engine.adopt_thread()
    return engine
