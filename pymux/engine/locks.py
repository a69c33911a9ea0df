"""Locks that no exception of a signal handler leaves locked.

CPython takes a lock and enters the block of `with` in one step, which the handler of
a signal cannot come between. 3.14 alone has two: a handler that raises there, as that
of Ctrl-C does, would leave the lock locked for ever, since the block was not entered.
"""

import sys
import threading

__all__ = ["End", "RLock"]

if sys.version_info[:2] == (3, 14):
    from typing import Literal

    ONCE = (True,)

    class RLock(type(threading.RLock())):  # type: ignore[misc]
        """`threading.RLock`, released where the step to the block is interrupted."""

        __slots__ = ()

        def __enter__(self) -> Literal[True]:
            taken: list[bool] = []
            try:
                # One call into C, so that no lock is taken without a note of it.
                taken.extend(map(self.acquire, ONCE))
            except BaseException:
                if taken:
                    self.release()
                raise
            return True

else:
    RLock = threading.RLock


class End:
    """What `threading.Event` is; but that is written in Python, and a signal's
    handler that raises in its `wait` may leave it locked for ever."""

    __slots__ = ("_lock", "_over")

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()  # free once it is over, whoever frees it
        self._lock.acquire()

    def is_set(self) -> bool:
        """True if it is over."""
        return self._over

    def set(self) -> None:
        """It is over."""
        self._over = True
        self.wait()

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is over, so many seconds at most; whether it is."""
        try:
            if not self._over:
                self._lock.acquire(timeout=timeout)
        finally:
            if self._over:
                try:  # noqa: SIM105 (`suppress` is written in Python too)
                    self._lock.release()
                except RuntimeError:
                    pass  # another has freed it
        return self._over
