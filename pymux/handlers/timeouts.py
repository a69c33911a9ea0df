"""`timeout`: a block of a coroutine that must end in time.

A block that is over ends the await that the coroutine is in, by `Cancelled`, and makes
a TimeoutError of that where the coroutine leaves the block. `Cancelled` is no
`Exception`, so an `except` for a shorter timeout, or for errors of a connection, does
not catch it on the way.

No timeout beats a message that had already arrived. So the await that the coroutine is
in at the deadline gets one more turn of the mux, and further ones while the core has
input for it that it could not read yet. An await that begins after the deadline gets
no more turns, since a peer that sends without a pause would hold the block open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..values.checks import duration
from ..values.errors import Cancelled
from .current import running_asyncio, running_task

if TYPE_CHECKING:
    from types import TracebackType

    from ..engine.timers import Timer
    from .tasks import Task

__all__ = ["Look", "Timeout", "timeout"]


class Look:
    """Stands in a task's place for a timer while its present await gets more turns.

    Whatever resumes the task drops the timer, and the look with it. So the way of a
    message to its coroutine has nothing to check for blocks.

    Attributes:
        timer: what stood in the place before, which goes on.
    """

    __slots__ = ("timer",)

    def __init__(self, timer: Timer | Look | None) -> None:
        self.timer: Timer | Look | None = timer

    def cancel(self) -> None:
        """Cancel the timer that stood here before."""
        if self.timer is not None:
            self.timer.cancel()


class Timeout:
    """A block that must end in time; `timeout` makes it."""

    def __init__(
        self, seconds: float | None, text: str = "", task: Task | None = None
    ) -> None:
        self._seconds = duration("seconds", seconds)
        self._text = text or f"the block took longer than {seconds} seconds"
        self._task = task  # None until the block is entered, if it was not given
        self._entered = False
        self._timer: Timer | None = None
        self._look: Look | None = None
        self._error: Cancelled | None = None  # what ends the block, until it has
        self._expired = False
        self._asyncios: Any = None

    def expired(self) -> bool:
        """Return True if the block was ended because its time was over."""
        if self._asyncios is not None:
            return bool(self._asyncios.expired())
        return self._expired

    async def __aenter__(self) -> Timeout:
        if self._entered:
            raise RuntimeError("a timeout() is for one block; make one for each")
        asyncio = running_asyncio() if self._task is None else None
        if asyncio is not None:
            self._asyncios = asyncio.timeout(self._seconds)
            await self._asyncios.__aenter__()
        else:
            if self._task is None:
                self._task = running_task("timeout()")
            if self._seconds is not None:
                self._timer = self._task.engine.call_later(self._seconds, self._over)
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._asyncios is not None:
            try:
                await self._asyncios.__aexit__(kind, error, traceback)
            except TimeoutError:
                raise TimeoutError(self._text) from error
            return
        self._task = self._look = None
        if self._timer is not None:
            self._timer.cancel()
        # The error's traceback refers to the block's frame, and that to this: a cycle.
        ours, self._error = self._error is error, None
        if error is not None and ours:
            raise TimeoutError(self._text) from error

    def _over(self) -> None:
        """At the deadline, give the present await one more turn."""
        task = self._task
        if task is not None:
            task.timer = self._look = Look(task.timer)
            self._timer = task.engine.call_later(0, self._looked)

    def _looked(self) -> None:
        if self._task is not None:
            self._task.engine.late.append((self, None, 0))

    def time_out(self, _timer: None, _timeout: float) -> None:
        """End the block, behind the dispatch of a turn after the deadline."""
        task = self._task
        if task is None:  # the coroutine has left the block
            return
        if self._is_the_same_await(task) and task.has_arrived():
            self._timer = task.engine.call_later(0, self._looked)
            return
        self._expired = True
        self._error = Cancelled(self._text)
        task.throw(self._error)

    def _is_the_same_await(self, task: Task) -> bool:
        """Return True if the task is in the await in which the deadline found it."""
        timer = task.timer
        while timer is not self._look and isinstance(timer, Look):
            timer = timer.timer  # of another block that is over
        return timer is self._look


def timeout(seconds: float | None) -> Timeout:
    """Limit the time of a block: ``async with timeout(5):``.

    The block may await anything that a coroutine handler may, and blocks may stand
    inside others. When the time is over the await that the coroutine is in ends, the
    coroutine leaves the block, and there `TimeoutError` is raised. On the way out the
    block's `finally` parts run, and may await. Nothing is lost: a message that has
    not been received yet stays for the next `recv`, and a message that had arrived in
    time is received. Coroutines that the block spawns are not limited.

    In asyncio this is `asyncio.timeout`: there an await can time out although a
    message has arrived; the message stays for the next `recv`.

    Args:
        seconds: how long the block may take; None does not limit it. 0 ends the first
            await that has to wait.

    Returns:
        An async context manager for one block. After the block, `expired()` tells
        whether its time was over.

    Raises:
        TypeError, ValueError: seconds is no number, or is negative.
        TimeoutError: behind the block, if its time was over.
        RuntimeError: the block is neither in a coroutine handler nor in asyncio.

    >>> async def handler(conn):
    ...     try:
    ...         async with timeout(5):
    ...             name = await conn.recv()
    ...             conn.send(b"hello, " + name)
    ...             await conn.drain()
    ...     except TimeoutError:
    ...         conn.send(b"too slow")
    """
    return Timeout(seconds)
