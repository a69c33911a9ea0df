"""Signals that must wake a wait."""

from __future__ import annotations

import contextlib
import signal


class SignalFds:
    """Whose descriptor the interpreter writes to when a signal comes.

    The mux that waited last has it; one that closes gives it back to the one
    before, or to who had it before the first.
    """

    def __init__(self) -> None:
        self.ours: list[int] = []
        self._before = -1
        self.holder: int = -1  # the one of ours that it is now

    def add(self, fd: int, forced: bool) -> int:
        """Take it over for `fd`; -1 where that cannot be, or where it is
        somebody else's than a mux's and not forced."""
        if fd not in self.ours:  # first: a handler may raise behind any call
            self.ours.append(fd)
        try:
            before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except ValueError:  # not the main interpreter
            self.ours.remove(fd)
            return -1
        if before not in self.ours:
            if before != -1 and not forced:
                signal.set_wakeup_fd(before)
                self.ours.remove(fd)
                return -1
            self._before = before
        if self.ours[-1] != fd:
            self.ours.remove(fd)
            self.ours.append(fd)
        self.holder = fd
        return fd

    def remove(self, fd: int) -> None:
        """Give it back."""
        now = signal.set_wakeup_fd(-1)
        rest = [one for one in self.ours if one != fd]
        if now == fd:
            now = rest[-1] if rest else self._before
        self.holder = now if now in rest else -1
        if now != -1:
            with contextlib.suppress(ValueError, OSError):  # it was closed
                signal.set_wakeup_fd(now)
        self.ours = rest


SIGNALS = SignalFds()
