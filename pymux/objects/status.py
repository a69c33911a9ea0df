"""The status of a connection.

Other rooms read and change the status by these functions alone.
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

# The status of a connection; `send` only compares it with GONE.
OPEN = 0
GONE = 1  # the end is being reported: output is discarded
SEND_ENDED = 2  # send_eof() was called
CLOSED = 3  # closed by this side, or reported as closed


def engine_of(conn: Connection) -> Engine:
    """Return the engine of a connection."""
    return conn._engine


def buffer_of(conn: Connection) -> Any:
    """Return the buffer of a connection with a coroutine, or None."""
    return conn._buffer


def set_buffer(conn: Connection, buffer: Any) -> None:
    """Set the buffer that takes the connection's messages; None removes it."""
    conn._buffer = buffer
    engine, slot = conn._engine, conn.id & 0xFFFFFFFF
    if slot < len(engine.table) and engine.table[slot] is conn:
        engine.put_buffer(slot, buffer)


def is_closed(conn: Connection) -> bool:
    """True if the end was reported, or the connection was closed here."""
    return conn._status == CLOSED


def takes_output(conn: Connection) -> bool:
    """True if `send` accepts a message."""
    return conn._status == OPEN


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
    if conn._status == GONE:
        conn._status = CLOSED  # the end is being reported, with its own cause
    elif conn._status != CLOSED:
        conn._status = CLOSED
        engine.causes[conn.id] = error
        engine.log.op(conn.id | FAIL)


def refusal(conn: Connection) -> ConnectionClosed:
    """Return the error of a `send` that the connection's status forbids."""
    text = "send_eof() was called" if conn._status == SEND_ENDED else "is closed"
    return ConnectionClosed(f"{conn!r}: {text}", connection=conn)


def keep_names(conn: Connection) -> None:
    """Keep the addresses of a connection that the core will forget."""
    if conn._names is None:
        conn._names = names_of(conn._engine, conn.id)


def note_end(conn: Connection, names: Any) -> None:
    """Note the end of a connection, and the addresses that the core reports."""
    if conn._status != CLOSED:
        conn._status = GONE
    conn._names = pack_names(names) or conn._names or ("", "")
