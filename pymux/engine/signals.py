"""Signals that must wake a wait, and those that end `serve`.

A signal handler that raises may do so behind any call, also behind one into C,
whose result is then lost. So what such a call returns and must not be lost is put
by C where it is kept, and what was begun is noted before it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
PYTHONS = os.path.dirname(os.__file__) + os.sep
PACKAGES = ("site-packages", "dist-packages")  # others' code in Python's folder
# (fd) -> the one before; a partial, since it is called by C alone
_set_fd = partial(signal.set_wakeup_fd, warn_on_full_buffer=False)


class SignalFds:
    """Whose descriptor the interpreter writes to when a signal comes.

    The mux that waited last has it; one that closes gives it back to the one
    before, or to who had it before the first. Only the main thread may change it.
    """

    def __init__(self) -> None:
        self.ours: list[int] = []
        self._before = -1
        self.holder: int = -1  # the one of ours that it is now
        self._was: list[int] = []  # whose it was, while it is being changed
        # (descriptor, what closes it) of muxes that were collected in other threads
        self.left: list[tuple[int, Callable[[], None]]] = []

    def _swap(self, fd: int) -> int:
        """Set it; the one before, which is kept in the same step."""
        self._was.extend(map(_set_fd, (fd,)))
        return self._was[0]

    def _undo(self) -> None:
        """Set the one before again: a change was interrupted, or is refused."""
        while self._was:
            try:
                _set_fd(self._was[0])
            except (ValueError, OSError):  # it was closed meanwhile
                _set_fd(-1)
            del self._was[0]

    def add(self, fd: int, forced: bool) -> int:
        """Take it over for `fd`; -1 where that cannot be, or where it is
        somebody else's than a mux's and not forced."""
        self._undo()
        self.close_left()
        if fd not in self.ours:  # first: a handler may raise behind any call
            self.ours.append(fd)
        try:
            before = self._swap(fd)
        except ValueError:  # not the main interpreter
            self.ours.remove(fd)
            return -1
        if before not in self.ours:
            if before != -1 and not forced:
                self._undo()
                self.ours.remove(fd)
                return -1
            self._before = before
        if self.ours[-1] != fd:
            self.ours = [*(one for one in self.ours if one != fd), fd]
        self.holder = fd
        self._was.clear()
        return fd

    def remove(self, fd: int) -> None:
        """Give it back."""
        self._undo()
        rest = [one for one in self.ours if one != fd]
        heir = rest[-1] if rest else self._before
        try:
            now = self._swap(heir)
        except (ValueError, OSError):  # it was closed
            heir, now = -1, self._swap(-1)
        if now == fd:
            now = heir
        else:
            self._undo()
        self.holder = now if now in rest else -1
        self.ours = rest
        self._was.clear()

    def close_left(self) -> None:
        """In the main thread: close what other threads had to leave open."""
        while self.left:
            fd, close = self.left[0]
            self.remove(fd)
            close()
            del self.left[0]

    def forget(self) -> None:
        """In a forked child: as if there had never been a mux."""
        with contextlib.suppress(ValueError):  # not the main interpreter
            for fd in list(self.ours):
                self.remove(fd)
        self.__init__()  # type: ignore[misc]


SIGNALS = SignalFds()
ENDING: list[Ending] = []  # one, while `serve` runs in the main thread


def is_users(file: str) -> bool:
    """True if a code's file is the user's: neither pymux's nor the standard
    library's, which pymux calls too (`logging`, in the middle of a turn)."""
    if file.startswith((OURS, "<frozen ")):
        return False
    return not file.startswith(PYTHONS) or any(part in file for part in PACKAGES)


class Ending:
    """The handlers of SIGINT and SIGTERM while `serve` runs.

    Those of before are put back by `restore`, and in a forked child.

    Args:
        ask: called with the number of signals so far, and with whether the thread
            is in the user's code.
        top: the code of the outermost frame that is looked at.
    """

    def __init__(self, ask: Callable[[int, bool], None], top: CodeType) -> None:
        self._ask = ask
        self._top = top
        self._count = 0
        self._taken: dict[int, Any] = {}

    def take(self) -> None:
        """Install them, in the main thread. A signal that is ignored stays so,
        as does one whose handler is not Python's, which could not be put back."""
        if threading.current_thread() is not threading.main_thread():
            return
        ENDING.append(self)
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN and before is not None:
                self._taken[number] = before
                signal.signal(number, self._called)

    def restore(self) -> None:
        """Put the handlers from before back, unless others stand there now."""
        for number, before in self._taken.items():
            if signal.getsignal(number) == self._called:
                signal.signal(number, before)
        if self in ENDING:
            ENDING.remove(self)

    def _called(self, number: int, frame: Any) -> None:
        self._count += 1
        users = False
        while frame is not None and not users and frame.f_code is not self._top:
            users = is_users(frame.f_code.co_filename)
            frame = frame.f_back
        self._ask(self._count, users)


def _after_fork() -> None:
    with contextlib.suppress(ValueError):  # not the main interpreter
        for ending in reversed(ENDING):
            ending.restore()
    ENDING.clear()
    SIGNALS.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
