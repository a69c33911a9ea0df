"""An engine belongs to one process, and there to the thread of its first harvest."""

from __future__ import annotations

import errno
import os
import weakref
from threading import get_ident
from typing import Any

from .locks import RLock

__all__ = ["FORKED", "Owned", "busy"]

FORKED = -1  # `thread` of an engine in a forked child
BUSY = -errno.EBUSY  # the core did nothing: another thread is inside


def busy() -> RuntimeError:
    """Return the error of a call while another thread is inside the mux."""
    return RuntimeError(
        "another thread is inside this mux just now, and it takes one at a time; "
        "other threads may use call_threadsafe() and wakeup()"
    )


class Owned:
    """The first layer of an engine: the thread that may call.

    Attributes:
        c: the core's mux, None once the mux is closed.
        thread: the owner's number, None before the first harvest, FORKED in a
            forked child. Hot calls compare `thread` before they call `check`.
        lock: taken by calls from other threads; `c` is not closed meanwhile.
    """

    lock: Any

    def __init__(self) -> None:
        self.c: Any = None
        self.thread: int | None = None
        self.lock = RLock()
        _ALL.add(self)

    def after_fork(self) -> None:
        """Refuse all calls in a forked child: the engine is the parent's."""
        self.thread = FORKED
        self.lock = RLock()  # another thread may have held the lock

    def is_over(self) -> bool:
        """True if the engine is closed."""
        return self.c is None

    def check(self) -> None:
        """Raise if this thread or process may not use the engine.

        Raises:
            RuntimeError: the engine is closed, or belongs to another thread or process.
        """
        owner = self.thread
        if owner == get_ident():
            if self.c is None:
                raise RuntimeError("the mux is closed")
            return
        if owner == FORKED:
            raise RuntimeError(
                "this mux belongs to the process that made it; "
                "after a fork, make one of your own"
            )
        if self.c is None:
            raise RuntimeError("the mux is closed")
        if owner is not None:
            raise RuntimeError(
                "this mux belongs to the thread of its first harvest; "
                "other threads may use call_threadsafe() and wakeup()"
            )

    def is_here(self) -> bool:
        """True if the engine is open, and this thread may use it."""
        owner = self.thread
        return self.c is not None and (owner is None or owner == get_ident())

    def claim(self) -> None:
        """Make this thread the owner, if it makes the first harvest."""
        with self.lock:
            self.check()
            self.thread = get_ident()

    def lend(self) -> None:
        """Make this thread the owner, for callers that take turns (`Client`)."""
        if self.thread != FORKED:
            self.thread = get_ident()
        self.check()


_ALL: weakref.WeakSet[Owned] = weakref.WeakSet()


def _after_fork() -> None:
    for owned in list(_ALL):
        owned.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
