"""The memory of batches, and who may still look at it.

Each arena has one exporter (a cffi buffer), made when a column is first read;
every view, slice and array holds a reference to it, and it keeps the arena's
memory. So its reference count tells, and nothing else does, whether anybody
may still look (`memoryview.release()` succeeds while slices live): only when
nobody does is an arena used again, and never where references are not counted.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, pairwise
from struct import Struct
from typing import Any

from .._core import ffi, lib

__all__ = ["Arena", "Arenas"]


LARGE_MESSAGE = 2048  # mean size from which one copy more costs more than a view
UNIFORM = 256  # messages all of one size up to this are cut by struct,
AT_ONCE = 64  # at most so many by one
MANY = 64  # rows from which it is seen whether they come in runs,
RUN = 4  # and so many of a connection in a row, on average, are worth one


class Arena:
    """One batch's memory, which views of it keep alive.

    Attributes:
        ids, ends: where the core has the columns of ids and of offsets.
    """

    __slots__ = (
        "_at",
        "_data",
        "_slots",
        "_total",
        "c",
        "ends",
        "exporter",
        "ids",
        "offsets",
    )

    def __init__(self, c: Any) -> None:
        self._total = c.total
        self.c: Any = ffi.gc(c, lib.pmx_arena_drop, self._total)
        self.exporter: Any = None
        self.ids: Any = c.ids
        self.ends: Any = c.offsets
        base = address(c)
        self._at = (
            address(c.data) - base,
            address(self.ends) - base,
            address(self.ids) - base,
        )
        # for reading in here, never handed out: see view()
        rows = c.rows
        self._data = memoryview(ffi.buffer(c.data, c.capacity))
        self._slots = memoryview(ffi.buffer(c.slots, 4 * rows)).cast("I")
        ends = ffi.buffer(self.ends, 4 * rows + 4)
        self.offsets: memoryview[int] = memoryview(ends).cast("i")

    # --- views, to be handed out ------------------------------------------

    def held(self) -> bool:
        """Whether a view of it may be alive."""
        return self.exporter is not None and references(self) > ALONE

    def view(self, column: int, size: int) -> memoryview:
        """A read-only view of the first `size` bytes of a column: DATA, ..."""
        if self.exporter is None:
            self.exporter = ffi.buffer(self.c, self._total)
        at = self._at[column]
        return memoryview(self.exporter)[at : at + size].toreadonly()

    def size(self) -> int:
        """Bytes of payload in it."""
        return int(self.c.size)

    def has_gaps(self) -> bool:
        """Whether a delimiter stands behind each message."""
        return bool(self.c.gap)

    def close_gaps(self) -> None:
        """Take the delimiters out: payloads stand back to back from now on."""
        lib.pmx_close_gaps(self.c)

    # --- a batch, as objects ------------------------------------------------

    def only(self, table: list[Any], gap: bytes | None) -> tuple[Any, bytes]:
        """The connection and the bytes of the only row."""
        end = self.offsets[1]
        if gap:
            end -= len(gap)
        return table[self._slots[0]], self._data[:end].tobytes()

    def conns(self, table: list[Any], rows: int) -> list[Any]:
        """The connection of each row."""
        if rows == 1:
            return [table[self._slots[0]]]
        runs = self.runs(table, rows) if rows >= MANY else None
        if runs is None:
            return [table[slot] for slot in self._slots[:rows].tolist()]
        conns = []
        for conn, length in runs:
            conns += [conn] * length
        return conns

    def runs(self, table: list[Any], rows: int) -> list[tuple[Any, int]] | None:
        """(connection, number of rows) for the rows of one connection that
        follow each other; None where they are too few to be worth it."""
        count = self.c.run_count
        if count * RUN > rows:
            return None
        found = []
        at, slots = 0, self._slots
        for length in ffi.unpack(self.c.runs, count):
            found.append((table[slots[at]], length))
            at += length
        return found

    def messages(self, rows: int, gap: bytes | None) -> list[bytes]:
        """The bytes of each row; `gap` stands behind each, where it does."""
        width = len(gap) if gap else 0
        end = self.offsets[rows] if rows else 0
        if rows <= 1:
            return [self._data[: end - width].tobytes()] if rows else []
        if end > LARGE_MESSAGE * rows:  # each copied once, not twice
            return list(self._one_by_one(rows, width))
        size = self.c.uniform
        if 0 < size <= UNIFORM:
            return cut_evenly(self._data, rows, size, width)
        blob = self._data[:end].tobytes()
        if gap:
            messages = blob.split(gap)
            messages.pop()
            return messages
        ends = self.offsets[: rows + 1].tolist()
        return [blob[a:b] for a, b in pairwise(ends)]

    def cut(self, rows: int, gap: bytes | None) -> Iterable[bytes]:
        """The same, to be gone through once: large ones are made only then, so
        that each is answered, and its memory used again, while in the cache."""
        if self.offsets[rows] > LARGE_MESSAGE * rows:
            return self._one_by_one(rows, len(gap) if gap else 0)
        return self.messages(rows, gap)

    def _one_by_one(self, rows: int, width: int) -> Iterator[bytes]:
        """Not a generator, which would be over when a signal's handler raises
        in it, and with it the rows that are left."""
        data, ends = self._data, self.offsets[: rows + 1].tolist()
        return map(lambda a, b: data[a : b - width].tobytes(), ends, ends[1:])


DATA, OFFSETS, IDS = range(3)  # columns
COUNTS = sys.implementation.name == "cpython"


def references(arena: Any) -> int:
    """How many references there are to an arena's exporter; many, where that
    cannot be known."""
    return sys.getrefcount(arena.exporter) if COUNTS else MANY


class _Lone:
    exporter = object()


ALONE = references(_Lone) if COUNTS else 0  # with nobody's but the arena's own


def address(pointer: Any) -> int:
    """A pointer as a number."""
    return int(ffi.cast("uintptr_t", pointer))


@lru_cache(maxsize=512)
def _even(size: int, gap: int, count: int) -> Struct:
    return Struct(f"{size}s{gap}x" * count if gap else f"{size}s" * count)


def cut_evenly(data: Any, rows: int, size: int, gap: int) -> list[bytes]:
    """Messages of one size, up to AT_ONCE of them cut by one call."""
    step = size + gap
    rest = rows % AT_ONCE
    whole = (rows - rest) * step
    messages: list[bytes] = []
    if whole:
        cut = _even(size, gap, AT_ONCE).iter_unpack(data[:whole])
        messages = list(chain.from_iterable(cut))
    if rest:
        messages += _even(size, gap, rest).unpack_from(data, whole)
    return messages


class Arenas:
    """The arenas of a mux: the one in use, and some that rest.

    Attributes:
        current: where the next batch goes.
        adopted: a large frame's own memory, for the one batch that it is.
    """

    REST = 4  # others live and die with the views that hold them

    def __init__(self, capacity: int, rows: int) -> None:
        self._shape = capacity, rows
        self._resting: list[Arena] = []
        self._left: list[weakref.ref[Any]] = []  # exporters of arenas let go
        self.current: Arena = self._new()
        self.adopted: Arena | None = None

    def _new(self) -> Arena:
        c = lib.pmx_arena_new(*self._shape)
        if not c:
            raise MemoryError(f"no memory for an arena of {self._shape[0]} bytes")
        return Arena(c)

    def adopt(self, c: Any) -> Arena:
        """A large frame's own memory; the same again for the same batch.

        A signal's handler may raise behind any call: what it drops then does not
        free the memory, which is owned from the last step on.
        """
        if self.adopted is None:
            arena = Arena(c)
            self.adopted = arena
            arena.c.owned = 1
        return self.adopted

    def _leave(self, arena: Arena) -> None:
        """Let go of an arena that its views may keep."""
        self._left = [ref for ref in self._left if ref() is not None]
        if arena.held():
            self._left.append(weakref.ref(arena.exporter))

    def ready(self) -> Arena:
        """The last batch is over: an arena that nobody looks at."""
        adopted, self.adopted = self.adopted, None
        if adopted is not None:
            self._leave(adopted)
        held = self.current
        if not held.held():
            return held
        for at, arena in enumerate(self._resting):
            if not arena.held():
                self._resting[at] = held
                self.current = arena
                return arena
        self.current = self._new()
        if COUNTS and len(self._resting) < self.REST:
            self._resting.append(held)
        else:
            self._leave(held)
        return self.current

    def held(self) -> int:
        """How many arenas have views that live."""
        ours = [self.current, *self._resting]
        if self.adopted is not None:
            ours.append(self.adopted)
        left = [ref for ref in self._left if ref() is not None]
        return len(left) + sum(arena.held() for arena in ours)
