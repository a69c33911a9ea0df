"""The output log: what was done to connections since the last harvest.

One list, whom and what in turns: to extend it by both is all that `send` costs,
and one step, so that no signal's handler finds one without the other. The core
takes the log over as blocks: small pieces joined, with their lengths; large
ones, replies cut from one buffer, and one message for many, each by reference.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

from ._core import ffi, lib
from .framing import Lines, fill_framing

__all__ = ["Cut", "Log", "Shared"]

ONE_ID = Struct("@Q").pack
CUTS = {0: lib.PMX_LENGTHS, 4: lib.PMX_OFFSETS32, 8: lib.PMX_OFFSETS64}
LARGE_PIECE = 8192  # sent by reference rather than joined with the others


class Cut:
    """In the log: one reply to each message of a batch, cut from one buffer."""

    __slots__ = ("arena", "bounds", "data", "rows", "width")

    def __init__(
        self, arena: Any, rows: int, data: bytes, bounds: Any, width: int
    ) -> None:
        self.arena = arena
        self.rows = rows
        self.data = data
        self.bounds = bounds  # rows + 1 offsets of `width` bytes; 0: lengths
        self.width = width

    def sizes(self) -> Any:
        """(id, size) of each reply."""
        at = ffi.cast("int32_t *" if self.width == 4 else "int64_t *", self.bounds)
        ids = self.arena.c.ids
        if self.width == 0:
            return ((ids[k], at[k]) for k in range(self.rows))
        return ((ids[k], at[k + 1] - at[k]) for k in range(self.rows))

    def fill(self, block: Any) -> None:
        """Say it to the core."""
        block.cut = CUTS[self.width]
        block.count = self.rows
        block.ids = self.arena.c.ids
        block.bounds = self.bounds


class Delimiter:
    """The one delimiter of a mux whose connections all speak the same lines.

    Then lines are cut by `split` and put together by `join`. One that can
    overlap itself, like ``aa``, could be found where it does not begin.
    """

    __slots__ = ("c", "delimiter", "framing")

    def __init__(self, framing: Lines) -> None:
        self.framing = framing
        self.delimiter = framing.delimiter
        self.c = ffi.new("pmx_framing *")
        fill_framing(self.c, framing)
        self.c.max_size = 2**31 - 1  # replies are not held to it

    @classmethod
    def of(cls, framing: Any) -> Delimiter | None:
        """Of a framing, None where it has none of that kind."""
        if not isinstance(framing, Lines):
            return None
        text = framing.delimiter
        if any(text[:n] == text[-n:] for n in range(1, len(text))):
            return None
        return cls(framing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delimiter) and self.delimiter == other.delimiter

    __hash__ = None  # type: ignore[assignment]


class Joined:
    """In the log: one reply to each message of a batch, each with its delimiter."""

    __slots__ = ("arena", "data", "lines", "rows")

    def __init__(self, arena: Any, rows: int, data: bytes, lines: Delimiter) -> None:
        self.arena = arena
        self.rows = rows
        self.data = data
        self.lines = lines

    def sizes(self) -> Any:
        """(id, size) of each reply."""
        pieces = self.data.split(self.lines.delimiter)
        ids = self.arena.c.ids
        return ((ids[k], len(pieces[k])) for k in range(self.rows))

    def fill(self, block: Any) -> None:
        """Say it to the core."""
        block.cut = lib.PMX_DELIMITED
        block.count = self.rows
        block.ids = self.arena.c.ids
        block.bounds = self.lines.c


class Shared:
    """In the log: one message to many connections."""

    __slots__ = ("data", "ids")

    def __init__(self, ids: list[int], data: bytes) -> None:
        self.ids = ffi.new("uint64_t[]", ids)
        self.data = data

    def sizes(self) -> Any:
        """(id, size) for each connection."""
        return ((one, len(self.data)) for one in self.ids)

    def fill(self, block: Any) -> None:
        """Say it to the core."""
        block.cut = lib.PMX_SHARED
        block.count = len(self.ids)
        block.ids = self.ids


class Log:
    """What was done, in order.

    Attributes:
        entries: ids with an operation on top, each before what it is done with.
        pending: what a handler has returned so far for `rows`, not logged yet.
    """

    __slots__ = (
        "_blocks",
        "_logged",
        "entries",
        "large",
        "pending",
        "rows",
        "seen",
        "specials",
    )

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.specials = 0  # how many of them are no bytes
        self.large = 0  # bytes that went in as large pieces
        self.pending: list[Any] = []  # replies to rows[:len(pending)], not in yet
        self.rows: list[Any] = []
        self._blocks = ffi.new("pmx_block[]", 8)
        self.seen = 0  # how many entries are counted in _logged
        self._logged: dict[int, int] = {}

    def op(self, who: int) -> None:
        """An operation without bytes."""
        if self.pending:
            self.merge()
        self.entries += (who, b"")

    def special(self, what: Any) -> None:
        """A reply to a batch, or a message to many."""
        if self.pending:
            self.merge()
        self.entries += (0, what)
        self.specials += 1

    def merge(self) -> None:
        """Something else is about to be logged: first the replies so far."""
        pending, rows = self.pending, self.rows
        self.pending, self.rows = [], rows[len(pending) :]
        for conn, reply in zip(rows, pending):
            if reply is not None:
                conn._answer(reply)

    def settle(self) -> None:
        """A connection is about to change its status: first the replies so far."""
        if self.pending:
            self.merge()

    def queued(self, id: int) -> int:
        """Bytes logged for a connection. Each entry is looked at once."""
        if self.pending:
            self.merge()
        entries = self.entries
        if not self.seen:
            self._logged = {}
        logged = self._logged
        for at in range(self.seen, len(entries), 2):
            who, piece = entries[at : at + 2]
            if type(piece) is bytes:
                if piece:
                    logged[who] = logged.get(who, 0) + len(piece)
            else:
                for one, size in piece.sizes():
                    logged[one] = logged.get(one, 0) + size
        self.seen = len(entries)
        return logged.get(id, 0)

    def size(self) -> int:
        """Bytes logged in all, but for replies to batches."""
        return sum(len(piece) for piece in self.entries[1::2] if type(piece) is bytes)

    def insert_before(self, marker: int, who: int, what: bytes) -> bool:
        """Put a piece in front of the last `marker`; whether there is one."""
        entries = self.entries
        for at in range(len(entries) - 2, -1, -2):
            if entries[at] == marker:
                entries[at:at] = (who, what)
                self.seen = 0
                return True
        return False

    def ready_to_submit(self) -> int:
        """How many entries may leave inside a handler: none from the first
        close on, before which its handler's answer may yet have to go."""
        for at in range(0, len(self.entries), 2):
            if self.entries[at] >> 60 == lib.PMX_CLOSE:
                return at
        return len(self.entries)

    def lay_out(self, turn: Any, count: int) -> tuple[int, bytes, bytes, bytes, Any]:
        """The first `count` entries, as arguments for the core.

        Returns:
            How many small pieces, their ids, lengths and bytes; where the log
            holds more than such pieces, 0, and it is in the turn's blocks.
            Last, what must live until the core has taken them over.
        """
        entries = self.entries
        if not self.specials:
            if count == 2:
                return 1, ONE_ID(entries[0]), b"", entries[1], None
            what = entries[1:count:2]
            sizes = list(map(len, what))
            if max(sizes) <= LARGE_PIECE:
                ids = array("Q", entries[0:count:2]).tobytes()
                lengths = array("q", sizes).tobytes()
                return count // 2, ids, lengths, b"".join(what), None
        return 0, b"", b"", b"", self.lay_out_blocks(turn, count)

    def lay_out_blocks(self, turn: Any, count: int) -> Any:
        """Say the first `count` entries to the core as blocks.

        Returns:
            What must live until the core has taken them over.
        """
        who, what = self.entries[0:count:2], self.entries[1:count:2]
        keep: list[Any] = []
        n = start = 0
        if self.specials:
            for at, piece in enumerate(what):
                if type(piece) is bytes:
                    continue
                if at > start:
                    n = self._add_pieces(n, who[start:at], what[start:at], keep)
                block = self._add(n, piece.data, keep)
                piece.fill(block)
                keep.append(piece)
                n += 1
                start = at + 1
        if start < len(what):
            n = self._add_pieces(n, who[start:], what[start:], keep)
        turn.blocks = self._blocks
        turn.block_count = n
        return keep

    def _add(self, n: int, data: bytes, keep: list[Any]) -> Any:
        """The n-th block, with its data set."""
        if n == len(self._blocks):
            more = ffi.new("pmx_block[]", 2 * n)
            ffi.memmove(more, self._blocks, n * ffi.sizeof("pmx_block"))
            self._blocks = more
        block = self._blocks[n]
        block.data = pointer = ffi.from_buffer("uint8_t[]", data)
        block.size = len(data)
        keep.append(pointer)
        return block

    def _add_pieces(
        self, n: int, who: list[int], what: list[bytes], keep: list[Any]
    ) -> int:
        """Blocks for pieces: the small ones joined, each large one alone."""
        sizes = list(map(len, what))
        if len(what) > 1 and max(sizes) > LARGE_PIECE:
            start = 0
            for at, size in enumerate(sizes):
                if size > LARGE_PIECE:
                    if at > start:
                        n = self._add_pieces(n, who[start:at], what[start:at], keep)
                    n = self._add_pieces(n, [who[at]], [what[at]], keep)
                    start = at + 1
            if start == len(what):
                return n
            who, what, sizes = who[start:], what[start:], sizes[start:]
        block = self._add(n, b"".join(what) if len(what) > 1 else what[0], keep)
        ids = ffi.from_buffer("uint64_t[]", array("Q", who))
        lengths = ffi.from_buffer("int64_t[]", array("q", sizes))
        keep += (ids, lengths)
        block.cut = lib.PMX_LENGTHS
        block.count = len(who)
        block.ids = ids
        block.bounds = lengths
        return n + 1
