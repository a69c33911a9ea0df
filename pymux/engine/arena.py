"""The memory of batches, and the views that keep it.

Each arena has one exporter (a cffi buffer), made when a column is first read.
Every view, slice and array holds a reference to the exporter, which keeps the
arena's memory. Only the exporter's reference count tells whether a view is alive:
`memoryview.release()` succeeds while slices live. An arena with a live view is not
used again; nor is any viewed arena on an interpreter that counts no references.

Arrow arrays (arrow.py) are no Python objects: each holds the arena's lease, in C,
which tells how many there are and frees the arena with the last.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain, pairwise
from struct import Struct
from typing import Any

from .._core import ffi, lib

__all__ = ["ROW_COST", "UNSIZED", "Arena", "Arenas"]


LARGE_MESSAGE = 2048  # mean size from which one copy more costs more than a view
UNIFORM = 256  # messages of one size up to this are cut by struct
AT_ONCE = 64  # messages that one struct cuts at most
MANY = 64  # in a batch of fewer rows, runs are not looked for
RUN = 4  # mean length from which runs of rows are used
ROW_COST = 64  # bytes counted for a message that waits, beside its length
UNSIZED = 4096  # bytes counted for such a message whose size is unknown


class Arena:
    """One batch's memory, which its views keep alive.

    Attributes:
        ids, ends: pointers to the core's columns of ids and of offsets.
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
        "lease",
        "offsets",
    )

    def __init__(self, c: Any) -> None:
        self._total = c.total
        self.c: Any = ffi.gc(c, lib.pmx_arena_drop, self._total)
        self.exporter: Any = None
        self.lease: Any = None  # there have been Arrow arrays
        self.ids: Any = c.ids
        self.ends: Any = c.offsets
        base = address(c)
        self._at = (
            address(c.data) - base,
            address(self.ends) - base,
            address(self.ids) - base,
        )
        # Internal views; user code gets read-only ones from `view()`.
        rows = c.rows
        self._data = memoryview(ffi.buffer(c.data, c.capacity))
        self._slots = memoryview(ffi.buffer(c.slots, 4 * rows)).cast("I")
        ends = ffi.buffer(self.ends, 4 * rows + 4)
        self.offsets: memoryview[int] = memoryview(ends).cast("i")

    # --- views for user code ----------------------------------------------

    def held(self) -> bool:
        """True if a view or an Arrow array of the arena may be alive."""
        return self.exporter is not None and (
            references(self) > ALONE
            or (self.lease is not None and lib.pmx_lease_holders(self.lease) > 1)
        )

    def lend(self) -> Any:
        """Return the `pmx_lease` of the arena, for Arrow arrays."""
        if self.exporter is None:
            self.exporter = ffi.buffer(self.c, self._total)
        if self.lease is None:
            lease = lib.pmx_arena_lease(self.c)
            if not lease:
                raise MemoryError("no memory for an Arrow array")
            self.lease = ffi.gc(lease, lib.pmx_lease_drop)
        return self.lease

    def view(self, column: int, size: int) -> memoryview:
        """Return a read-only view of the first `size` bytes of a column."""
        if self.exporter is None:
            self.exporter = ffi.buffer(self.c, self._total)
        at = self._at[column]
        return memoryview(self.exporter)[at : at + size].toreadonly()

    def size(self) -> int:
        """Return the bytes of payload."""
        return int(self.c.size)

    def has_gaps(self) -> bool:
        """True if a delimiter stands behind each message."""
        return bool(self.c.gap)

    def close_gaps(self) -> None:
        """Remove the delimiters, so that payloads stand back to back."""
        lib.pmx_close_gaps(self.c)

    # --- a batch, as objects ------------------------------------------------

    def only(self, table: list[Any], gap: bytes | None) -> tuple[Any, bytes]:
        """Return the connection and the bytes of the only row."""
        end = self.offsets[1]
        if gap:
            end -= len(gap)
        return table[self._slots[0]], self._data[:end].tobytes()

    def conns(self, table: list[Any], rows: int) -> list[Any]:
        """Return the connection of each row."""
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
        """Return (connection, length) of each run: consecutive rows of a connection.

        None if the runs are too short to be worth it.
        """
        count = self.c.run_count
        if count * RUN > rows:
            return None
        found = []
        at, slots = 0, self._slots
        for length in ffi.unpack(self.c.runs, count):
            found.append((table[slots[at]], length))
            at += length
        return found

    def owed(self, rows: int) -> tuple[Any, Any, int, dict[int, int]]:
        """Return what outlives the batch where its answers come later.

        Returns:
            Copies of the columns of ids and of offsets; the width of the gap behind
            each message; the bytes that the messages of each connection count, by id.
        """
        c = self.c
        ids, ends = ffi.new("uint64_t[]", rows), ffi.new("int32_t[]", rows + 1)
        ffi.memmove(ids, self.ids, 8 * rows)
        ffi.memmove(ends, self.ends, 4 * (rows + 1) if rows else 0)
        sizes: dict[int, int] = {}
        at = 0
        for length in ffi.unpack(c.runs, c.run_count) if rows else ():
            id, first = ids[at], ends[at]
            at += length
            size = ends[at] - first + ROW_COST * length
            sizes[id] = sizes.get(id, 0) + size
        return ids, ends, c.gap, sizes

    def messages(self, rows: int, gap: bytes | None) -> list[bytes]:
        """Return the bytes of each row. `gap` is the delimiter behind each, if any."""
        width = len(gap) if gap else 0
        end = self.offsets[rows] if rows else 0
        if rows <= 1:
            return [self._data[: end - width].tobytes()] if rows else []
        if end > LARGE_MESSAGE * rows:  # copy each once, not twice
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
        """Return the bytes of each row, to be iterated once.

        Large messages are made one by one: each is answered, and its memory used
        again, while it is in the cache.
        """
        if self.offsets[rows] > LARGE_MESSAGE * rows:
            return self._one_by_one(rows, len(gap) if gap else 0)
        return self.messages(rows, gap)

    def _one_by_one(self, rows: int, width: int) -> Iterator[bytes]:
        """Return an iterator that makes the bytes of one row at a time.

        A signal handler that raises would end a generator, and lose the rows left.
        """
        data, ends = self._data, self.offsets[: rows + 1].tolist()
        return map(lambda a, b: data[a : b - width].tobytes(), ends, ends[1:])


