"""Switching a connection's framing in mid-stream.

A handler switches at a message. Input after that message was cut by the old framing:
later rows of the batch, and messages that a coroutine has not taken. Their frames are
rebuilt, byte for byte, and given back to the core, which cuts them anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine.state import DISPATCHING
from ..engine.structs import frame_of
from ..values.framing import Framing, Splitter, check_framing
from .status import CLOSED, refusal

if TYPE_CHECKING:
    from .batch import Batch
    from .connection import Connection

__all__ = ["Given", "begin_rows", "give_rows", "give_runs", "switch_framing"]


class _Skipped:
    """Replaces a connection or buffer whose row is skipped."""

    _status = CLOSED
    over = True


SKIPPED: Any = _Skipped()


class Given:
    """The rows of a batch, and how many a handler has been given.

    Attributes:
        rows: the receiver of each row: a connection, a buffer, or SKIPPED.
        order: iterates over `rows`; rows that `order` has passed have been given.
        lengths: the number of rows of each receiver; None: one each.
        marked: True if some receivers are SKIPPED.
    """

    batch: Batch
    lengths: list[int] | None
    marked: bool
    rows: list[Any]

    __slots__ = ("batch", "lengths", "marked", "order", "rows")

    def __init__(
        self, batch: Batch, rows: list[Any], lengths: list[int] | None = None
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.lengths = lengths
        self.order: Any = iter(rows)  # its __length_hint__ counts the rows left
        self.marked = False

    def take_back(self, receiver: Any) -> list[Any]:
        """Skip the rows left for a receiver, and return their messages."""
        begun = len(self.rows) - self.order.__length_hint__()
        later = [k for k in range(begun, len(self.rows)) if self.rows[k] is receiver]
        messages: list[Any] = []
        for k in later:
            self.rows[k] = SKIPPED
            self.marked = True
            start, count = k, 1
            if self.lengths is not None:
                start, count = sum(self.lengths[:k]), self.lengths[k]
            messages += self.batch._take_messages()[start : start + count]
        return messages


def begin_rows(batch: Batch) -> None:
    """Note a batch's rows before its news: a handler of news may switch framings."""
    engine = batch._engine
    engine.given = Given(batch, batch._arena.conns(engine.table, batch._rows))


def give_rows(batch: Batch, table: list[Any]) -> Given:
    """Begin to give the rows of a batch to the receivers in a table, by slot."""
    engine, rows = batch._engine, batch._arena.conns(table, batch._rows)
    before = engine.given
    if before is not None and before.marked and before.batch is batch:
        rows = [
            SKIPPED if old is SKIPPED else new for old, new in zip(before.rows, rows)
        ]
    given = engine.given = Given(batch, rows)
    return given


def give_runs(batch: Batch, runs: list[tuple[Any, int]]) -> Given:
    """Begin to give runs of rows to their buffers."""
    lengths = [length for _, length in runs]
    given = Given(batch, [buffer for buffer, _ in runs], lengths)
    batch._engine.given = given
    return given


def switch_framing(conn: Connection, framing: Framing | None, unread: bytes) -> None:
    """Switch a connection to another framing."""
    check_framing(framing)
    if conn._status == CLOSED:
        raise refusal(conn)
    engine, buffer, given = conn._engine, conn._buffer, conn._engine.given
    engine.log.settle()
    messages: list[Any] = [] if buffer is None else buffer.list_untaken()
    if given is not None:
        messages += given.take_back(conn)
        if buffer is not None:
            messages += given.take_back(buffer)
    rules = engine.policy_of(conn.id)
    if rules is None:  # the connection has ended: nothing is cut anew
        if buffer is not None:
            buffer.give_back()
        return
    frames = [frame_of(rules.framing, message) for message in messages]
    anew = b"".join([unread, *frames])
    if buffer is not None:
        buffer.give_back()
        buffer.sized = not isinstance(framing, Splitter)
    if anew:
        _take_back_end(conn)
    engine.switch(conn.id, rules, framing, anew)


def _take_back_end(conn: Connection) -> None:
    """The peer's end, where it was reported, comes again behind what is cut anew."""
    engine = conn._engine
    batch, buffer = engine.batch, conn._buffer
    if engine.state is DISPATCHING and batch is not None and batch._news:
        batch.ended = [one for one in batch.ended if one.id != conn.id]
    if buffer is not None and buffer.lost is None:
        buffer.over = False
