"""Locks that no exception of a signal handler leaves locked.

`with` takes a lock and enters its block in one step of CPython, which no signal handler
interrupts. CPython 3.14 takes two steps. A signal handler that raises between them, as
that of Ctrl-C does, would leave the lock locked for ever.
"""

import sys
import threading

__all__ = ["End", "RLock"]

if sys.version_info[:2] == (3, 14):
    from typing import Literal

    ONCE = (True,)

    class RLock(type(threading.RLock())):  # type: ignore[misc]  # it has no name
        """A `threading.RLock` that is released if its block is not entered."""

        __slots__ = ()

        def __enter__(self) -> Literal[True]:
            taken: list[bool] = []
            try:
                # One call into C takes the lock and notes that it is taken.
                taken.extend(map(self.acquire, ONCE))
            except BaseException:
                if taken:
                    self.release()
                raise
            return True

else:
    RLock = threading.RLock


class End:
    """An event, as `threading.Event`, which a signal handler cannot leave locked.

    `threading.Event` is written in Python, so a signal handler can raise in `wait`.
    """

    __slots__ = ("_lock", "_over")

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()  # released once the event is set
        self._lock.acquire()

    def is_set(self) -> bool:
        """True if the event is set."""
        return self._over

    def set(self) -> None:
        """Set the event."""
        self._over = True
        self.wait()

    def wait(self, timeout: float = -1) -> bool:
        """Wait until the event is set, at most `timeout` seconds. True if it is set."""
        try:
            if not self._over:
                self._lock.acquire(timeout=timeout)
        finally:
            if self._over:
                try:  # noqa: SIM105 (`suppress` is written in Python too)
                    self._lock.release()
                except RuntimeError:
                    pass  # another thread has released the lock
        return self._over
