"""The memory of batches, and who may still look at it.

The exporter of an arena (a cffi buffer) is made when a column is first read;
every view, slice and array of it keeps the exporter alive, and the exporter
keeps the arena. So a weak reference to the exporter tells, and nothing else
does, whether anybody may still look (`memoryview.release()` succeeds while
slices live): only then is an arena used again.
"""

from __future__ import annotations

import weakref
from typing import Any

from ._core import ffi, lib

__all__ = ["Arena", "Arenas"]


class Arena:
    """One batch's memory, which views of it keep alive."""

    __slots__ = ("base", "c", "data", "exporter", "offsets", "slots")

    def __init__(self, c: Any) -> None:
        self.c = ffi.gc(c, lib.pmx_arena_free, c.total)
        self.base = int(ffi.cast("uintptr_t", c))
        self.exporter: weakref.ref[Any] | None = None
        # for reading in here, never handed out: see view()
        self.data = memoryview(ffi.buffer(c.data, c.capacity))
        rows = c.rows
        self.slots = memoryview(ffi.buffer(c.slots, 4 * rows)).cast("I")
        self.offsets = memoryview(ffi.buffer(c.offsets, 4 * rows + 4)).cast("i")

    def held(self) -> bool:
        """Whether a view of it may be alive."""
        return self.exporter is not None and self.exporter() is not None

    def view(self, start: Any, size: int) -> memoryview:
        """A read-only view of `size` bytes from a pointer into it."""
        exporter = None if self.exporter is None else self.exporter()
        if exporter is None:
            exporter = ffi.buffer(self.c, self.c.total)
            self.exporter = weakref.ref(exporter)
        at = int(ffi.cast("uintptr_t", start)) - self.base
        return memoryview(exporter)[at : at + size].toreadonly()


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
        self.current = self._new()
        self.adopted: Arena | None = None

    def _new(self) -> Arena:
        c = lib.pmx_arena_new(*self._shape)
        if not c:
            raise MemoryError(f"no memory for an arena of {self._shape[0]} bytes")
        return Arena(c)

    def _leave(self, arena: Arena) -> None:
        self._left = [ref for ref in self._left if ref() is not None]
        if arena.exporter is not None:
            self._left.append(arena.exporter)

    def ready(self) -> Arena:
        """The last batch is over: an arena that nobody looks at."""
        if self.current.exporter is not None or self.adopted is not None:
            self._make_ready()
        return self.current

    def _make_ready(self) -> None:
        adopted, self.adopted = self.adopted, None
        if adopted is not None:
            self._leave(adopted)
        held = self.current
        if not held.held():
            held.exporter = None
            return
        self._leave(held)
        for at, arena in enumerate(self._resting):
            if not arena.held():
                self._resting[at] = held
                self.current = arena
                return
        self.current = self._new()
        if len(self._resting) < self.REST:
            self._resting.append(held)

    def held(self) -> int:
        """How many arenas have views that live."""
        held = {id(ref) for ref in self._left if ref() is not None}
        for arena in (self.current, self.adopted):
            if arena is not None and arena.held():
                held.add(id(arena.exporter))
        return len(held)
