"""Coroutine handlers: stepped by the mux, without asyncio.

A `Task` stands for one connection's coroutine. What pymux's awaitables yield
is the task itself, having noted in it what is waited for, or a `Wait` for
those that belong to no connection; anything else was awaited from elsewhere
and cannot work here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import types
from collections import deque
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .connection import CLOSED, Connection
from .framing import seconds as nanoseconds
from .inbox import Inbox

if TYPE_CHECKING:
    from .timers import Timer

__all__ = ["Task", "sleep", "to_thread"]

T = TypeVar("T")

FOREIGN = (
    "this awaitable is not pymux's: a coroutine handler awaits recv(), drain(), "
    "pymux.sleep() and pymux.to_thread(); to use asyncio, serve with pymux.aio"
)


class Wait:
    """What `sleep` and `to_thread` yield: how to begin, given the task."""

    __slots__ = ("begin", "what")

    def __init__(self, what: str, begin: Callable[[Task], None]) -> None:
        self.what: str = what
        self.begin: Callable[[Task], None] = begin


class Task(Inbox):
    """One connection's coroutine, and what it waits for."""

    __slots__ = ("coroutine", "owner", "timer")

    def __init__(self, conn: Connection, coroutine: Any, owner: Any) -> None:
        super().__init__(conn)
        self.coroutine: Coroutine[Any, Any, Any] = coroutine
        self.owner: Any = owner  # the dispatcher, told when it ends
        self.timer: Timer | None = None

    # --- messages -------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """A message came."""
        if self.waiting == "recv":
            self.resume(data)
        else:
            self.keep((data,))
            self.tell_kept()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Several came. A coroutine that waits finds them all, and only what it
        leaves counts as input not taken."""
        if self.waiting != "recv":
            self.keep(messages)
            self.tell_kept()
            return
        first, *rest = messages
        if rest:
            self.inbox = deque(rest)
        self.resume(first)
        if self.inbox and self.conn._task is self:
            rest, self.inbox = list(self.inbox), None
            self.keep(rest)
            self.tell_kept()
        elif self.kept:
            self.tell_taken()

    # --- waiting ----------------------------------------------------------

    def is_at_work(self) -> bool:
        """Whether it does not wait for what the peer does."""
        return self.waiting != "recv" and self.waiting != "drain"

    def time_out(self, timeout: float) -> None:
        """Let what is waited for next end with a TimeoutError."""
        if nanoseconds("timeout", timeout) == 0:
            raise TimeoutError("recv(): there is no message now")
        self.timer = self.mux.call_later(timeout, self._timed_out, timeout)

    def _timed_out(self, timeout: float) -> None:
        self.timer = None
        if self.waiting == "recv":
            self.throw(TimeoutError(f"recv(): no message within {timeout} seconds"))

    def drained(self) -> None:
        """Output fell under low water."""
        if self.waiting == "drain":
            self.resume(None)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """The stream has ended (error None), or the connection is lost."""
        self.note_end(error, gone)
        if self.waiting == "recv":
            if self.lost is not None or self.conn._status == CLOSED:
                self.throw(self.closed_error())
            else:
                self.resume(None)
        elif self.waiting == "drain" and gone:
            self.throw(self.closed_error())

    # --- stepping ---------------------------------------------------------

    def resume(self, value: Any) -> None:
        """Step the coroutine with what it waited for. The hot one."""
        if self.timer is not None:
            self._forget_timer()
        self.waiting = None
        mux = self.mux
        outer, mux._running = mux._running, self
        try:
            wanted = self.coroutine.send(value)
            if wanted is not self or self.waiting is None:
                self.wait_otherwise(wanted)
        except BaseException as error:
            self.ended(error)
        finally:
            mux._running = outer

    def throw(self, error: BaseException) -> None:
        """Step the coroutine with an error where it waits."""
        self._forget_timer()
        self.waiting = None
        mux = self.mux
        outer, mux._running = mux._running, self
        try:
            wanted = self.coroutine.throw(error)
            if wanted is not self or self.waiting is None:
                self.wait_otherwise(wanted)
        except BaseException as error_:
            self.ended(error_)
        finally:
            mux._running = outer

    def wait_otherwise(self, wanted: Any) -> None:
        """For what belongs to no connection; what is not ours cannot work."""
        while wanted is not self or self.waiting is None:
            if type(wanted) is Wait:
                self.waiting = wanted.what
                wanted.begin(self)
                return
            wanted = self.coroutine.throw(RuntimeError(FOREIGN))

    def ended(self, error: BaseException) -> None:
        """The coroutine returned, or raised `error`."""
        self.owner.finished(self, None if type(error) is StopIteration else error)

    def _forget_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def abandon(self) -> None:
        """Close the coroutine where it waits."""
        self.waiting = None
        self._forget_timer()
        try:
            self.coroutine.close()
        except BaseException as error:
            self.owner.finished(self, error)
        else:
            self.owner.finished(self, None)


# --- awaitables that belong to no connection --------------------------------


# Threads in which a `Server` steps its coroutines, in a running loop perhaps.
SERVING: set[int] = set()


def running_asyncio() -> Any:
    """asyncio, where a loop of it steps the coroutines of this thread; else
    None. The handlers of pymux.aio are its, and it has to do the waiting."""
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # or half imported
    if running is None or running() is None or threading.get_ident() in SERVING:
        return None
    return asyncio


@types.coroutine
def sleep(seconds: float) -> Generator[Any, Any, None]:
    """Wait for so many seconds, in a coroutine handler.

    Args:
        seconds: 0 lets others go first.

    Raises:
        TypeError, ValueError: no number, or a negative one.

    >>> async def handler(conn):
    ...     await sleep(0.5)
    ...     conn.send(b"sorry for the delay")
    """
    if seconds is None:
        raise TypeError("seconds is None; a number is needed")
    nanoseconds("seconds", seconds)
    if asyncio := running_asyncio():
        yield from asyncio.sleep(seconds).__await__()
        return

    def begin(task: Task) -> None:
        task.timer = task.mux.call_later(seconds, wake, task)

    def wake(task: Task) -> None:
        task.timer = None
        task.resume(None)

    yield Wait("sleep", begin)


class Workers:
    """Daemon threads for `to_thread`: an abandoned call holds up no exit."""

    def __init__(self, most: int = 32) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._most = most
        self._threads = 0
        self._busy = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have a thread call `job`, a new one where all are busy."""
        with self._lock:
            self._busy += 1
            more = self._busy > self._threads and self._threads < self._most
            self._threads += more
        self._jobs.put(job)
        if more:
            name = f"pymux-to_thread-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._busy -= 1