DATA, OFFSETS, IDS = range(3)  # columns
COUNTS = sys.implementation.name == "cpython"


def references(arena: Any) -> int:
    """Count the references to an arena's exporter; MANY if the interpreter cannot."""
    return sys.getrefcount(arena.exporter) if COUNTS else MANY


class _Lone:
    exporter = object()


ALONE = references(_Lone) if COUNTS else 0  # the count without a view


def address(pointer: Any) -> int:
    """Return a pointer as a number."""
    return int(ffi.cast("uintptr_t", pointer))


@lru_cache(maxsize=512)
def _even(size: int, gap: int, count: int) -> Struct:
    return Struct(f"{size}s{gap}x" * count if gap else f"{size}s" * count)


def cut_evenly(data: Any, rows: int, size: int, gap: int) -> list[bytes]:
    """Cut messages of one size, up to AT_ONCE of them by one call."""
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
    """The arenas of a mux: the one in use, and some spare ones.

    Attributes:
        current: the arena of the next batch.
        adopted: a large frame's own memory, for the batch of that frame.
    """

    REST = 4  # spare arenas; others live as long as their views

    def __init__(self, capacity: int, rows: int) -> None:
        self._shape = capacity, rows
        self._resting: list[Arena] = []
        # For each arena that was let go: true while a view or an array keeps it.
        self._left: list[Callable[[], Any]] = []
        self.current: Arena = self._new()
        self.adopted: Arena | None = None

    def _new(self) -> Arena:
        c = lib.pmx_arena_new(*self._shape)
        if not c:
            raise MemoryError(f"no memory for an arena of {self._shape[0]} bytes")
        return Arena(c)

    def adopt(self, c: Any) -> Arena:
        """Take over a large frame's own memory; again the same for the same batch.

        A signal handler may raise after any call. The arena owns the memory only
        from the last step on, so an arena that is dropped before does not free it.
        """
        if self.adopted is None:
            arena = Arena(c)
            self.adopted = arena
            arena.c.owned = 1
        return self.adopted

    def _leave(self, arena: Arena) -> None:
        """Let go of an arena, which its views may keep."""
        self._left = [held for held in self._left if held()]
        if not arena.held():
            return
        if arena.lease is None:
            self._left.append(weakref.ref(arena.exporter))
        else:  # views keep the arena, and with it the owner's part of the lease
            self._left.append(partial(lib.pmx_lease_holders, arena.lease))

    def ready(self) -> Arena:
        """End the last batch; return an arena without live views."""
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
        """Count the arenas with live views."""
        ours = [self.current, *self._resting]
        if self.adopted is not None:
            ours.append(self.adopted)
        left = [held for held in self._left if held()]
        return len(left) + sum(arena.held() for arena in ours)
