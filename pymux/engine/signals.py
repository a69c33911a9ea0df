"""Signals that must wake a wait, and those that end `serve`.

A signal handler may raise after any call, even one into C, whose result is then lost.
So C itself stores a result that must not be lost, and a change is noted before it is
made.
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
PACKAGES = ("site-packages", "dist-packages")  # other packages in Python's folder
# (fd) -> the previous fd; a partial, so that no Python code runs in the call
_set_fd = partial(signal.set_wakeup_fd, warn_on_full_buffer=False)


class SignalFds:
    """The wakeup descriptor, which the interpreter writes to when a signal comes.

    The mux that waited last sets its own. A mux that closes restores that of the mux
    before, or the original one. Only the main thread may set a descriptor.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        """Know of no mux, and of no descriptor but the interpreter's."""
        self.ours: list[int] = []  # descriptors of muxes, the current one last
        self._before = -1  # the original descriptor
        self.holder: int = -1  # the current descriptor, if it is in `ours`
        self._was: list[int] = []  # the previous descriptor, during a change
        # (descriptor, close function) of muxes that were collected in other threads
        self.left: list[tuple[int, Callable[[], None]]] = []

    def _swap(self, fd: int) -> int:
        """Set a descriptor and note the previous one in one step; return that."""
        self._was.extend(map(_set_fd, (fd,)))
        return self._was[0]

    def _undo(self) -> None:
        """Undo a change that was interrupted, or that is refused."""
        while self._was:
            try:
                _set_fd(self._was[0])
            except (ValueError, OSError):  # that descriptor was closed
                _set_fd(-1)
            del self._was[0]

    def add(self, fd: int, forced: bool) -> int:
        """Set `fd`, and return it; or -1 if that is not possible.

        Only `forced` replaces a descriptor that belongs to no mux.
        """
        self._undo()
        self.close_left()
        if fd not in self.ours:  # first: a signal handler may raise after any call
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
            self.ours = [*(other for other in self.ours if other != fd), fd]
        self.holder = fd
        self._was.clear()
        return fd

    def remove(self, fd: int) -> None:
        """Remove `fd`, and set the descriptor of the mux before."""
        self._undo()
        rest = [other for other in self.ours if other != fd]
        heir = rest[-1] if rest else self._before
        try:
            now = self._swap(heir)
        except (ValueError, OSError):  # the heir was closed
            heir, now = -1, self._swap(-1)
        if now == fd:
            now = heir
        else:
            self._undo()
        self.holder = now if now in rest else -1
        self.ours = rest
        self._was.clear()

    def close_left(self) -> None:
        """In the main thread, close the wakeups that other threads left open."""
        while self.left:
            fd, close = self.left[0]
            self.remove(fd)
            close()
            del self.left[0]

    def forget(self) -> None:
        """In a forked child, restore the original descriptor."""
        with contextlib.suppress(ValueError):  # not the main interpreter
            for fd in list(self.ours):
                self.remove(fd)
        self._clear()


SIGNALS = SignalFds()
ENDING: list[Ending] = []  # the running `serve` of the main thread


def is_users(file: str) -> bool:
    """True if the file is neither pymux's nor the standard library's.

    pymux calls the standard library too: `logging`, in the middle of a turn.
    """
    if file.startswith((OURS, "<frozen ")):
        return False
    return not file.startswith(PYTHONS) or any(part in file for part in PACKAGES)


class Ending:
    """The handlers of SIGINT and SIGTERM while `serve` runs.

    `restore` puts the previous handlers back; so does a fork, in the child.

    Args:
        ask: called with the signal, with how many there were so far, and with True
            if the signal interrupts the user's code.
        top: the code of the outermost frame to check.
        signals: those that end; a worker leaves them to its supervisor.
    """

    def __init__(
        self,
        ask: Callable[[int, int, bool], None],
        top: CodeType,
        signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        self._ask = ask
        self._top = top
        self._signals = signals
        self._count = 0
        self._taken: dict[int, Any] = {}

    def take(self) -> None:
        """Install the handlers, if this is the main thread.

        An ignored signal stays ignored. A handler that was not installed by Python
        stays, since it could not be put back.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        ENDING.append(self)
        for number in self._signals:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN and before is not None:
                self._taken[number] = before
                signal.signal(number, self._called)

    def restore(self) -> None:
        """Put the previous handlers back, unless they were replaced since."""
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
        self._ask(number, self._count, users)


def _after_fork() -> None:
    with contextlib.suppress(ValueError):  # not the main interpreter
        for ending in reversed(ENDING):
            ending.restore()
    ENDING.clear()
    SIGNALS.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