WORKERS = Workers()
if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=WORKERS.__init__)  # type: ignore[misc]


@types.coroutine
def to_thread(fn: Callable[..., T], *args: Any) -> Generator[Any, Any, T]:
    """Call ``fn(*args)`` in another thread and wait for what it returns.

    For what blocks, in a coroutine handler. A server that stops does not wait
    for a call that outlasts its drain.

    Args:
        fn: must not touch the mux or its connections: they are the mux's
            thread's.
        args: for it.

    Returns:
        What `fn` returned; what it raised is raised here.

    Raises:
        TypeError: `fn` cannot be called.

    >>> async def handler(conn):
    ...     async for message in conn:
    ...         conn.send(await to_thread(bytes.upper, message))
    """
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}; a callable is needed")
    if asyncio := running_asyncio():
        result: T = yield from asyncio.to_thread(fn, *args).__await__()
        return result

    def begin(task: Task) -> None:
        def job() -> None:
            value: Any
            try:
                value = fn(*args)
                done: Callable[[Any], None] = task.resume
            except BaseException as error:
                done, value = task.throw, error
            with contextlib.suppress(RuntimeError):  # the mux is closed: abandoned
                task.mux.call_threadsafe(finish, done, value)

        def finish(done: Callable[[Any], None], value: Any) -> None:
            if task.waiting == "to_thread":
                done(value)

        WORKERS.submit(job)

    value: T = yield Wait("to_thread", begin)
    return value
