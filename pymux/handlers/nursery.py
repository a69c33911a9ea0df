"""`spawn`: coroutines that belong to the coroutine of a connection.

Each connection that spawns has a nursery. The handler's own coroutine is its body,
what the body and the others spawn are its children, and the connection ends with the
last of them:

- Where the body returns, the connection stays open until the children have ended.
- Where the body or a child raises, the error is reported once, the connection ends as
  for any handler that raises, and the others are cancelled.
- Where the connection ends, the children are cancelled. The body is told where it uses
  the connection or waits for an `Event` or in a `Queue`, as without children. A body
  that waits for its children goes on waiting.

A child that is cancelled gets `Cancelled` in its await. It may clean up, and await in
order to do so. What it raises then is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ..objects.status import is_closed
from ..values.errors import FATAL, Cancelled
from .current import running_asyncio, running_task
from .tasks import Call, Task

if TYPE_CHECKING:
    from .coroutine import CoroutineDispatcher

__all__ = ["Nursery", "Spawned", "not_in_a_handler", "spawn", "spawn_in_asyncio"]

_in_asyncio: list[Callable[[Any], Any]] = []  # set by an import of `pymux.aio`


def spawn_in_asyncio(start: Callable[[Any], Any]) -> None:
    """Set the function that starts a coroutine in asyncio, and returns its task."""
    _in_asyncio[:] = [start]


class Child(Task):
    """The task of a coroutine that was spawned.

    Attributes:
        cancelled: `Cancelled` was raised in the coroutine.
        nursery: the nursery of its connection.
    """

    __slots__ = ("_done", "cancelled", "nursery")

    def __init__(
        self, nursery: Nursery, coroutine: Coroutine[Any, Any, Any], context: Context
    ) -> None:
        super().__init__(nursery.body.conn, coroutine, nursery, context)
        self.nursery: Nursery = nursery
        self.cancelled: bool = False
        self._done: bool = False

    @property
    def family(self) -> Task:
        return self.nursery.body

    def start(self) -> None:
        """Begin the coroutine, in a turn of the mux, unless it was cancelled."""
        if not self._done:
            self.resume(None)

    def cancel(self) -> None:
        """Cancel the coroutine in the mux's next turn: perhaps it runs now."""
        if not self._done:
            self.engine.check()
            self.engine.calls.append((self.cancel_now, ("cancel() was called",)))

    def cancel_now(self, why: str) -> None:
        """Raise `Cancelled` in the coroutine's await, once."""
        if not self._done and not self.cancelled:
            self.cancelled = True
            self.throw(Cancelled(f"{self.conn!r}: {why}"))

    def interrupt(self, cause: BaseException | None) -> None:
        """Cancel the coroutine: the server ends."""
        self.cancel_now("the server has ended")

    def check_end(self) -> None:
        """Do nothing: the coroutine is cancelled when its connection ends."""

    def done(self) -> bool:
        """Return True once the coroutine has ended."""
        return self._done

    def note_done(self) -> None:
        """Note that the coroutine has ended, and close what it has dialled."""
        self._done = True
        self.close_dialled()

    def is_at_work(self) -> bool:
        """Return True unless the coroutine waits for the peer or another coroutine."""
        return not getattr(self.waiting, "is_idle", False)


class Nursery:
    """The coroutines that one connection's coroutine has spawned.

    Attributes:
        body: the task of the connection's own coroutine.
    """

    __slots__ = ("_children", "_dispatcher", "_ended", "_joined", "body")

    def __init__(self, body: Task) -> None:
        self.body: Task = body
        self._dispatcher: CoroutineDispatcher = body.owner
        self._children: dict[Child, None] = {}
        self._ended = False  # the children were cancelled
        self._joined = False  # the body has returned, and waits for the children

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Child:
        """Start a child in the mux's next turn.

        Raises:
            ConnectionClosed: the connection has ended, or was closed.
        """
        body, dispatcher = self.body, self._dispatcher
        if self._ended or is_closed(body.conn) or dispatcher.is_told(body):
            body.note_told()
            raise body.closed_error()
        child = Child(self, coroutine, copy_context())
        self._children[child] = None
        body.engine.nurseries[body] = self
        body.engine.calls.append((child.start, ()))
        return child

    def children(self) -> list[Child]:
        """List the children that have not ended."""
        return list(self._children)

    def is_at_work(self, body: bool) -> bool:
        """Return True if the peer may be waiting for one of the coroutines.

        Args:
            body: the body is at work; it is not once it waits for its children.
        """
        if body and not self._joined:
            return True
        return any(child.is_at_work() for child in self._children)

    # --- ends -----------------------------------------------------------------

    def joins(self, error: BaseException | None) -> bool:
        """Return True if the body has returned, and now waits for its children."""
        if error is None and self._children:
            self._joined = True
            self.body.coroutine = self._join()
            self.body.resume(None)
            return True
        self._joined = False
        del self.body.engine.nurseries[self.body]
        return False

    async def _join(self) -> None:
        await Call("a spawned coroutine", lambda task: None)

    def end(self, why: str) -> None:
        """Cancel the children: their connection ends."""
        if self._ended:
            return
        self._ended = True
        raised: list[BaseException] = []
        for child in self.children():
            self._dispatcher.let_clean_up(child)
            try:
                child.cancel_now(why)
            except FATAL as error:
                raised.append(error)
        if raised:
            raise raised[0]

    def is_told(self, child: Child) -> bool:
        """Return True if a child knows that the server ends."""
        return self._dispatcher.is_told(child)

    def finished(self, child: Child, error: BaseException | None) -> None:
        """Take note that a child has returned, or raised an error."""
        del self._children[child]
        child.note_done()
        self._dispatcher.forget(child)
        expected = child.cancelled and isinstance(error, Cancelled)
        try:
            if error is not None and not expected:
                self._fail(error)
        finally:
            if self._joined and not self._children:
                self._joined = False
                self.body.resume(None)

    def _fail(self, error: BaseException) -> None:
        """End the connection: a child has raised. Cancel the others, and the body."""
        body = self.body
        why = "another coroutine of the connection has raised"
        try:
            self._dispatcher.child_failed(body.conn, error)
        finally:
            try:
                self.end(why)
            finally:
                if body in body.engine.nurseries:
                    body.engine.aware.add(body)
                    body.throw(Cancelled(f"{body.conn!r}: {why}"))


