"""One harvest's messages, as columns and as Python objects."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.answers import check_count, columns_of, copies_of
from ..engine.arena import DATA, IDS, OFFSETS, Arena
from ..engine.arrow import IDS as ARROW_IDS
from ..engine.arrow import MESSAGES, export, export_stream
from ..engine.bounds import ids_where
from ..engine.notices import is_told, tell
from .arrow import ArrowArray, ArrowColumn
from .later import Later
from .status import CLOSED, names_for_log, note_end

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..engine.engine import Engine
    from .connection import Connection

__all__ = ["Batch"]

NEWS = frozenset({"opened", "blocked", "drained", "ended", "closed"})
# The meaning of an errno if the mux itself has ended the connection.
MEANINGS = {
    errno.EMSGSIZE: "a message over the framing's max_size",
    errno.EPROTO: "its stream ended inside a message",
    errno.ENOBUFS: "output over max_output",
    errno.ETIMEDOUT: "a timeout of its limits, of connecting, of TCP or of stop()",
    errno.ECONNABORTED: "its handler raised",
}
LIMITS = {errno.EMSGSIZE, errno.ENOBUFS}


def log_end(conn: Connection, error: OSError | None, handler: str | None) -> None:
    """Log the end of a connection with its cause: many handlers cannot see it."""
    why: str | None
    if error is None:
        if conn._status == CLOSED:
            text, why = "this side closed", None
        else:
            text = "its stream is over"
            why = "the server stops" if conn.stopping else "its peer ended it"
    else:
        text, cause = str(error), error.__cause__
        why = repr(cause) if cause is not None else MEANINGS.get(error.errno or 0)
    peer, local = names_for_log(conn)
    text = f"{conn!r} ended: {text}{f' ({why})' if why else ''}"
    tell("closed", "%s", text, peer=peer, local=local, handler=handler)


def warn_of_limit(conn: Connection, number: int, handler: str | None) -> None:
    """Warn that a limit has ended a connection, unless its kind was told of lately."""
    engine, why = conn._engine, MEANINGS[number]
    peer, local = names_for_log(conn)
    text = f"a connection ended: {why}"
    key = "ended", number, handler
    if engine.may_tell(key, "limit", text, local=local, handler=handler):
        about = {"peer": peer, "local": local, "handler": handler}
        tell("limit", "%r ended: %s", conn, why, **about)


class Batch:
    """The messages and news of one harvest, made by `Mux.harvest`.

    Messages are rows. The lists `opened`, `blocked`, `drained`, `ended` and `closed`
    are news of connections. A batch without messages and news is false. A batch with
    news alone is true, though its `len()` is 0.

    A BATCH IS VALID UNTIL THE NEXT HARVEST: then access through it raises
    ValueError. A view that was taken before stays valid and unchanged as long as the
    view lives.

    Attributes:
        opened: connections that are new.
        blocked: connections whose output went over high water. The rows of `blocked`
            and `drained` alternate for each connection, but a close ends both. A
            connection is in both lists if the system took its output at once.
        drained: connections whose output fell from over high water to under
            low water.
        ended: connections whose peer ended its stream (`half_open=True` only).
        closed: `(connection, OSError or None)` for every connection that has
            ended, also by your own `close`; None means an ordinary end.

    >>> from pymux import Lines, Mux
    >>> with Mux() as mux:
    ...     where = mux.listen(("127.0.0.1", 0), framing=Lines()).address
    ...     mux.connect(where, framing=Lines()).send(b"hello")
    ...     while not (batch := mux.harvest()).messages:
    ...         pass
    ...     bytes(batch.data), batch.offsets.tolist(), batch.messages
    (b'hello', [0, 5], [b'hello'])
    """

    __slots__ = (
        "_arena",
        "_conns",
        "_engine",
        "_failed",
        "_gap",
        "_idle",
        "_messages",
        "_news",
        "_number",
        "_replied",
        "_rows",
        "_service",
        "blocked",
        "closed",
        "drained",
        "ended",
        "opened",
    )

    _failed: list[Connection]  # closed before they opened
    _idle: list[Connection]  # idle, unless their task is at work
    opened: list[Connection]
    blocked: list[Connection]
    drained: list[Connection]
    ended: list[Connection]
    closed: list[tuple[Connection, OSError | None]]

    def __init__(
        self,
        engine: Engine,
        arena: Arena,
        rows: int,
        gap: bytes | None,
        news: bool,
        number: int,
    ) -> None:
        self._engine = engine
        self._service = engine.serving
        self._number = number  # `engine.valid` is the number of the valid batch
        self._arena = arena
        self._rows = rows
        self._gap = gap  # the delimiter behind each message, if any
        self._news = news  # True if there is more than messages
        self._replied = False
        self._conns: list[Connection] | None = None
        self._messages: list[bytes] | None = None
        if news:
            self._fill()

    def _fill(self) -> None:
        """Fill the lists of news.

        This is repeated if a signal handler raised before the caller had the batch.
        """
        engine, turn = self._engine, self._engine.turn
        conn = engine.connection
        count = turn.opened_count
        self.opened = [conn(turn.opened[k]) for k in range(count)] if count else []
        count = turn.blocked_count
        self.blocked = [conn(turn.blocked[k]) for k in range(count)] if count else []
        count = turn.drained_count
        self.drained = [conn(turn.drained[k]) for k in range(count)] if count else []
        count = turn.ended_count
        self.ended = [conn(turn.ended[k]) for k in range(count)] if count else []
        count = turn.idle_count
        self._idle = [conn(turn.idle[k]) for k in range(count)] if count else []
        self.closed = []
        self._failed = []
        numbers = []
        debug = turn.closed_count > 0 and is_told("closed")
        if engine.opening:
            engine.opening.difference_update(gone.id for gone in self.opened)
        for k in range(turn.closed_count):
            row = turn.closed[k]
            id = row.id
            gone, number = conn(id), row.error
            error: OSError | None = None
            if engine.splitting is not None:  # its parser may have failed
                number = engine.splitting.broken.get(id, number)
            note_end(gone, row.names)
            if engine.stopped is not None:
                engine.keep_stopping(id)
            if number:
                error = engine.error_of(row, number)
                numbers.append(number)
                if number in LIMITS and self._service.dispatcher is not None:
                    warn_of_limit(gone, number, self._service.handler_name)
            if debug:
                log_end(gone, error, self._service.handler_name)
            if id in engine.opening and engine.is_not_made(row):
                self._failed.append(gone)
            self.closed.append((gone, error))
        if numbers:
            engine.count_ends(numbers)

    def __getattr__(self, name: str) -> Any:
        """Make a list of news, which most batches do not need, at its first use."""
        if name not in NEWS:
            raise AttributeError(name)
        setattr(self, name, [])
        return getattr(self, name)

    def __repr__(self) -> str:
        return (
            f"<Batch of {self._rows} messages, {len(self.opened)} opened, "
            f"{len(self.closed)} closed>"
        )

    def __len__(self) -> int:
        return self._rows

    def __bool__(self) -> bool:
        """True if the batch has messages or news."""
        return self._rows > 0 or self._news

    def __iter__(self) -> Iterator[tuple[Connection, bytes]]:
        """Iterate over the messages as (connection, bytes)."""
        self._check()
        return zip(self.conns, self.messages)

    def _check(self) -> None:
        """Raise if the batch is over, or belongs to another thread.

        Hot methods compare first, and call this only if it would raise.
        """
        engine = self._engine
        engine.check()
        if engine.valid != self._number:
            raise ValueError(
                "this batch is over: the mux has harvested again, or closed; "
                "take what you need before that"
            )

    # --- rows -----------------------------------------------------------

    @property
    def conns(self) -> list[Connection]:
        """The connection of each message, as a list."""
        if self._conns is None:
            self._check()
        return self._take_conns()

    def _take_conns(self) -> list[Connection]:
        conns = self._conns
        if conns is None:
            conns = self._arena.conns(self._engine.table, self._rows)
            self._conns = conns
        return conns

    @property
    def messages(self) -> list[bytes]:
        """The payload of each message without its framing, as a list of bytes."""
        if self._messages is None:
            self._check()
        return self._take_messages()

    def _take_messages(self) -> list[bytes]:
        messages = self._messages
        if messages is None:
            if self._gap is not None and not self._arena.has_gaps():
                self._gap = None  # `_columns` was interrupted
            messages = self._arena.messages(self._rows, self._gap)
            self._messages = messages
            if self._gap is None and self._rows > 1:
                self._engine.want_gaps(self._service, True)
        return messages

    def _columns(self) -> Arena:
        """Return the arena with payloads back to back, in later batches too."""
        engine = self._engine
        if engine.valid != self._number or engine.thread != get_ident():
            self._check()
        if self._service.leave_gaps:
            engine.want_gaps(self._service, False)
        if self._gap is not None:
            self._arena.close_gaps()
            self._gap = None
        return self._arena

    # --- columns --------------------------------------------------------

    @property
    def data(self) -> memoryview:
        """All payloads, back to back, as a read-only view without a copy.

        The memory stays valid and unchanged as long as the view, a slice or an array
        of it lives.
        """
        rows, arena = self._rows, self._columns()
        return arena.view(DATA, arena.offsets[rows] if rows else 0)

    @property
    def offsets(self) -> memoryview:
        """The offsets of messages: int32, one more than there are messages.

        Message k is ``data[offsets[k]:offsets[k + 1]]``.
        """
        return self._columns().view(OFFSETS, 4 * (self._rows + 1)).cast("i")

    @property
    def ids(self) -> memoryview:
        """The connection's id of each message, as uint64."""
        self._check()
        return self._arena.view(IDS, 8 * self._rows).cast("Q")

    @property
    def arrow_messages(self) -> ArrowColumn:
        """The messages as Arrow's binary, without a copy, also for other threads.

        The batch itself is such an array while it is valid, in its mux's thread. DuckDB
        takes arrays in threads of its own: ``messages = batch.arrow_messages``, then
        ``duckdb.sql("SELECT * FROM messages")``.

        Raises:
            ValueError: the batch is over.
            TypeError: the messages of a `Splitter` have no columns.
        """
        arena = self._columns()
        return ArrowColumn(arena, MESSAGES, self._rows, self.data)

    @property
    def arrow_ids(self) -> ArrowColumn:
        """The connection's id of each message, as Arrow's uint64, without a copy.

        For a consumer of Arrow: ``pyarrow.array(batch.arrow_ids)``.

        Raises:
            ValueError: the batch is over.
            TypeError: the messages of a `Splitter` have no columns for Arrow.
        """
        return ArrowColumn(self._arena, ARROW_IDS, self._rows, self.ids)

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the messages as an Arrow array of type binary, without a copy.

        This is Arrow's PyCapsule interface: ``pyarrow.array(batch)``,
        ``polars.Series(batch)`` and other consumers of Arrow call it. The array stays
        valid and unchanged as long as its consumer keeps it, as a view of `data` does,
        also after the next harvest and after `Mux.close()`.

        Args:
            requested_schema: ignored; the consumer casts the array if it wants another
                type, since only the consumer knows if the messages are text.

        Returns:
            The capsules of the schema and of the array.

        Raises:
            ValueError: the batch is over.
            TypeError: the messages of a `Splitter` have no columns.
            NotImplementedError: PyPy has no such capsules.
        """
        return export(self._columns(), MESSAGES, self._rows)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the messages as an Arrow stream of one array, without a copy.

        For consumers that scan streams, as ``pyarrow.chunked_array(batch)``. The stream
        and its array live as the array of `__arrow_c_array__` does. A consumer that
        asks in another thread, as DuckDB does, needs `arrow_messages`.

        Args:
            requested_schema: ignored, as for an array.

        Returns:
            The capsule of the stream.

        Raises:
            ValueError: the batch is over.
            TypeError: the messages of a `Splitter` have no columns.
            NotImplementedError: PyPy has no such capsules.
        """
        return export_stream(self._columns(), MESSAGES, self._rows)

    # --- replies --------------------------------------------------------

    def _first_reply(self) -> None:
        engine = self._engine
        if engine.valid != self._number or engine.thread != get_ident():
            self._check()
        if self._replied:
            raise RuntimeError("this batch has had its reply; one is all it takes")

    def reply(self, replies: Sequence[Buffer | None]) -> None:
        """Answer every message, each with one frame.

        What is given for a connection that this side has closed is discarded: close
        behind `reply` if the answer shall arrive.

        Args:
            replies: for each message a bytes-like object, or None for no answer.

        Raises:
            ValueError: the wrong number of replies, or a reply whose size the
                connection's framing cannot carry; nothing is sent.
            TypeError: a reply that is not bytes-like; nothing is sent.
            RuntimeError: the batch was answered before.
        """
        self._first_reply()
        if type(replies) is not list:
            replies = list(replies)
        check_count(replies, self._rows)
        engine = self._engine
        log = engine.log
        if not replies:
            self._replied = True
            return
        try:  # a reply of another type raises TypeError
            if self._service.fit(replies):
                self._replied = True
                log.answer(self._arena, replies, self._service.lines)
                return
        except TypeError:
            self._replied = False
        conns = self.conns
        copies = copies_of(replies)
        for conn, reply in zip(conns, copies):
            if reply is not None and len(reply) > self._service.reply_limit:
                engine.check_reply(conn.id, len(reply))
        self._replied = True
        log.settle()
        for conn, reply in zip(conns, copies):
            if reply is not None:
                log.entries += (conn.id, reply)

    def reply_data(
        self,
        data: Buffer | ArrowArray,
        offsets: Sequence[int] | Buffer | None = None,
        *,
        mask: Sequence[bool] | Buffer | None = None,
    ) -> None:
        """Answer every message from one buffer.

        Args:
            data: bytes-like, or an Arrow array (any object with `__arrow_c_array__`)
                of type binary, large_binary, string or large_string with one row for
                each message, null for no answer. The bytes are copied now.
            offsets: the offsets of answers: a sequence of ints, or a contiguous int32
                or int64 buffer, one more than there are messages. They must not fall,
                and need not begin at 0. None cuts `data` as the batch is cut, and
                `data` must then be as long as `batch.data`.
            mask: which messages are answered: a sequence, or a contiguous buffer of
                bool or of bytes, one for each message. A message whose entry is false
                gets no answer, as by None in `reply`; its piece of `data`, of any size,
                is not sent. An empty piece without a mask is an empty frame. None
                answers every message.

        Raises:
            ValueError: offsets or a mask that do not fit, data of the wrong length,
                or a size that a framing cannot carry; nothing is sent.
            RuntimeError: the batch was answered before.
        """
        self._first_reply()
        rows, arena = self._rows, self._arena
        columns = columns_of(data, offsets, mask, rows, self._cut)
        data, bounds, cut, flags = columns
        engine = self._engine
        other = engine.switched or self._service.is_mixed
        sized = bounds is arena.ends and not other  # as what was received
        if not sized and len(data) > self._service.reply_limit:
            for k, conn in enumerate(self.conns):
                if flags is None or flags[k]:
                    engine.check_reply(conn.id, bounds[k + 1] - bounds[k])
        self._replied = True
        if rows:
            keep = arena, bounds
            ids = arena.ids if flags is None else ids_where(arena.ids, flags)
            engine.log.special((cut | rows, ids, bounds, data, keep))

    def _cut(self) -> tuple[Any, int]:
        """Return the offsets without gaps, as a C array, and the bytes of the data."""
        if self._gap is not None:
            self._columns()
        arena, rows = self._arena, self._rows
        return arena.ends, arena.offsets[rows] if rows else 0

    def later(self) -> Later:
        """Answer this batch later, from any thread.

        The handler gives the `Later` to a thread or keeps it, and returns. Take what
        the answers need of the batch before: ``bytes(batch.data)``, or a view, which
        keeps the memory. `later` takes the place of `reply`: a batch has one of them.

        Returns:
            A `Later`, which has the rules.

        Raises:
            ValueError: the batch is over.
            RuntimeError: the batch was answered before; outside the mux's thread.
        """
        self._first_reply()
        later = Later(self._engine, self._service, self._arena, self._rows)
        later._owe()
        self._replied = True
        return later
