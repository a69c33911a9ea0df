"""Tasks are coroutines of handlers, which the mux steps without asyncio.

A `Task` holds the coroutine of one connection. An awaitable of a connection notes the
wait in the task and yields the task. `sleep` and `to_thread` belong to no connection
and yield a `Wait`. Any other yielded value is a foreign awaitable, which cannot work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.locks import RLock
from ..engine.os_errors import aborted
from ..objects.status import drop_buffer
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
    """Begins a wait of `sleep`, `to_thread` or `dial` for the task that yields it."""

    __slots__ = ("begin", "call")

    def __init__(self, call: str, begin: Callable[[Task], None]) -> None:
        self.call: str = call
        self.begin: Callable[[Task], None] = begin

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Task(TaskBuffer):
    """One connection's coroutine, its context and its present wait."""

    untaken: deque[Any] | None
    waiting: Any

    __slots__ = ("context", "coroutine", "owner", "timer")

    def __init__(
        self, conn: Connection, coroutine: Any, owner: Any, context: Context
    ) -> None:
        super().__init__(conn)
        self.context: Context = context  # every step of the coroutine runs in it
        self.coroutine: Coroutine[Any, Any, Any] = coroutine
        self.owner: Any = owner  # its `finished` is called when the coroutine ends
        self.timer: Timer | None = None

    @property
    def task(self) -> Task:
        return self

    def is_awaited(self, call: str) -> bool:
        return bool(self.waiting == call)

    def awaited_call(self) -> str:
        """Name the call that the coroutine waits in, for an error message."""
        return str(getattr(self.waiting, "call", self.waiting))

    def own(self, buffer: Any) -> None:
        """Keep a dialled connection, which ends with the coroutine."""
        self.engine.dialled.setdefault(self, []).append(buffer)

    def close_dialled(self) -> None:
        """Close the connections that the coroutine has dialled."""
        for buffer in self.engine.dialled.pop(self, ()):
            buffer.shut()
            drop_buffer(buffer.conn)
            buffer.conn.close()

    # --- waiting ----------------------------------------------------------

    def limit(self, timeout: float) -> None:
        """Let the next wait end with a TimeoutError after `timeout` seconds."""
        duration("timeout", timeout)
        self.timer = self.engine.call_later(timeout, self._time_is_over, timeout)

    def _time_is_over(self, timeout: float) -> None:
        """Give the mux one more turn: a message that came in time may not have been
        read or dispatched yet. `time_out` follows that turn's dispatch."""
        self.timer = self.engine.call_later(0, self._looked, timeout)

    def _looked(self, timeout: float) -> None:
        self.engine.late.append((self, self.timer, timeout))

    def time_out(self, timer: Timer, timeout: float) -> None:
        """Raise TimeoutError in the coroutine if the extra turn brought nothing."""
        if self.timer is not timer:  # a message or the end came
            return
        conn = getattr(self.waiting, "conn", self.conn)  # perhaps a dialled one
        if self.engine.has_more(conn.id):
            self._time_is_over(timeout)  # the turn was too full to read all input
        else:
            self.throw(TimeoutError(f"recv(): no message within {timeout} seconds"))

    def next_turn(self, call: str, delay: float = 0) -> Task:
        """Return the task to yield; the coroutine goes on after a turn of the mux."""
        self.waiting = call
        self.timer = self.engine.call_later(delay, self.wake)
        return self

    def wake(self) -> None:
        """Resume the coroutine: its waiting time is over."""
        self.timer = None
        self.resume(None)

    # --- stepping ---------------------------------------------------------

    def resume(self, value: Any) -> None:
        """Step the coroutine with the awaited value. This is the hot path."""
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
        """Step the coroutine by raising an error in its await."""
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
            del error  # its traceback refers to this frame, which would be a cycle

    def wait_otherwise(self, wanted: Any) -> None:
        """Start a `sleep`, `to_thread` or `dial`; refuse any other awaitable."""
        while wanted is not self or self.waiting is None:
            error: BaseException = RuntimeError(FOREIGN)
            if self.engine.c is None:
                error = self.closed_error()
            elif type(wanted) is Wait:
                try:
                    self.waiting = wanted.call
                    wanted.begin(self)
                    return
                except Exception as error_:  # no thread could be started, say
                    error = error_
            if self.too_eager():  # the coroutine catches the error and awaits again
                self.waiting = "nothing"
                if self.engine.c is not None:  # else the coroutine is closed soon
                    self.timer = self.engine.call_later(0, self.throw, error)
                return
            self.waiting = None
            wanted = self.context.run(self.coroutine.throw, error)

    def ended(self, error: BaseException) -> None:
        """Tell the owner that the coroutine returned, or raised `error`."""
        self.owner.finished(self, None if type(error) is StopIteration else error)

    def _forget_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def interrupt(self, cause: BaseException | None) -> None:
        """Raise the end of the server in the coroutine, which may still await in
        order to clean up."""
        self.over = True
        self.untaken = None
        number = errno.ECONNABORTED
        text = f"{self.conn!r}: the server has ended"
        error = ConnectionClosed(number, text, connection=self.conn)
        error.__cause__ = self.lost or aborted(cause)
        self.throw(error)

    def abandon(self) -> None:
        """Close the coroutine in its await."""
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


