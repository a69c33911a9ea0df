"""The end of a server's thread, to wait for."""

from __future__ import annotations

import threading

__all__ = ["End"]


class End:
    """An event that is set once, and that a signal's handler cannot leave locked.

    `threading.Event` is written in Python: a handler that raises inside its `wait`
    may leave it locked for ever.
    """

    __slots__ = ("_lock", "_over")

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()  # free once the event is set
        self._lock.acquire()

    def is_set(self) -> bool:
        """True once the event is set."""
        return self._over

    def set(self) -> None:
        """Set the event."""
        self._over = True
        self.wait()

    def wait(self, timeout: float = -1) -> bool:
        """Wait for the event, `timeout` seconds at most; True if it is set."""
        try:
            if not self._over:
                self._lock.acquire(timeout=timeout)
        finally:
            if self._over:
                try:  # noqa: SIM105 (`suppress` is written in Python too)
                    self._lock.release()
                except RuntimeError:
                    pass  # another thread has freed it
        return self._over
