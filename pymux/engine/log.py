"""The output log: messages and operations since the last harvest.

The log is one list in which ids and pieces alternate. `send` extends the list by
both in one cheap step, so no signal handler finds an id without its piece. The core
takes the log over as blocks. Small pieces are joined. Large pieces, replies cut from
one buffer, and a message for many connections go by reference.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import repeat
from operator import sub
from struct import Struct
from struct import error as StructError
from typing import Any

from .._core import ffi, lib
from ..values.framing import Lines
from .structs import fill_framing

__all__ = ["Log"]

ONE_ID = Struct("@Q").pack
LARGE_PIECE = 8192  # sent by reference rather than joined with the others
COUNT = 2**32 - 1  # the bits of a shape that count pieces; its cut is above them
LENGTHS = lib.PMX_LENGTHS << 32
OFFSETS32 = lib.PMX_OFFSETS32 << 32
OFFSETS64 = lib.PMX_OFFSETS64 << 32
SHARED = lib.PMX_SHARED << 32
DELIMITED = lib.PMX_DELIMITED << 32
SPANS = lib.PMX_SPANS << 32
ANSWERS = lib.PMX_ANSWERS << 32  # a flag beside one of these
PLAIN = frozenset({bytes, bytearray})


# Many pieces in one entry of the log, as the core takes them.
#
#   shape   how the pieces are cut, and their number
#   ids     the connection of each piece: a buffer of uint64
#   bounds  where pieces begin and end, in a form that depends on the cut; one
#           piece cut by lengths needs none
#   data    the bytes of all pieces
#   keep    keeps the memory of ids and bounds alive
Block = tuple[int, Any, Any, Any, Any]


def sizes_of(block: Block) -> Iterator[tuple[int, int]]:
    """Return (id, size) of each piece of a block."""
    shape, ids, bounds, data, _ = block
    count = shape & COUNT
    cut = (shape - count) & ~ANSWERS
    targets = ffi.unpack(ffi.cast("uint64_t *", ids), count)
    if cut == SHARED or shape == 1:
        return zip(targets, repeat(len(data)))
    if cut == DELIMITED:
        delimiter = ffi.cast("pmx_framing *", bounds)
        text = ffi.buffer(delimiter.delimiter, delimiter.width)[:]
        return zip(targets, map(len, data.split(text)))
    if cut == LENGTHS:
        return zip(targets, memoryview(bounds).cast("q"))
    kind = "int32_t *" if cut == OFFSETS32 else "int64_t *"
    ends = ffi.unpack(ffi.cast(kind, bounds), count + 1)
    return zip(targets, map(sub, ends[1:], ends))


@lru_cache(maxsize=256)
def _longs(count: int) -> Callable[..., bytes]:
    return Struct(f"@{count}q").pack


def _column(ids: list[int]) -> bytes:
    """Pack ids as uint64.

    As signed numbers they take a third of the time. Only some operations are larger.
    """
    try:
        return _longs(len(ids))(*ids)
    except StructError:
        return array("Q", ids).tobytes()


class Delimiter:
    """The delimiter that all connections of a service share.

    `split` then cuts lines, and `join` puts them together. A delimiter that can
    overlap itself, like ``aa``, could be found where it does not begin.
    """

    __slots__ = ("c", "delimiter", "framing")

    def __init__(self, framing: Lines) -> None:
        self.framing: Lines = framing
        self.delimiter: bytes = framing.delimiter
        self.c: Any = ffi.new("pmx_framing *")
        fill_framing(self.c, framing)
        self.c.max_size = 2**31 - 1  # replies have no such limit

    @classmethod
    def of(cls, framing: Any) -> Delimiter | None:
        """Return the delimiter of a framing, or None if it has none to share."""
        if not isinstance(framing, Lines):
            return None
        text = framing.delimiter
        if any(text[:n] == text[-n:] for n in range(1, len(text))):
            return None
        return cls(framing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delimiter) and self.delimiter == other.delimiter


class Log:
    """Messages and operations, in order.

    Attributes:
        entries: ids, with an operation in their top bits, each before its piece.
        pending: replies that a handler has returned for `rows`, not logged yet.
    """

    __slots__ = (
        "_blocks",
        "_bound",
        "_logged",
        "answer_one",
        "bounded",
        "entries",
        "large",
        "pending",
        "rows",
        "seen",
        "specials",
    )

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.answer_one: Callable[[Any, bytes], None]  # logs one reply
        self.specials: int = 0  # entries whose piece is no bytes
        self.large: int = 0  # bytes of large pieces
        self.pending: list[Any] = []  # replies to rows[:len(pending)]
        self.rows: list[Any] = []
        self._blocks = ffi.new("pmx_block[]", 8)
        self.seen: int = 0  # entries that _logged counts
        self._logged: defaultdict[int, int] = defaultdict(int)
        self.bounded: int = 0  # entries that _bound counts
        self._bound = 0

    def op(self, id: int) -> None:
        """Log an operation without bytes."""
        if self.pending:
            self.merge()
        self.entries += (id, b"")

    def special(self, block: Any) -> None:
        """Log a reply to a batch, or a message to many connections."""
        if self.pending:
            self.merge()
        self.specials += 1
        self.entries += (0, block)

    def answer(self, arena: Any, replies: list[Any], lines: Delimiter | None) -> None:
        """Log one reply to each row of an arena's batch.

        If replies are pending, they are these.

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
        """Move the pending replies into the log."""
        pending, rows = self.pending, self.rows
        self.pending, self.rows = [], rows[len(pending) :]
        for conn, reply in zip(rows, pending):
            if reply is not None:
                self.answer_one(conn, reply)

    def settle(self) -> None:
        """Log the pending replies before a connection changes its status."""
        if self.pending:
            self.merge()

    def queued(self, id: int) -> int:
        """Return the bytes logged for a connection. Each entry is counted once."""
        if self.pending:
            self.merge()
        entries, seen = self.entries, self.seen
        if not seen:
            self._logged = defaultdict(int)
        logged = self._logged
        count = len(entries)
        while seen != count:
            piece = entries[seen + 1]
            if type(piece) is bytes:
                logged[entries[seen]] += len(piece)
            else:
                for target, size in sizes_of(piece):
                    logged[target] += size
            seen += 2
        self.seen = seen
        return logged.get(id, 0)

    def bound(self) -> int:
        """Return a number of bytes that no connection has more of in the log."""
        entries = self.entries
        if not self.bounded:
            self._bound = 0
        for at in range(self.bounded + 1, len(entries), 2):
            piece = entries[at]
            self._bound += len(piece if type(piece) is bytes else piece[3])
        self.bounded = len(entries)
        return self._bound

    def size(self) -> int:
        """Return the bytes of all entries, without replies to batches."""
        return sum(len(piece) for piece in self.entries[1::2] if type(piece) is bytes)

    def insert_before(self, marker: int, id: int, piece: bytes) -> bool:
        """Insert a piece before the last `marker`. False if there is none."""
        entries = self.entries
        for at in range(len(entries) - 2, -1, -2):
            if entries[at] == marker:
                entries[at:at] = (id, piece)
                self.seen = self.bounded = 0
                return True
        return False

    def ready_to_submit(self) -> int:
        """Return how many entries may leave while a handler runs.

        An answer of the handler may have to go before a close that is logged.
        """
        for at in range(0, len(self.entries), 2):
            if self.entries[at] >> 60 == lib.PMX_CLOSE:
                return at
        return len(self.entries)

    def lay_out(self, turn: Any, count: int) -> Block:
        """Lay out the first `count` entries as arguments for the core.

        Returns:
            One block with all entries; or a block of shape 0, with the entries in
            the turn's blocks. It must live until the core has taken the entries.
        """
        entries = self.entries
        if count == 2 and self.specials:
            block: Block = entries[1]
            return block
        if not self.specials:
            pieces = entries[1:count:2]
            sizes = list(map(len, pieces))
            most = max(set(sizes))  # of few sizes, where a handler sends to many
            large = most > LARGE_PIECE and sum(sizes) > LARGE_PIECE * len(pieces)
            if large or most <= LARGE_PIECE:
                ids = _column(entries[0:count:2])
                bounds = _longs(len(sizes))(*sizes)
                if not large:
                    return count // 2, ids, bounds, b"".join(pieces), None
                keep = [ffi.from_buffer(piece) for piece in pieces]
                spans = ffi.new("char *[]", keep)
                return SPANS | count // 2, ids, bounds, spans, keep
        return 0, b"", b"", b"", self.lay_out_blocks(turn, count)

    def lay_out_blocks(self, turn: Any, count: int) -> Any:
        """Lay out the first `count` entries in the turn's blocks.

        Returns:
            Objects that must live until the core has taken the entries.
        """
        ids, pieces = self.entries[0:count:2], self.entries[1:count:2]
        keep: list[Any] = []
        n = start = 0
        if self.specials:
            for at, piece in enumerate(pieces):
                if type(piece) is bytes:
                    continue
                if at > start:
                    n = self._add_pieces(n, ids[start:at], pieces[start:at], keep)
                n = self._add(n, piece, keep)
                start = at + 1
        if start < len(pieces):
            n = self._add_pieces(n, ids[start:], pieces[start:], keep)
        turn.blocks = self._blocks
        turn.block_count = n
        return keep

    def _add(self, n: int, block: Block, keep: list[Any]) -> int:
        """Fill the n-th block; return the number of the next."""
        if n == len(self._blocks):
            more = ffi.new("pmx_block[]", 2 * n)
            ffi.memmove(more, self._blocks, n * ffi.sizeof("pmx_block"))
            self._blocks = more
        shape, ids, bounds, data, memory = block
        if shape == 1:  # all of data is one piece, as for `pmx_exchange`
            bounds = ONE_ID(len(data))
        c = self._blocks[n]
        c.cut = shape >> 32
        c.count = shape & COUNT
        c.ids = _pointer(ids, keep)
        c.bounds = _pointer(bounds, keep)
        c.data = _pointer(data, keep)
        c.size = len(data)
        keep.append(memory)
        return n + 1

    def _add_pieces(
        self, n: int, ids: list[int], pieces: list[bytes], keep: list[Any]
    ) -> int:
        """Add blocks for pieces: small pieces are joined, each large one is alone."""
        sizes = list(map(len, pieces))
        if len(pieces) > 1 and max(sizes) > LARGE_PIECE:
            start = 0
            for at, size in enumerate(sizes):
                if size > LARGE_PIECE:
                    if at > start:
                        n = self._add_pieces(n, ids[start:at], pieces[start:at], keep)
                    n = self._add_pieces(n, [ids[at]], [pieces[at]], keep)
                    start = at + 1
            if start == len(pieces):
                return n
            ids, pieces, sizes = ids[start:], pieces[start:], sizes[start:]
        data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        targets, bounds = _column(ids), _longs(len(sizes))(*sizes)
        return self._add(n, (len(ids), targets, bounds, data, None), keep)


def _pointer(data: Any, keep: list[Any]) -> Any:
    """Return a pointer to bytes, or the pointer that `data` is, and keep it alive."""
    if type(data) is bytes:
        data = ffi.from_buffer("uint8_t[]", data)
    keep.append(data)
    return data
