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
        self._ours: list[int] = []
        self._before = -1
        self.holder = -1  # the one of ours that it is now

    def add(self, fd: int, forced: bool) -> int:
        """Take it over for `fd`; -1 where that cannot be, or where it is
        somebody else's than a mux's and not forced."""
        try:
            before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except ValueError:  # not the main interpreter
            return -1
        # A handler may have raised in here before: then it is ours already.
        if before != fd and before not in self._ours:
            if before != -1 and not forced:
                if fd in self._ours:
                    self._ours.remove(fd)
                signal.set_wakeup_fd(before)
                return -1
            self._before = before
        if fd in self._ours:
            self._ours.remove(fd)
        self._ours.append(fd)
        self.holder = fd
        return fd

    def remove(self, fd: int) -> None:
        """Give it back."""
        self._ours.remove(fd)
        now = signal.set_wakeup_fd(-1)
        if now == fd:
            now = self._ours[-1] if self._ours else self._before
        self.holder = now if now in self._ours else -1
        if now != -1:
            with contextlib.suppress(ValueError, OSError):  # it was closed
                signal.set_wakeup_fd(now)


SIGNALS = SignalFds()
