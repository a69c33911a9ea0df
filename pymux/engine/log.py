"""The output log: what was done to connections since the last harvest.

One list, whom and what in turns: to extend it by both is all that `send` costs,
and one step, so that no signal's handler finds one without the other. The core
takes the log over as blocks: small pieces joined, with their lengths; large
ones, replies cut from one buffer, and one message for many, each by reference.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import repeat
from operator import sub
from struct import Struct
from typing import Any

from .._core import ffi, lib
from ..values.framing import Lines
from .structs import fill_framing

__all__ = ["Log"]

ONE_ID = Struct("@Q").pack
LARGE_PIECE = 8192  # sent by reference rather than joined with the others
COUNT = 2**32 - 1  # of a shape; its cut stands above
LENGTHS = lib.PMX_LENGTHS << 32
OFFSETS32 = lib.PMX_OFFSETS32 << 32
OFFSETS64 = lib.PMX_OFFSETS64 << 32
SHARED = lib.PMX_SHARED << 32
DELIMITED = lib.PMX_DELIMITED << 32
SPANS = lib.PMX_SPANS << 32
PLAIN = frozenset({bytes, bytearray})


# In the log: many pieces in one, as the core takes them.
#
#   shape   how they are cut, and how many there are
#   ids     whose they are: a buffer of uint64
#   bounds  where they begin and end; what that is depends on the cut, and one
#           piece with the cut of lengths needs none
#   data    the bytes of all
#   keep    what ids and bounds lie in
Block = tuple[int, Any, Any, Any, Any]


def sizes_of(block: Block) -> Iterator[tuple[int, int]]:
    """(id, size) of each piece of a block."""
    shape, ids, bounds, data, _ = block
    count = shape & COUNT
    cut = shape - count
    whose = ffi.unpack(ffi.cast("uint64_t *", ids), count)
    if cut == SHARED or shape == 1:
        return zip(whose, repeat(len(data)))
    if cut == DELIMITED:
        delimiter = ffi.cast("pmx_framing *", bounds)
        text = ffi.buffer(delimiter.delimiter, delimiter.width)[:]
        return zip(whose, map(len, data.split(text)))
    if cut == LENGTHS:
        return zip(whose, memoryview(bounds).cast("q"))
    kind = "int32_t *" if cut == OFFSETS32 else "int64_t *"
    ends = ffi.unpack(ffi.cast(kind, bounds), count + 1)
    return zip(whose, map(sub, ends[1:], ends))


@lru_cache(maxsize=256)
def _longs(count: int) -> Any:
    return Struct(f"@{count}q").pack


class Delimiter:
    """The one delimiter of a mux whose connections all speak the same lines.

    Then lines are cut by `split` and put together by `join`. One that can
    overlap itself, like ``aa``, could be found where it does not begin.
    """

    __slots__ = ("c", "delimiter", "framing")

    def __init__(self, framing: Lines) -> None:
        self.framing: Lines = framing
        self.delimiter: bytes = framing.delimiter
        self.c: Any = ffi.new("pmx_framing *")
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


class Log:
    """What was done, in order.

    Attributes:
        entries: ids with an operation on top, each before what it is done with.
        pending: what a handler has returned so far for `rows`, not logged yet.
    """

    __slots__ = (
        "_blocks",
        "_logged",
        "answer_one",
        "entries",
        "large",
        "pending",
        "rows",
        "seen",
        "specials",
    )

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.answer_one: Callable[[Any, bytes], None]  # how one reply is logged
        self.specials: int = 0  # how many of them are no bytes
        self.large: int = 0  # bytes that went in as large pieces
        self.pending: list[Any] = []  # replies to rows[:len(pending)], not in yet
        self.rows: list[Any] = []
        self._blocks = ffi.new("pmx_block[]", 8)
        self.seen: int = 0  # how many entries are counted in _logged
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
        self.specials += 1
        self.entries += (0, what)

    def answer(self, arena: Any, replies: list[Any], lines: Delimiter | None) -> None:
        """One reply to each row of the batch that stands in an arena, which
        are what is pending, if anything is.

        Raises:
            TypeError: a reply that is not bytes-like; nothing is logged.
        """
        rows = len(replies)
        block: Block
        if rows == 1 and type(replies[0]) is bytes:
            block = 1, arena.ids, b"", replies[0], arena
        else:
            data = b"".join(replies)
            if lines is not None and lines.delimiter not in data:
                data = lines.delimiter.join([*replies, b""])
                keep = arena, lines
                block = DELIMITED | rows, arena.ids, lines.c, data, keep
            else:
                if not PLAIN.issuperset(map(type, replies)):
                    raise TypeError("views need not be as long as their bytes")
                bounds = _longs(rows)(*map(len, replies))
                block = LENGTHS | rows, arena.ids, bounds, data, arena
        self.specials += 1
        self.pending = []
        self.entries += (0, block)

    def merge(self) -> None:
        """Something else is about to be logged: first the replies so far."""
        pending, rows = self.pending, self.rows
        self.pending, self.rows = [], rows[len(pending) :]
        for conn, reply in zip(rows, pending):
            if reply is not None:
                self.answer_one(conn, reply)

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
                for one, size in sizes_of(piece):
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

    def lay_out(self, turn: Any, count: int) -> Block:
        """The first `count` entries, as arguments for the core.

        Returns:
            The one block that they are; where they are more than one, one of
            shape 0, and they are in the turn's blocks. It must live until the
            core has taken them over.
        """
        entries = self.entries
        if count == 2 and self.specials:
            return entries[1]  # type: ignore[no-any-return]
        if not self.specials:
            pieces = entries[1:count:2]
            sizes = list(map(len, pieces))
            large = sum(sizes) > LARGE_PIECE * len(pieces)
            if large or max(sizes) <= LARGE_PIECE:
                ids = array("Q", entries[0:count:2]).tobytes()
                bounds = array("q", sizes).tobytes()
                if not large:
                    return count // 2, ids, bounds, b"".join(pieces), None
                keep = [ffi.from_buffer(one) for one in pieces]
                spans = ffi.new("char *[]", keep)
                return SPANS | count // 2, ids, bounds, spans, keep
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
                n = self._add(n, piece, keep)
                start = at + 1
        if start < len(what):
            n = self._add_pieces(n, who[start:], what[start:], keep)
        turn.blocks = self._blocks
        turn.block_count = n
        return keep

    def _add(self, n: int, what: Block, keep: list[Any]) -> int:
        """The n-th block; how many there are now."""
        if n == len(self._blocks):
            more = ffi.new("pmx_block[]", 2 * n)
            ffi.memmove(more, self._blocks, n * ffi.sizeof("pmx_block"))
            self._blocks = more
        shape, ids, bounds, data, whole = what
        if shape == 1:  # as for `pmx_exchange`: the one has all of data
            bounds = ONE_ID(len(data))
        block = self._blocks[n]
        block.cut = shape >> 32
        block.count = shape & COUNT
        block.ids = _pointer(ids, keep)
        block.bounds = _pointer(bounds, keep)
        block.data = _pointer(data, keep)
        block.size = len(data)
        keep.append(whole)
        return n + 1

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
        data = b"".join(what) if len(what) > 1 else what[0]
        ids, bounds = array("Q", who).tobytes(), array("q", sizes).tobytes()
        return self._add(n, (len(who), ids, bounds, data, None), keep)


def _pointer(what: Any, keep: list[Any]) -> Any:
    """Where bytes are; what is a pointer already is one. Both are kept."""
    if type(what) is bytes:
        what = ffi.from_buffer("uint8_t[]", what)
    keep.append(what)
    return what
