"""Tasks are coroutines of handlers, which the mux steps without asyncio.

A `Task` holds the coroutine of one connection. An awaitable of a connection notes the
wait in the task and yields the task. `sleep`, `to_thread`, `dial`, `Event` and `Queue`
belong to no connection and yield a `Wait`, which is then what the task waits for. Any
other yielded value is a foreign awaitable, which cannot work.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..engine.os_errors import aborted
from ..objects.status import drop_buffer
from ..values.checks import duration, number
from ..values.errors import ConnectionClosed
from .buffer import TaskBuffer
from .current import running_asyncio
from .timeouts import Look, Timeout

if TYPE_CHECKING:
    from ..engine.timers import Timer
    from ..objects.connection import Connection

__all__ = ["Call", "Task", "Wait", "named", "sleep"]

FOREIGN = (
    "this awaitable is not pymux's: a coroutine handler awaits recv(), drain(), "
    "pymux.sleep(), to_thread(), dial(), and the waits of Event and Queue; to use "
    "asyncio, serve with pymux.aio"
)


class Wait:
    """One wait of a task that belongs to no connection: the task yields it, and has
    it as its `waiting` then.

    What ends the wait compares `waiting` first, since the task may have given up.

    Attributes:
        call: the name of the call that waits, for error messages.
        is_idle: a connection's peer does not wait for what this is a wait for.
        ends_with_connection: the end of the coroutine's connection ends the wait.
    """

    __slots__ = ()

    call: str
    is_idle: bool = False
    ends_with_connection: bool = False

    def begin(self, task: Task) -> None:
        """Begin to wait, for a task whose `waiting` is this wait."""
        raise NotImplementedError

    def has_arrived(self) -> bool:
        """Return True if the task gets what it waits for in the mux's next turn."""
        return False

    def give_up(self) -> None:
        """Undo what `begin` has begun: an error ends the wait."""

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield self)
        except BaseException:
            self.give_up()
            raise


class Call(Wait):
    """A wait that a function begins."""

    __slots__ = ("_begin", "call")

    def __init__(self, call: str, begin: Callable[[Task], None]) -> None:
        self.call: str = call
        self._begin = begin

    def begin(self, task: Task) -> None:
        """Call the function with the task."""
        self._begin(task)


class Guest(Wait):
    """The `drain` of a task for a connection from which another task receives."""

    __slots__ = ("_buffer", "_task")

    call: str = "drain"
    is_idle: bool = True

    def __init__(self, buffer: TaskBuffer) -> None:
        self._buffer = buffer
        self._task: Task | None = None

    def begin(self, task: Task) -> None:
        """Wait for the buffer's news."""
        self._task = task
        task.engine.guests.setdefault(self._buffer, []).append(self)

    def give_up(self) -> None:
        """Wait no more."""
        guests = self._buffer.engine.guests.get(self._buffer, [])
        if self in guests:
            guests.remove(self)
            if not guests:
                del self._buffer.engine.guests[self._buffer]

    def wake(self, error: BaseException | None) -> None:
        """Resume the task, or raise an error in it."""
        task = self._task
        if task is None or task.waiting is not self:
            return
        if error is None:
            task.resume(None)
        else:
            task.throw(error)


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
        self.timer: Timer | Look | None = None

    @property
    def task(self) -> Task:
        return self

    @property
    def family(self) -> Task:
        """The task of the connection's own coroutine."""
        return self

    def is_awaited(self, call: str) -> bool:
        return bool(self.waiting == call)

    def is_at_work(self) -> bool:
        """Return True unless the coroutine, and all that it spawned, wait for the
        peer or for each other."""
        at_work = super().is_at_work()
        nursery = self.engine.nurseries.get(self)
        return at_work if nursery is None else bool(nursery.is_at_work(at_work))

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
            # Another coroutine of the family may wait for the connection.
            self.engine.calls.append((buffer.end, (None, True)))

    def as_guest(self, buffer: TaskBuffer) -> Wait:
        """Return what a task awaits to drain a connection that is another task's."""
        return Guest(buffer)

    # --- the end of the connection ----------------------------------------

    def ends_wait(self) -> bool:
        """Return True if the end of the connection is raised where the coroutine
        waits."""
        waiting = self.waiting
        if type(waiting) is str:
            return waiting in ("recv", "drain")
        ends = getattr(waiting, "ends_with_connection", False)
        return ends and self not in self.engine.aware

    def end(self, error: BaseException | None, gone: bool) -> None:
        if gone and self.ends_wait():
            self.engine.aware.add(self)
            if type(self.waiting) is not str:
                self.note_end(error, gone)
                self.throw(self.closed_error())
        super().end(error, gone)

    def note_told(self) -> None:
        if self.engine.running is self:
            self.engine.aware.add(self)

    # --- waiting ----------------------------------------------------------

    def limit(self, timeout: float) -> None:
        """Let the next wait end with a TimeoutError after `timeout` seconds."""
        duration("timeout", timeout)
        self.timer = self.engine.call_later(timeout, self._time_is_over, timeout)

    def _time_is_over(self, timeout: float) -> None:
        """Give the mux one more turn: a message that came in time may not have been
        read or dispatched yet. `time_out` follows that turn's dispatch."""
        if type(self.timer) is Look:  # a `timeout` block is over too, and ends the wait
            return
        self.timer = self.engine.call_later(0, self._looked, timeout)

    def _looked(self, timeout: float) -> None:
        self.engine.late.append((self, self.timer, timeout))

    def time_out(self, timer: Timer, timeout: float) -> None:
        """Raise TimeoutError in the coroutine if the extra turn brought nothing."""
        if self.timer is not timer:  # a message or the end came
            return
        if self.has_arrived():
            self._time_is_over(timeout)  # the turn was too full to read all input
        else:
            self.throw(TimeoutError(f"recv(): no message within {timeout} seconds"))

    def has_arrived(self) -> bool:
        """Return True if the coroutine gets what it waits for in the next turn."""
        waiting = self.waiting
        if type(waiting) is not str:
            return bool(waiting.has_arrived())
        return waiting == "recv" and bool(self.engine.has_more(self.conn.id))

    def within(self, timeout: float, text: str) -> Timeout:
        """Return a block for this task that raises TimeoutError with a text."""
        return Timeout(timeout, text, self)

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
        """Begin a `Wait`; refuse any other awaitable."""
        while wanted is not self or self.waiting is None:
            error: BaseException = RuntimeError(FOREIGN)
            if self.engine.c is None:
                error = self.closed_error()
            elif isinstance(wanted, Wait):
                try:
                    self.waiting = wanted
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
        self.engine.aware.add(self)
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


def named(
    in_asyncio: Callable[[Any], Any],
    wait: Wait,
    timeout: float | None = None,
    text: str = "",
) -> Coroutine[Any, Any, Any]:
    """Make a coroutine; the interpreter's "never awaited" warning names its call.

    Args:
        in_asyncio: called with the module; makes what an asyncio task awaits.
        wait: what a task of a mux awaits.
        timeout: seconds after which a TimeoutError with `text` ends the wait.
    """

    async def waiting() -> Any:
        if timeout is not None:
            async with Timeout(timeout, text):
                return await begun()
        return await begun()

    def begun() -> Any:
        asyncio = running_asyncio()
        return in_asyncio(asyncio) if asyncio else wait

    waiting.__name__ = waiting.__qualname__ = wait.call
    return waiting()


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

    return named(lambda asyncio: asyncio.sleep(seconds), Call("sleep", begin))
