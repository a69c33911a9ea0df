"""Switching a connection's framing in mid-stream.

The handler switches at a message. What was received behind that message was cut by
the old framing: later rows of the batch, and messages that a coroutine has not taken.
Their frames are put together again, byte for byte, and given back to the core, which
cuts them anew.
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
    """Stands where a row is not given to its connection's handler."""

    _status = CLOSED
    over = True


SKIPPED: Any = _Skipped()


class Given:
    """The rows of a batch, and how far they have been given to a handler.

    Attributes:
        rows: what the rows are given to, connections or buffers, or SKIPPED.
        order: goes through `rows`; what it has passed has been given.
        lengths: how many rows each of `rows` stands for; None: one.
        marked: some of `rows` are SKIPPED.
    """

    __slots__ = ("batch", "lengths", "marked", "order", "rows")

    def __init__(
        self, batch: Batch, rows: list[Any], lengths: list[int] | None = None
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.lengths = lengths
        self.order: Any = iter(rows)  # with a __length_hint__
        self.marked = False

    def take_back(self, to: Any) -> list[Any]:
        """The messages that were to be given to `to`; they are not given any more."""
        begun = len(self.rows) - self.order.__length_hint__()
        later = [k for k in range(begun, len(self.rows)) if self.rows[k] is to]
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
    """Handlers are about to see news of a batch whose rows they are given later."""
    engine = batch._engine
    engine.given = Given(batch, batch._arena.conns(engine.table, batch._rows))


def give_rows(batch: Batch, table: list[Any]) -> Given:
    """The rows of a batch, about to be given to what stands in a table, by slot."""
    engine, rows = batch._engine, batch._arena.conns(table, batch._rows)
    before = engine.given
    if before is not None and before.marked and before.batch is batch:
        rows = [
            SKIPPED if old is SKIPPED else new for old, new in zip(before.rows, rows)
        ]
    given = engine.given = Given(batch, rows)
    return given


def give_runs(batch: Batch, runs: list[tuple[Any, int]]) -> Given:
    """The same for runs of rows of one buffer."""
    lengths = [length for _, length in runs]
    given = Given(batch, [buffer for buffer, _ in runs], lengths)
    batch._engine.given = given
    return given


def switch_framing(conn: Connection, framing: Framing | None, unread: bytes) -> None:
    """Have a connection speak another framing from here on."""
    check_framing(framing)
    if conn._status == CLOSED:
        raise refusal(conn)
    engine, buffer, given = conn._engine, conn._buffer, conn._engine.given
    engine.log.settle()
    messages: list[Any] = [] if buffer is None else buffer.untaken()
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
