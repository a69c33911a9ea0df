"""Coroutine handlers: stepped by the mux, without asyncio.

A `Task` stands for one connection's coroutine. What pymux's awaitables yield
is the task itself, having noted in it what is waited for, or a `Wait` for
those that belong to no connection; anything else was awaited from elsewhere
and cannot work here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.locks import RLock
from ..engine.os_errors import aborted
from ..objects.status import set_buffer
from ..values.checks import duration, number
from ..values.errors import ConnectionClosed
from .buffer import TaskBuffer

if TYPE_CHECKING:
    from ..engine.timers import Timer
    from ..objects.connection import Connection

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

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Task(TaskBuffer):
    """One connection's coroutine, its context, and what it waits for."""

    __slots__ = ("context", "coroutine", "owner", "timer")

    def __init__(
        self, conn: Connection, coroutine: Any, owner: Any, context: Context
    ) -> None:
        super().__init__(conn)
        self.context: Context = context  # all of its steps run in it
        self.coroutine: Coroutine[Any, Any, Any] = coroutine
        self.owner: Any = owner  # the dispatcher, told when it ends
        self.timer: Timer | None = None

    @property
    def task(self) -> Task:
        return self

    def is_awaited(self, what: str) -> bool:
        return bool(self.waiting == what)

    def what(self) -> str:
        """What the coroutine waits in, for a message."""
        return str(getattr(self.waiting, "what", self.waiting))

    def own(self, buffer: Any) -> None:
        """A connection that the coroutine has dialled: it ends with the coroutine."""
        self.engine.dialled.setdefault(self, []).append(buffer)

    def close_dialled(self) -> None:
        """The coroutine has ended: so do the connections that it has dialled."""
        for buffer in self.engine.dialled.pop(self, ()):
            buffer.shut()
            set_buffer(buffer.conn, None)
            buffer.conn.close()

    # --- waiting ----------------------------------------------------------

    def limit(self, timeout: float) -> None:
        """Let what is waited for next end with a TimeoutError."""
        duration("timeout", timeout)
        self.timer = self.engine.call_later(timeout, self._time_is_over, timeout)

    def _time_is_over(self, timeout: float) -> None:
        """What came in time may not have been looked for since, nor been handed
        out: the next turn looks, and asks when it has dispatched what it found."""
        self.timer = self.engine.call_later(0, self._looked, timeout)

    def _looked(self, timeout: float) -> None:
        self.engine.late.append((self, self.timer, timeout))

    def time_out(self, timer: Timer, timeout: float) -> None:
        """A turn that began when the time was over has been dispatched."""
        if self.timer is not timer:  # the message came, or the end
            return
        conn = getattr(self.waiting, "conn", self.conn)  # a dialled one, perhaps
        if self.engine.has_more(conn.id):
            self._time_is_over(timeout)  # something has arrived, but was not reached
        else:
            self.throw(TimeoutError(f"recv(): no message within {timeout} seconds"))

    def next_turn(self, what: str, delay: float = 0) -> Task:
        """What to yield, in order to go on when the mux has had a turn."""
        self.waiting = what
        self.timer = self.engine.call_later(delay, self.wake)
        return self

    def wake(self) -> None:
        """The time that it wanted to wait is over."""
        self.timer = None
        self.resume(None)

    # --- stepping ---------------------------------------------------------

    def resume(self, value: Any) -> None:
        """Step the coroutine with what it waited for. The hot one."""
        if self.timer is not None:
            self._forget_timer()
        self.waiting = None
        engine = self.engine
        outer, engine.running = engine.running, self
        try:
            wanted = self.context.run(self.coroutine.send, value)
            if wanted is not self or self.waiting is None:
                self.wait_otherwise(wanted)
        except BaseException as error:
            self.ended(error)
        finally:
            engine.running = outer

    def throw(self, error: BaseException) -> None:
        """Step the coroutine with an error where it waits."""
        self._forget_timer()
        self.waiting = None
        engine = self.engine
        outer, engine.running = engine.running, self
        try:
            wanted = self.context.run(self.coroutine.throw, error)
            if wanted is not self or self.waiting is None:
                self.wait_otherwise(wanted)
        except BaseException as error_:
            self.ended(error_)
        finally:
            engine.running = outer
            del error  # its traceback knows this frame: no cycle is left behind

    def wait_otherwise(self, wanted: Any) -> None:
        """For what belongs to no connection; what is not ours cannot work."""
        while wanted is not self or self.waiting is None:
            error: BaseException = RuntimeError(FOREIGN)
            if self.engine.c is None:
                error = self.closed_error()
            elif type(wanted) is Wait:
                try:
                    self.waiting = wanted.what
                    wanted.begin(self)
                    return
                except Exception as error_:  # there is no thread to be had, say
                    error = error_
            if self.too_eager():  # it catches this, and awaits the same again
                self.waiting = "nothing"
                if self.engine.c is not None:  # else it is closed soon
                    self.timer = self.engine.call_later(0, self.throw, error)
                return
            self.waiting = None
            wanted = self.context.run(self.coroutine.throw, error)

    def ended(self, error: BaseException) -> None:
        """The coroutine returned, or raised `error`."""
        self.owner.finished(self, None if type(error) is StopIteration else error)

    def _forget_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def interrupt(self, cause: BaseException | None) -> None:
        """The server ends: tell the coroutine where it waits. It may still await
        things in order to clean up."""
        self.over = True
        self.inbox = None
        number = errno.ECONNABORTED
        text = f"{self.conn!r}: the server has ended"
        error = ConnectionClosed(number, text, connection=self.conn)
        error.__cause__ = self.lost or aborted(cause)
        self.throw(error)

    def abandon(self) -> None:
        """Close the coroutine where it waits."""
        self.waiting = None
        self._forget_timer()
        engine = self.engine
        outer, engine.running = engine.running, self
        try:
            self.context.run(self.coroutine.close)
        except BaseException as error:
            self.ended(error)
        else:
            self.ended(StopIteration())
        finally:
            engine.running = outer


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


