"""`Event` and `Queue`: how coroutines of one thread wait for each other.

They work alike on a mux and in asyncio. A coroutine that is woken runs in the mux's
next turn, or in the loop's next step, never inside the call that wakes it.

The end of its connection ends a handler's wait: else peers that come and go could pile
up coroutines that wait for nothing. A handler is told of that end once, here or by its
connection, and may then wait in order to clean up. `engine.aware` has those that were
told. What a handler has spawned is cancelled (see nursery.py).
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict, deque
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..objects.connection import Connection
from ..objects.status import buffer_of
from ..values.checks import LARGEST, whole
from .buffer import EAGER
from .current import HOME, RESTING, running_asyncio
from .tasks import Wait, sleep

if TYPE_CHECKING:
    from .tasks import Task

__all__ = ["Event", "Pause", "Queue"]

T = TypeVar("T")


class Pause(Wait):
    """A coroutine's wait for another coroutine.

    Attributes:
        alone: the coroutine goes on soon, and no other one that waited with it.
    """

    __slots__ = ("_future", "_task", "alone", "call")

    is_idle: bool = True
    ends_with_connection: bool = True

    def __init__(self, call: str) -> None:
        self.call: str = call
        self.alone: bool = False
        self._task: Task | None = None
        self._future: Any = None

    def begin(self, task: Task) -> None:
        """Note the task, which `wake` resumes."""
        task.check_end()
        self._task = task

    async def over(self) -> None:
        """Wait until `wake` is called.

        Raises:
            ConnectionClosed: the coroutine is a handler's, whose connection has ended.
        """
        asyncio = running_asyncio()
        if asyncio is not None:
            await self._over_in_asyncio(asyncio)
            return
        await self
        if self._task is not None:
            self._task.check_end()  # perhaps it has ended since `wake`

    async def _over_in_asyncio(self, asyncio: Any) -> None:
        task = asyncio.current_task()
        reader = reader_of(task)
        if reader is not None:
            reader.check_end()
            reader.waiting = self
        self._future = asyncio.get_running_loop().create_future()
        RESTING.add(task)
        try:
            await self._future
        finally:
            RESTING.discard(task)
            if reader is not None:
                reader.waiting = None
        if reader is not None:
            reader.check_end()

    def look(self) -> None:
        """In asyncio: let the coroutine see that its connection has ended."""
        if not self._future.done():
            self._future.set_result(None)

    def wake(self) -> None:
        """Let the coroutine go on."""
        if self._task is not None:
            self._task.engine.calls.append((self._resume, ()))
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _resume(self) -> None:
        task = self._task
        if task is not None and task.waiting is self:  # else it has given up
            task.resume(None)


def reader_of(task: Any) -> Any:
    """Return the buffer of the connection whose handler a task of asyncio runs, or
    None."""
    home = HOME.get(None)
    conn = None if home is None else home()
    reader = buffer_of(conn) if isinstance(conn, Connection) else None
    if reader is None or not reader.is_run_by(task):
        return None
    return reader


class Pauses:
    """The coroutines that wait for one thing, the one that waits longest first."""

    __slots__ = ("_call", "_waiting")

    def __init__(self, call: str) -> None:
        self._call = call
        # Peers that go may take any of many from it, in any order.
        self._waiting: OrderedDict[Pause, None] = OrderedDict()

    async def wait(self) -> None:
        """Wait to be woken. A coroutine that gives up although it alone was woken
        wakes the next one in its place.

        Raises:
            ConnectionClosed: the coroutine is a handler's, whose connection has ended.
        """
        pause = Pause(self._call)
        self._waiting[pause] = None
        try:
            await pause.over()
        except BaseException:
            if pause.alone:
                self.wake_one()
            else:
                self._waiting.pop(pause, None)
            raise

    def wake_one(self) -> None:
        """Wake the coroutine that has waited longest, if there is one."""
        if self._waiting:
            pause, _ = self._waiting.popitem(last=False)
            pause.alone = True
            pause.wake()

    def wake_all(self) -> None:
        """Wake every coroutine that waits."""
        while self._waiting:
            self._waiting.popitem(last=False)[0].wake()


class Shared:
    """What the coroutines of one thread share: that of the first one that waits. Once
    that thread has ended, another one may take its place."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._eager = 0  # waits that ended at once since the last one that did not

    def _enter(self) -> None:
        """Note the thread of a coroutine that may wait."""
        self._check()
        self._thread = get_ident()

    def _check(self) -> None:
        if self._thread is None or self._thread == get_ident():
            return
        if any(thread.ident == self._thread for thread in threading.enumerate()):
            raise RuntimeError(
                f"{type(self).__name__} belongs to the thread of its coroutines; in "
                "another thread use call_threadsafe() of the server or mux"
            )
        self._thread = None

    async def _turn(self) -> None:
        """Let others go first now and then: a loop of waits that end at once would
        never give the mux a turn."""
        self._eager += 1
        if self._eager > EAGER:
            self._eager = 0
            await sleep(0)