class Spawned:
    """A coroutine that `spawn` has started.

    It is not awaited, and what it returns is dropped: to wait for it, or for what it
    has found, let it set an `Event` or put its result in a `Queue`, and await that.

    >>> async def tick(conn):
    ...     while True:
    ...         await sleep(10)
    ...         conn.send(b"tick")
    >>> async def handler(conn):
    ...     ticks = spawn(tick(conn))
    ...     async for message in conn:
    ...         conn.send(message)
    ...     ticks.cancel()  # else the handler's return would wait for it
    """

    __slots__ = ("_task",)

    def __init__(self, task: Any) -> None:
        # Private: `spawn` makes these.
        self._task = task

    if not TYPE_CHECKING:  # which says so itself

        def __await__(self):
            """Refuse `await`: TypeError."""
            raise TypeError(
                "a spawned coroutine is not awaited; let it set a pymux.Event, or put "
                "its result in a pymux.Queue, and await that"
            )

    def cancel(self) -> None:
        """Raise `Cancelled` in the coroutine's await, soon after this call.

        The coroutine may clean up, and await in order to do so. One that has not
        started yet starts, and is cancelled in its first await, so that what its
        `finally` gives back is given back; in asyncio it never starts. After its end
        this does nothing. In asyncio the error is `asyncio.CancelledError`.

        Raises:
            RuntimeError: outside the mux's thread, while the coroutine runs.
        """
        self._task.cancel()

    def done(self) -> bool:
        """Return True once the coroutine has ended."""
        return bool(self._task.done())


def spawn(coroutine: Coroutine[Any, Any, Any]) -> Spawned:
    """Start another coroutine that belongs to the running handler's connection.

    Both then run beside each other, in a thread, the new one from the mux's next turn
    on and in a copy of the present context. It may send, wait in `drain`, sleep, dial,
    and spawn others. Only the handler itself receives from its connection; give on
    what it receives by arguments or by a `Queue`. What the coroutine returns is
    dropped.

    A connection ends with the last of its coroutines:

    - When the handler returns, its connection stays open until those that it has
      spawned have returned too. Cancel what would run for ever.
    - When one of them raises, its error is reported once, as a handler's own: the
      connection ends, and the others are cancelled, the handler too. A
      `ConnectionClosed` that escapes is the normal end of its connection here too.
    - When the connection ends, by the peer or by `close`, and when the handler raises,
      the spawned ones are cancelled. At `stop` they may go on as the handler may.

    Nothing bounds how many a handler spawns. Where peers may cause spawns, bound them
    as in the example.

    The idle time of the connection does not run while a spawned coroutine is at work,
    which is whenever it does not wait in `drain`, for an `Event` or for a `Queue`.

    In a handler of `pymux.aio` the coroutine becomes an asyncio task, with the same
    rules. Elsewhere in asyncio use `asyncio.TaskGroup`.

    Args:
        coroutine: what the call of an ``async def`` function returns.

    Returns:
        A `Spawned`, to cancel it. It need not be kept.

    Raises:
        TypeError: `coroutine` is no coroutine, but the function, say.
        ConnectionClosed: the connection has ended, or was closed.
        RuntimeError: no coroutine handler of a connection runs.

    >>> async def answer(conn, line, slots):
    ...     conn.send(await to_thread(bytes.upper, line))
    ...     slots.get_nowait()
    >>> async def handler(conn):
    ...     slots = Queue(maxsize=32)
    ...     async for line in conn:    # the next one, while answers are under way
    ...         await slots.put(None)  # at most 32 at once
    ...         spawn(answer(conn, line, slots))
    """
    if not isinstance(coroutine, Coroutine):
        raise TypeError(
            f"coroutine is {coroutine!r}; a coroutine is needed, as in "
            "spawn(function(argument))"
        )
    try:
        if running_asyncio():
            if not _in_asyncio:
                raise not_in_a_handler()
            return Spawned(_in_asyncio[0](coroutine))
        running = running_task("spawn()")
        if running.conn is None:  # it finishes an async generator
            raise not_in_a_handler()
        if isinstance(running, Child):
            nursery = running.nursery  # which may have ended
        else:
            nursery = running.engine.nurseries.get(running) or Nursery(running)
        return Spawned(nursery.start(coroutine))
    except BaseException:
        coroutine.close()  # the interpreter would warn that nobody awaits it
        raise


def not_in_a_handler() -> RuntimeError:
    """Make the error of a `spawn` that no handler's connection could own."""
    return RuntimeError(
        "spawn() belongs to the coroutine handler of a connection; elsewhere in "
        "asyncio use asyncio.TaskGroup"
    )
