"""`to_thread` and its threads."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.locks import RLock
from ..values.checks import duration
from .tasks import Call, named

if TYPE_CHECKING:
    from .tasks import Task

__all__ = ["WORKERS", "to_thread"]

T = TypeVar("T")


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


def to_thread(
    fn: Callable[..., T], *args: Any, timeout: float | None = None
) -> Coroutine[Any, Any, T]:
    """Call ``fn(*args)`` in another thread and wait for its result.

    A coroutine handler uses it for calls that block. `fn` runs in a copy of the
    coroutine's context. A server that stops does not wait for a call that outlasts
    its drain.

    Args:
        fn: must not touch the mux or its connections, which belong to the mux's
            thread.
        args: the arguments of `fn`. Keyword arguments are for `functools.partial`:
            ``to_thread(partial(fn, key=value))``. So `timeout` is never one of them.
        timeout: seconds to wait for the result; None waits for ever. No thread can be
            stopped: a call that takes longer goes on in its thread, and its result
            is dropped.

    Returns:
        The result of `fn`. An error that `fn` raises is raised here.

    Raises:
        TypeError, ValueError: `fn` cannot be called, or `timeout` is no number, or
            is negative.
        TimeoutError: the call took longer than `timeout`.
        RuntimeError: no thread can be started. `fn` is not called.

    >>> async def handler(conn):
    ...     async for message in conn:
    ...         conn.send(await to_thread(bytes.upper, message, timeout=5))
    """
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}; a callable is needed")
    timeout = duration("timeout", timeout)

    def begin(task: Task) -> None:
        context = task.context.copy()
        wait = task.waiting

        def job() -> None:
            # An error's traceback refers to this frame, and on CPython 3.12 to those
            # that throw it. None of them may refer to the error: that is a cycle.
            box: list[Any] = []
            try:
                box.append(context.run(fn, *args))
                done: Callable[[Any], None] = task.resume
            except BaseException as error:
                done = task.throw
                box.append(error)
            with contextlib.suppress(RuntimeError):  # the mux is closed
                task.engine.call_threadsafe(finish, done, box)

        def finish(done: Callable[[Any], None], box: list[Any]) -> None:
            if task.waiting is wait:
                done(box.pop())
            else:  # the coroutine has given up
                box.clear()

        WORKERS.submit(job)

    return named(
        lambda asyncio: asyncio.to_thread(fn, *args),
        Call("to_thread", begin),
        timeout,
        f"to_thread(): {fn!r} took longer than {timeout} seconds",
    )
