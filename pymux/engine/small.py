"""A small engine for one socket.

The engine prefers poll, which needs no descriptor. There is no wakeup before the first
call of `can_be_woken`. The memory grows with the input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .._core import lib
from .arena import Arenas
from .backends import choose
from .engine import Engine, Objects

__all__ = ["SmallEngine"]

# Bytes and rows of one harvest: first a small arena, then a larger one.
FIRST_ARENA = 8192
ARENA = 65536
ROWS = 128


class SmallEngine(Engine):
    """An engine for one outgoing connection."""

    arenas: Arenas
    wakeup_fd: int

    _grown = False

    def __init__(self, objects: Objects, join: Callable[[Engine], None]) -> None:
        super().__init__(
            objects, _backend(), arena_size=ARENA, max_messages=ROWS, join=join
        )

    def _open(self, name: Any, max_messages: int, arena_size: int, spin_ns: int) -> int:
        return int(lib.pmx_open_small(self._place, name, max_messages, arena_size))

    def new_arenas(self, arena_size: int, max_messages: int) -> Arenas:
        return Arenas(FIRST_ARENA, max_messages)

    def is_used(self) -> bool:
        return False  # the client's own warning is enough

    def grow(self) -> None:
        """Use a larger arena, if this batch fills more than half of the first one."""
        if not self._grown and self.arena.size() > FIRST_ARENA // 2:
            self.arenas = Arenas(ARENA, ROWS)
            self.stale = self._grown = True

    def can_be_woken(self) -> bool:
        """Open the wakeup. True if another thread, or a signal, can now end a wait."""
        if self.wakeup_fd >= 0:
            return True
        with self.lock:
            if lib.pmx_wakeup_open(self.c):
                return False  # perhaps no descriptor is left
            self.wakeup_fd = lib.pmx_wakeup_fd(self.c)
        return True


def _backend() -> str | None:
    """Choose the backend for one socket: poll needs no descriptor of its own."""
    name = choose(None)
    best = b"epoll" if sys.platform == "linux" else b"kqueue"
    if sys.platform != "win32" and name in (None, best):
        return "poll"
    return name.decode() if name else None