class Event(Shared):
    """A flag that coroutines can wait for.

    It is for coroutine handlers of one thread, whatever their connections, on a mux
    and in asyncio. Handlers of other forms, timers and calls of the same mux may set
    the flag. Another thread sets it by ``server.call_threadsafe``::

        server.call_threadsafe(lambda mux: event.set())

    Raises:
        ConnectionClosed: by `wait`, in a handler that is not told yet that its
            connection has ended, or was closed.
        RuntimeError: a method is called in another thread than that of the
            coroutines that have waited, while that thread lives.

    >>> loaded = Event()
    >>> async def handler(conn):
    ...     await loaded.wait()
    ...     conn.send(b"ready")
    >>> loaded.set()
    >>> loaded.is_set()
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._set = False
        self._pauses = Pauses("Event.wait")

    def __repr__(self) -> str:
        return f"<pymux.Event, {'set' if self._set else 'not set'}>"

    def is_set(self) -> bool:
        """Return True if the flag is set."""
        return self._set

    def set(self) -> None:
        """Set the flag, and wake the coroutines that wait for it."""
        self._check()
        self._set = True
        self._pauses.wake_all()

    def clear(self) -> None:
        """Take the flag back. Coroutines that were woken by it go on all the same."""
        self._check()
        self._set = False

    async def wait(self) -> None:
        """Wait until the flag is set; return at once if it is.

        Raises:
            ConnectionClosed: the connection of the handler that waits has ended. It
                is raised unless the handler has been told so before.
        """
        self._enter()
        if self._set:
            await self._turn()
        else:
            self._eager = 0
            await self._pauses.wait()


class Queue(Shared, Generic[T]):
    """A queue between coroutines, first in, first out.

    It is for coroutine handlers of one thread, whatever their connections, on a mux
    and in asyncio. Handlers of other forms, timers and calls of the same mux may use
    the methods that do not wait. Another thread uses ``server.call_threadsafe``.

    Iteration, ``async for item in queue``, ends once the queue is closed and empty.
    Several coroutines may wait, and are woken in turn. A `get` that ends by a
    `timeout`, or by the end of its coroutine or connection, takes no item.

    Args:
        maxsize: how many items the queue holds before `put` waits; None does not
            bound it.

    Raises:
        TypeError, ValueError: maxsize is no int, or is less than 1.
        ConnectionClosed: by `get` and `put`, in a handler that has to wait and is not
            told yet that its connection has ended, or was closed.
        RuntimeError: a method is called in another thread than that of the
            coroutines that have waited, while that thread lives.

    >>> jobs = Queue(maxsize=100)
    >>> async def handler(conn):
    ...     async for line in conn:
    ...         await jobs.put((conn, line))   # waits while 100 jobs wait
    >>> jobs.put_nowait("first")
    >>> len(jobs), jobs.get_nowait()
    (1, 'first')
    """

    def __init__(self, maxsize: int | None = None) -> None:
        super().__init__()
        if maxsize is not None:
            maxsize = whole("maxsize", maxsize, 1, LARGEST, "or None")
        self._maxsize = maxsize
        self._items: deque[T] = deque()
        self._closed = False
        self._getters = Pauses("Queue.get")
        self._putters = Pauses("Queue.put")

    def __repr__(self) -> str:
        of = "" if self._maxsize is None else f" of {self._maxsize}"
        return f"<pymux.Queue, {len(self)}{of} items{', closed' * self._closed}>"

    def __len__(self) -> int:
        return len(self._items)

    @property
    def maxsize(self) -> int | None:
        """How many items the queue holds, None without a bound."""
        return self._maxsize

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def put_nowait(self, item: T) -> None:
        """Put an item in at once.

        Args:
            item: anything.

        Raises:
            queue.Full: the queue holds `maxsize` items.
            ValueError: the queue is closed.
        """
        self._check()
        self._refuse_if_closed()
        if self._is_full():
            raise queue.Full(f"the queue holds {len(self)} items")
        self._items.append(item)
        self._getters.wake_one()

    async def put(self, item: T) -> None:
        """Put an item in; wait while the queue is full.

        Args:
            item: anything.

        Raises:
            ValueError: the queue is closed, perhaps meanwhile. The item is not in it.
            ConnectionClosed: the connection of the handler that waits has ended, as
                for `Event.wait`. The item is not in the queue.
        """
        self._enter()
        if self._is_full():
            self._eager = 0
        else:
            await self._turn()
        while self._is_full() and not self._closed:
            await self._putters.wait()
        self._refuse_if_closed()
        self._items.append(item)
        self._getters.wake_one()

    def get_nowait(self) -> T:
        """Take the oldest item at once.

        Raises:
            queue.Empty: there is no item.
            EOFError: there is none, and the queue is closed.
        """
        self._check()
        if not self._items:
            if self._closed:
                raise EOFError("the queue is closed and empty")
            raise queue.Empty("the queue is empty")
        item = self._items.popleft()
        self._putters.wake_one()
        return item

    async def get(self) -> T:
        """Take the oldest item; wait while there is none.

        Raises:
            EOFError: there is none, and the queue is closed.
            ConnectionClosed: the connection of the handler that waits has ended, as
                for `Event.wait`.
        """
        self._enter()
        if self._items:
            await self._turn()
        else:
            self._eager = 0
        while not self._items and not self._closed:
            await self._getters.wait()
        return self.get_nowait()

    def close(self) -> None:
        """Take no further items.

        What is in the queue can still be taken. Behind it iteration ends, and `get`
        raises EOFError. A second call does nothing.
        """
        self._check()
        self._closed = True
        self._getters.wake_all()
        self._putters.wake_all()

    def __aiter__(self) -> Queue[T]:
        """Iterate over the items until the queue is closed and empty."""
        return self

    if not TYPE_CHECKING:  # which says so itself

        def __iter__(self):
            """Refuse `for`, where `async for` is meant: TypeError."""
            raise TypeError(
                "a Queue is iterated by `async for item in queue`, in a coroutine"
            )

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except EOFError:
            raise StopAsyncIteration from None

    def _is_full(self) -> bool:
        return self._maxsize is not None and len(self._items) >= self._maxsize

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ValueError("the queue is closed: it takes no items")
