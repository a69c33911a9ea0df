"""The framing `Splitter`: a parser in Python makes messages of raw bytes.

The core receives raw bytes of such a connection. Before a batch is made, each row of
these bytes is fed to its connection's parser, and the parser's messages become the rows
of the batch. A batch without such rows stays as it is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from .._core import ffi, lib
from ..values.framing import Splitter
from .arena import IDS, ROW_COST, UNSIZED
from .ops import BEGUN, WHOLE

__all__ = ["Splitting"]

NO_COLUMNS = (
    "this batch has messages of a Splitter, which need not be bytes, so it has no "
    "columns; use its rows"
)


class _Feed:
    """The parser of one connection."""

    __slots__ = ("max_size", "over", "size", "split", "told")

    def __init__(self, splitter: Splitter, timed: bool) -> None:
        self.split: Callable[[bytes], Iterable[Any]] = splitter.factory()
        self.max_size: int = splitter.max_size
        self.size: int = 0  # bytes since the last message
        self.over: bool = False
        # Whether the core was told that a message has begun; None: there is no limit.
        self.told: bool | None = False if timed else None

    def feed(self, data: bytes, messages: list[Any]) -> None:
        """Parse bytes, and append the messages; b"" is the end of the stream."""
        before = len(messages)
        self.size += len(data)
        for message in self.split(data):
            if message is None:
                raise TypeError("a Splitter's parser made None, which is no message")
            messages.append(message)
        if len(messages) > before:
            self.size = 0
        elif self.size > self.max_size:
            raise OSError(
                errno.EMSGSIZE,
                f"{self.size} bytes and no message; the Splitter's max_size is "
                f"{self.max_size}",
            )


class SplitRows:
    """The rows of a batch that are not in an arena, with the methods of `Arena`."""

    ends = None  # the core has no column of offsets
    ids: Any

    __slots__ = ("_ids", "_messages", "ids")

    def __init__(self, ids: list[int], messages: list[Any]) -> None:
        self._ids = ids
        self._messages = messages
        self.ids = ffi.new("uint64_t[]", ids)

    def only(self, table: list[Any], gap: bytes | None) -> tuple[Any, Any]:
        """Return the connection and the message of the only row."""
        return table[self._ids[0] & 0xFFFFFFFF], self._messages[0]

    def conns(self, table: list[Any], rows: int) -> list[Any]:
        """Return the connection of each row."""
        return [table[id & 0xFFFFFFFF] for id in self._ids]

    def runs(self, table: list[Any], rows: int) -> None:
        """Return None: runs of one connection are not looked for."""

    def owed(self, rows: int) -> tuple[Any, Any, int, dict[int, int]]:
        """Return what outlives the batch where its answers come later."""
        sizes: dict[int, int] = {}
        for id in self._ids:
            sizes[id] = sizes.get(id, 0) + UNSIZED + ROW_COST
        return self.ids, None, 0, sizes

    def messages(self, rows: int, gap: bytes | None) -> list[Any]:
        """Return the message of each row."""
        return self._messages

    cut = messages

    def has_gaps(self) -> bool:
        """True if a delimiter stands behind each message."""
        return False

    def view(self, column: int, size: int) -> memoryview:
        """Return the column of ids; there are no others."""
        if column != IDS:
            raise TypeError(NO_COLUMNS)
        return memoryview(ffi.buffer(self.ids, size)).toreadonly()

    def lend(self) -> Any:
        """Raise TypeError: there are no columns to lend."""
        raise TypeError(NO_COLUMNS)

    @property
    def offsets(self) -> Any:
        """Raise TypeError: there are no offsets."""
        raise TypeError(NO_COLUMNS)


class Splitting:
    """The parsers of an engine's connections."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.splitters: dict[int, Splitter] = {}  # by their address in policies
        self.feeds: dict[int, _Feed | None] = {}  # by connection; None: no Splitter
        self.broken: dict[int, int] = {}  # errnos of parsers that failed, by connection
        self.failed: list[int] = []  # connections to end when this batch is over
        self._turn = -1  # the turn of `_ids` and `_messages`
        self._row = 0  # the next row to feed; ends of streams come after the messages
        self._ids: list[int] = []
        self._messages: list[Any] = []

    def note(self, splitter: Splitter) -> None:
        """Keep a framing for its connections: policies know it by its address."""
        self.splitters[id(splitter)] = splitter

    def feed_of(self, id: int) -> _Feed | None:
        """Return the parser of a connection, or None if it has no Splitter."""
        if id not in self.feeds:
            rules = ffi.new("pmx_policy *")
            if lib.pmx_policy_of(self.engine.c, id, rules):
                return None
            splitter = None
            if rules.framing.kind == lib.PMX_RAW:
                splitter = self.splitters.get(rules.framing.scan)
            timed = rules.message_ns >= 0
            self.feeds[id] = None if splitter is None else _Feed(splitter, timed)
        return self.feeds[id]

    def splits(self, id: int) -> bool:
        """True if a connection has a parser, so that messages may be any object."""
        try:
            return self.feed_of(id) is not None
        except Exception:  # the factory raised; `_feed` calls it again and reports
            return True

    def split(self, arena: Any, rows: int, gap: bytes | None) -> tuple[Any, int]:
        """Return the rows of this turn's batch, and their number.

        After a signal handler that raised, the call is repeated for the same turn: no
        bytes are fed twice.
        """
        engine, turn = self.engine, self.engine.turn
        if self._turn != engine.turns:
            self._turn, self._row = engine.turns, 0
            self._ids, self._messages = [], []
        ids = ffi.unpack(arena.ids, rows) if rows else []
        if engine.turn.reason & lib.PMX_OTHER_ROWS:
            ended = [turn.ended[k] for k in range(turn.ended_count)]
            ended += [
                turn.closed[k].id
                for k in range(turn.closed_count)
                if not turn.closed[k].error
            ]
        else:
            ended = []
        if not self._row and not (
            any(map(self.splits, set(ids))) or any(map(self.feeds.get, ended))
        ):
            return arena, rows
        data = arena.messages(rows, gap)
        while self._row < rows + len(ended):
            row = self._row
            self._row += 1
            if row < rows:
                self._feed(ids[row], data[row])
            else:
                self._end(ended[row - rows])
        return SplitRows(self._ids, self._messages), len(self._ids)

    def _feed(self, id: int, data: bytes) -> None:
        """Feed one row to its parser; b"" is the end of the stream."""
        if id in self.broken:
            return
        messages: list[Any] = []
        try:
            feed = self.feed_of(id)
            if feed is None:
                messages.append(data)
            elif not feed.over:
                feed.feed(data, messages)
                if feed.told is not None and data:
                    self._tell(id, feed)
        except Exception as error:
            self._fail(id, error)
        except BaseException as error:  # from a signal handler: bytes may be lost
            self._fail(id, error)
            raise
        finally:
            self._ids += [id] * len(messages)
            self._messages += messages

    def _tell(self, id: int, feed: _Feed) -> None:
        """Tell the core if a message has begun: `message_timeout` counts from here.

        The core has forgotten it where bytes found no room, so it is told each time.
        """
        if feed.size:
            feed.told = True
            self.engine.log.op(id | BEGUN)
        elif feed.told:
            feed.told = False
            self.engine.log.op(id | WHOLE)

    def _end(self, id: int) -> None:
        """Tell the parser of the end of the stream. The parser may add messages."""
        feed = self.feeds.get(id)
        if feed is None or feed.over:
            return
        conn = self.engine.connection(id)
        if not conn.closed:
            self._feed(id, b"")
        feed.over = True

    def _fail(self, id: int, error: BaseException) -> None:
        feed = self.feeds.get(id)
        if feed is not None:
            feed.over = True
        number = error.errno if isinstance(error, OSError) else None
        self.broken[id] = errno.EMSGSIZE if number == errno.EMSGSIZE else errno.EPROTO
        self.engine.causes.setdefault(id, error)
        self.failed.append(id)

    def end_failed(self) -> None:
        """End connections whose parsers failed, once their answers are in the log."""
        engine = self.engine
        failed, self.failed = self.failed, []
        for id in failed:
            conn = engine.table[id & 0xFFFFFFFF]
            if conn is not None and conn.id == id:
                engine.objects.fail(conn, engine.causes.get(id))

    def forget(self, id: int) -> None:
        """Forget the parser of a connection that ended, or switched its framing."""
        self.feeds.pop(id, None)
        self.broken.pop(id, None)