def named(
    what: str, in_asyncio: Callable[[Any], Any], begin: Callable[[Task], None]
) -> Coroutine[Any, Any, Any]:
    """A coroutine that the interpreter warns of by name, if nobody awaits it."""

    async def wait() -> Any:
        asyncio = running_asyncio()
        return await (in_asyncio(asyncio) if asyncio else Wait(what, begin))

    wait.__name__ = wait.__qualname__ = what
    return wait()


def sleep(seconds: float) -> Coroutine[Any, Any, None]:
    """Wait for so many seconds, in a coroutine handler.

    Args:
        seconds: 0 lets others go first.

    Raises:
        TypeError, ValueError: no number, or a negative one.

    >>> async def handler(conn):
    ...     await sleep(0.5)
    ...     conn.send(b"sorry for the delay")
    """
    seconds = number("seconds", seconds)
    duration("seconds", seconds)

    def begin(task: Task) -> None:
        task.timer = task.engine.call_later(seconds, task.wake)

    return named("sleep", lambda asyncio: asyncio.sleep(seconds), begin)


class Workers:
    """Daemon threads for `to_thread`: an abandoned call holds up no exit."""

    def __init__(self, most: int = 32) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = RLock()
        self._most = most
        self._threads = 0
        self._busy = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have a thread call `job`, a new one where all are busy; if there is none
        to be had, one of those when it comes to it.

        Raises:
            RuntimeError: there is no thread at all. The job is not called.
        """
        with self._lock:
            more = self._busy >= self._threads and self._threads < self._most
            if more:
                name = f"pymux-to_thread-{self._threads + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                try:
                    thread.start()
                    self._threads += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._busy += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._busy -= 1


WORKERS = Workers()
if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=WORKERS.__init__)  # type: ignore[misc]


def to_thread(fn: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
    """Call ``fn(*args)`` in another thread and wait for what it returns.

    For what blocks, in a coroutine handler. It runs in a copy of the
    coroutine's context. A server that stops does not wait for a call that
    outlasts its drain.

    Args:
        fn: must not touch the mux or its connections: they are the mux's
            thread's.
        args: for it.

    Returns:
        What `fn` returned; what it raised is raised here.

    Raises:
        TypeError: `fn` cannot be called.
        RuntimeError: no thread can be had. `fn` is not called.

    >>> async def handler(conn):
    ...     async for message in conn:
    ...         conn.send(await to_thread(bytes.upper, message))
    """
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}; a callable is needed")

    def begin(task: Task) -> None:
        context = task.context.copy()

        def job() -> None:
            value: Any
            try:
                value = context.run(fn, *args)
                done: Callable[[Any], None] = task.resume
            except BaseException as error:
                done, value = task.throw, error
            with contextlib.suppress(RuntimeError):  # the mux is closed: abandoned
                task.engine.call_threadsafe(finish, done, value)
            del value  # an error's traceback knows this frame: no cycle is left

        def finish(done: Callable[[Any], None], value: Any) -> None:
            if task.waiting == "to_thread":
                done(value)

        WORKERS.submit(job)

    return named("to_thread", lambda asyncio: asyncio.to_thread(fn, *args), begin)
