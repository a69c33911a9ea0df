"""An engine that weighs little more than its one socket.

It polls a table of its own, which takes no descriptor, and has no wakeup until a
caller asks whether it can be woken. Its memory grows with what it receives.
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

# What one harvest takes in: at first, and once that was not enough.
FIRST_ARENA = 8192
ARENA = 65536
ROWS = 128


class SmallEngine(Engine):
    """An engine for one connection, which it dials."""

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
        return False  # its client warns

    def grow(self) -> None:
        """Take in more with a harvest, if this one has nearly filled its arena."""
        if not self._grown and self.arena.size() > FIRST_ARENA // 2:
            self.arenas = Arenas(ARENA, ROWS)
            self.stale = self._grown = True

    def can_be_woken(self) -> bool:
        """True if another thread, or a signal, can end a wait; asked before one."""
        if self.wakeup_fd >= 0:
            return True
        with self.lock:
            if lib.pmx_wakeup_open(self.c):
                return False  # no descriptor is left, say
            self.wakeup_fd = lib.pmx_wakeup_fd(self.c)
        return True


def _backend() -> str | None:
    """The poller for one socket: one that takes no descriptor of its own."""
    name = choose(None)
    best = b"epoll" if sys.platform == "linux" else b"kqueue"
    if sys.platform != "win32" and name in (None, best):
        return "poll"
    return name.decode() if name else None
