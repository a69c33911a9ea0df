"""A lock that stays locked only while its `with` block runs.

CPython takes a lock and enters the block of `with` in one step, which the handler of
a signal cannot come between. 3.14 alone has two: a handler that raises there, as that
of Ctrl-C does, would leave the lock locked for ever, since the block was not entered.
"""

import sys
import threading

__all__ = ["RLock"]

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