# Threads in which a `Server` steps its coroutines, perhaps inside an asyncio loop.
SERVING: set[int] = set()


def running_asyncio() -> Any:
    """Return the asyncio module if its loop steps this thread's coroutines, else
    None. asyncio steps the handlers of pymux.aio and has to do their waiting."""
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # None: half imported
    if running is None or running() is None or threading.get_ident() in SERVING:
        return None
    return asyncio


def named(
    call: str, in_asyncio: Callable[[Any], Any], begin: Callable[[Task], None]
) -> Coroutine[Any, Any, Any]:
    """Make a coroutine; the interpreter's "never awaited" warning names `call`."""

    async def wait() -> Any:
        asyncio = running_asyncio()
        return await (in_asyncio(asyncio) if asyncio else Wait(call, begin))

    wait.__name__ = wait.__qualname__ = call
    return wait()


def sleep(seconds: float) -> Coroutine[Any, Any, None]:
    """Wait for a number of seconds, in a coroutine handler.

    Args:
        seconds: how long to wait; 0 lets other coroutines go first.

    Raises:
        TypeError, ValueError: seconds is not a number, or is negative.

    >>> async def handler(conn):
    ...     await sleep(0.5)
    ...     conn.send(b"sorry for the delay")
    """
    seconds = number("seconds", seconds)
    duration("seconds", seconds)

    def begin(task: Task) -> None:
        task.timer = task.engine.call_later(seconds, task.wake)

    return named("sleep", lambda asyncio: asyncio.sleep(seconds), begin)


class ThreadPool:
    """Daemon threads for `to_thread`, so that an abandoned call delays no exit."""

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Begin anew, without threads or jobs. A forked child has none of them."""
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = RLock()
        self._threads = 0
        self._busy = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Call `job` in a thread. Start a new thread if all are busy; if that fails,
        the job waits for a busy thread.

        Raises:
            RuntimeError: the pool has no thread. The job is not called.
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


WORKERS = ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKERS.forget)


def to_thread(fn: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
    """Call ``fn(*args)`` in another thread and wait for its result.

    A coroutine handler uses it for calls that block. `fn` runs in a copy of the
    coroutine's context. A server that stops does not wait for a call that outlasts
    its drain.

    Args:
        fn: must not touch the mux or its connections, which belong to the mux's
            thread.
        args: the arguments of `fn`.

    Returns:
        The result of `fn`. An error that `fn` raises is raised here.

    Raises:
        TypeError: `fn` cannot be called.
        RuntimeError: no thread can be started. `fn` is not called.

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
            with contextlib.suppress(RuntimeError):  # the mux is closed
                task.engine.call_threadsafe(finish, done, value)
            del value  # an error's traceback refers to this frame: a cycle

        def finish(done: Callable[[Any], None], value: Any) -> None:
            if task.waiting == "to_thread":
                done(value)

        WORKERS.submit(job)

    return named("to_thread", lambda asyncio: asyncio.to_thread(fn, *args), begin)
