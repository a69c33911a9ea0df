"""The status of a connection.

Other rooms read and change the status by these functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from io import UnsupportedOperation
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..engine.names import kept_names_of, pack_names
from ..engine.notices import tell
from ..engine.ops import CLOSE, FAIL
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..engine.engine import Engine
    from ..mux import Mux
    from .connection import Connection

__all__ = [
    "CLOSED",
    "GONE",
    "MOVED",
    "OPEN",
    "RECEIVES",
    "SEND_ENDED",
    "answer",
    "buffer_of",
    "come_back",
    "drop_buffer",
    "engine_of",
    "fail",
    "is_closed",
    "is_open",
    "keep_names",
    "mark_closed",
    "mark_half_closed",
    "mark_moved",
    "names_for_log",
    "note_end",
    "only_receives",
    "open_ids",
    "open_ones",
    "refusal",
    "set_buffer",
    "targets",
]

# The status of a connection; `send` only compares it with GONE.
OPEN = 0
GONE = 1  # the end is being reported: output is discarded
SEND_ENDED = 2  # send_eof() was called
CLOSED = 3  # closed by this side, or reported as closed
RECEIVES = 4  # open, the read end of a pipe: nothing can be sent
MOVED = 5  # it has left for another mux


engine_of: Callable[[Connection], Engine] = attrgetter("_engine")
"""Return the engine of a connection."""

buffer_of: Callable[[Connection], Any] = attrgetter("_buffer")
"""Return the buffer of a connection with a coroutine, or None."""


def set_buffer(conn: Connection, buffer: Any) -> None:
    """Set the buffer that takes the messages of a connection, which has a slot."""
    conn._buffer = buffer
    engine, slot = conn._engine, conn.id & 0xFFFFFFFF
    buffers = engine.buffers
    if slot >= len(buffers):
        buffers = engine.all_buffers()
    buffers[slot] = buffer


def drop_buffer(conn: Connection) -> None:
    """Take the buffer from a connection, whose slot may be another's by now."""
    buffers, slot = conn._engine.buffers, conn.id & 0xFFFFFFFF
    if slot < len(buffers) and buffers[slot] is conn._buffer:
        buffers[slot] = None
    conn._buffer = None


def is_closed(conn: Connection) -> bool:
    """True if the end was reported, or the connection was closed here."""
    return conn._status == CLOSED


def is_open(conn: Connection) -> bool:
    """True if neither side has ended the connection, as far as is known here."""
    return conn._status == OPEN or conn._status == SEND_ENDED


def targets(mux: Mux, conns: Iterable[Connection]) -> list[int]:
    """Return the ids of those connections whose `send` accepts a message.

    Raises:
        ValueError: a connection belongs to another mux.
    """
    ids = []
    for conn in conns:
        if conn.mux is not mux:
            raise ValueError(f"{conn!r} belongs to another mux")
        if conn._status == OPEN:
            ids.append(conn.id)
    return ids


def open_ids(conns: Iterable[Connection]) -> list[int]:
    """Return the ids of those connections whose `send` accepts a message."""
    return [conn.id for conn in conns if conn._status == OPEN]


def open_ones(conns: Iterable[Connection]) -> list[Connection]:
    """Return those connections that are not closed: see `Connection.closed`."""
    return [conn for conn in conns if conn._status not in (GONE, CLOSED)]


def mark_closed(conn: Connection) -> None:
    """Mark the connection closed: its end was reported, or its mux has closed."""
    conn._status = CLOSED


def answer(conn: Connection, data: bytes) -> None:
    """Log what a handler returned, even if the handler closed the connection."""
    log = conn._engine.log
    if conn._status == CLOSED:
        log.insert_before(conn.id | CLOSE, conn.id, data)
    elif conn._status != SEND_ENDED:
        log.entries += (conn.id, data)


def fail(conn: Connection, error: BaseException) -> None:
    """End the connection with ECONNABORTED; `error` is the cause."""
    engine = conn._engine
    engine.log.settle()
    if conn._status == GONE or conn._status == MOVED:
        conn._status = CLOSED  # the end is being reported, or is another mux's
    elif conn._status != CLOSED:
        conn._status = CLOSED
        engine.causes[conn.id] = error
        engine.log.op(conn.id | FAIL)


def only_receives(conn: Connection) -> None:
    """Note that a new connection is the read end of a pipe."""
    conn._status = RECEIVES


def mark_half_closed(conn: Connection) -> None:
    """Note that a connection has come whose stream to the peer has ended already."""
    conn._status = SEND_ENDED


def mark_moved(conn: Connection) -> None:
    """Note that the connection has left for another mux; its addresses are kept."""
    conn._status = MOVED


def come_back(conn: Connection, id: int) -> None:
    """Note that a connection is in its mux again, with another id: no other mux has
    taken it. What the user has asked for meanwhile is done now."""
    engine, was_closed = conn._engine, conn._status == CLOSED
    conn.id = id
    conn._status = OPEN
    conn._names = None
    slot = id & 0xFFFFFFFF
    engine.table += [None] * (slot + 1 - len(engine.table))
    engine.table[slot] = conn
    if was_closed:
        conn.close()


def refusal(conn: Connection) -> ConnectionClosed | UnsupportedOperation:
    """Return the error to raise for a `send` that the connection's status forbids."""
    if conn._status == RECEIVES:
        return UnsupportedOperation(
            f"{conn!r} is the read end of a pipe, which only receives"
        )
    text = "send_eof() was called"
    if conn._status == MOVED:
        text = "has moved to another process"
        key = "moved", id(conn._engine)
        if conn._engine.may_tell(key, "moved", f"output for {conn!r}, which has moved"):
            tell(
                "moved",
                "output was refused: %r %s; a handler that sends to it later needs "
                "`leaving`, which returns None until then",
                conn,
                text,
                peer=conn.peer,
                local=conn.local,
            )
    elif conn._status != SEND_ENDED:
        text = "is closed"
        if conn._buffer is not None:
            conn._buffer.note_told()
    return ConnectionClosed(f"{conn!r}: {text}", connection=conn)


def keep_names(conn: Connection) -> None:
    """Keep the addresses of a connection that the core will forget, and nothing that
    leads into the core."""
    if conn._names is None:
        conn._names = kept_names_of(conn._engine, conn.id)


def names_for_log(conn: Connection | None) -> tuple[Any, Any]:
    """Return (peer, local) of a connection; (None, None) if nobody knows them here."""
    if conn is None:
        return None, None
    try:
        return conn.peer, conn.local
    except (OSError, RuntimeError):  # the mux is being closed, or another thread's
        return None, None


def note_end(conn: Connection, names: Any) -> None:
    """Note the end of a connection, and the addresses that the core reports."""
    if conn._status != CLOSED:
        conn._status = GONE
    conn._names = pack_names(names) or conn._names or ("", "")
