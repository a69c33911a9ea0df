"""Messages that a blocking client has received and `recv` has not returned yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..objects.batch import Batch

__all__ = ["Held", "Place"]

# Bytes that a message and a batch cost beside their payload while they are held.
_ROW_COST = 4
_PACK_COST = 64


class _Pack:
    """The messages of one batch, and the pack behind it.

    The messages are packed, because a million short ones would cost many times their
    size as objects, and the memory of a client is bounded.
    """

    __slots__ = ("batch", "before", "data", "next", "offsets", "rows")

    def __init__(
        self, batch: Batch | None, data: bytes, offsets: Sequence[int], before: int
    ) -> None:
        self.batch = batch  # while this is the last pack
        self.data = data
        self.offsets = offsets
        self.rows = len(offsets) - 1
        self.before = before  # the cost of all packs before this one
        self.next: _Pack | None = None

    def cost(self, row: int) -> int:
        """The cost of all messages before this row, in bytes."""
        used = self.offsets[row] - self.offsets[0]
        return self.before + _PACK_COST + used + _ROW_COST * row


Place = tuple[_Pack, int]


class Held:
    """Messages in order, each taken once.

    A signal's handler may raise behind any call, so each step is one assignment. A
    batch is kept when its pack is linked, and keeping the batch again does nothing.
    The caller takes a message by moving `place`.

    Attributes:
        place: the pack of the next message, and the row of that message in the pack.
    """

    __slots__ = ("_last", "place")

    def __init__(self) -> None:
        first = _Pack(None, b"", (0,), -_PACK_COST)
        self.place: Place = first, 0
        self._last = first

    def keep(self, batch: Batch) -> None:
        """Copy the messages of a valid batch, unless the batch is kept already."""
        last = self._last
        while last.next is not None:
            last = last.next
        self._last = last
        rows = len(batch)
        if not rows or last.batch is batch:
            return
        data = bytes(batch.data)
        offsets: Sequence[int] = (0, len(data))
        if rows > 1:
            offsets = memoryview(bytes(batch.offsets)).cast("i")
        last.next = _Pack(batch, data, offsets, last.cost(last.rows))
        last.batch = None

    def next(self) -> tuple[bytes, Place] | None:
        """The oldest message, and the place behind it; None if nothing is held."""
        pack, row = self.place
        while row == pack.rows:
            if pack.next is None:
                return None
            pack, row = pack.next, 0
        offsets = pack.offsets
        return pack.data[offsets[row] : offsets[row + 1]], (pack, row + 1)

    @property
    def size(self) -> int:
        """The cost of all that is held, in bytes."""
        last = self._last.next or self._last
        pack, row = self.place
        return last.cost(last.rows) - pack.cost(row)
