"""What the engine and handlers do with a connection's status.

A status is a connection's own; other rooms change it by these functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine.names import names_of, pack_names
from ..engine.ops import CLOSE, FAIL
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from .connection import Connection

__all__ = [
    "CLOSED",
    "GONE",
    "OPEN",
    "SEND_ENDED",
    "answer",
    "buffer_of",
    "engine_of",
    "fail",
    "is_closed",
    "keep_names",
    "mark_closed",
    "note_end",
    "refusal",
    "set_buffer",
    "takes_output",
]

# A connection's status; `send` only asks whether it is over GONE.
OPEN = 0
GONE = 1  # its end is being reported: what is sent is discarded
SEND_ENDED = 2  # send_eof() was called
CLOSED = 3  # closed by this side, or reported as closed


def engine_of(conn: Connection) -> Engine:
    """The engine of a connection's mux."""
    return conn._engine


def buffer_of(conn: Connection) -> Any:
    """What takes the connection's messages for a coroutine, None in other forms."""
    return conn._buffer


def set_buffer(conn: Connection, buffer: Any) -> None:
    """Have a buffer take the connection's messages; None: nothing does."""
    conn._buffer = buffer
    engine, slot = conn._engine, conn.id & 0xFFFFFFFF
    if slot < len(engine.table) and engine.table[slot] is conn:
        engine.put_buffer(slot, buffer)


def is_closed(conn: Connection) -> bool:
    """True if the end was reported, or the connection was closed here."""
    return conn._status == CLOSED


def takes_output(conn: Connection) -> bool:
    """True if `send` would take a message."""
    return conn._status == OPEN


def mark_closed(conn: Connection) -> None:
    """The end of the connection has been reported, or its mux has closed."""
    conn._status = CLOSED


def answer(conn: Connection, data: bytes) -> None:
    """Log what a handler returned, in whatever status that left the connection:
    what the very call that closed it returns is still sent."""
    log = conn._engine.log
    if conn._status == CLOSED:
        log.insert_before(conn.id | CLOSE, conn.id, data)
    elif conn._status != SEND_ENDED:
        log.entries += (conn.id, data)


def fail(conn: Connection, error: BaseException) -> None:
    """Have the connection end with ECONNABORTED, caused by `error`."""
    engine = conn._engine
    engine.log.settle()
    if conn._status == GONE:
        conn._status = CLOSED  # its end has its cause, and is being reported
    elif conn._status != CLOSED:
        conn._status = CLOSED
        engine.causes[conn.id] = error
        engine.log.op(conn.id | FAIL)


def refusal(conn: Connection) -> ConnectionClosed:
    """The error of a `send` that the connection's status forbids."""
    text = "send_eof() was called" if conn._status == SEND_ENDED else "is closed"
    return ConnectionClosed(f"{conn!r}: {text}", connection=conn)


def keep_names(conn: Connection) -> None:
    """The core is about to forget the connection: keep its addresses."""
    if conn._names is None:
        conn._names = names_of(conn._engine, conn.id)


def note_end(conn: Connection, names: Any) -> None:
    """The core reports the end of the connection, with its addresses."""
    if conn._status != CLOSED:
        conn._status = GONE
    conn._names = pack_names(names) or conn._names or ("", "")
