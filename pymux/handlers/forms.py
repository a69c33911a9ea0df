"""The four forms of a handler, and how each is called.

A dispatcher is made once for a server and called with every batch: all
`opened`, then the messages in batch order, then `drained`, then `closed`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, TypeVar, overload

from .._core import lib
from ..engine.arena import MANY, Arena
from ..engine.log import LARGE_PIECE
from ..mux import SUBMIT_OVER, Mux
from ..objects.batch import Batch
from ..objects.connection import CLOSED, GONE, OPEN, Connection, as_bytes
from ..values.checks import check_min_messages, seconds
from ..values.errors import FATAL, aborted, ends_in
from .generators import Generators
from .tasks import Task

__all__ = ["batched", "dispatcher_for"]

FAIL = lib.PMX_FAIL << 60
WAITS = lib.PMX_WAITS << 60
GAPS = lib.PMX_GAPS
MESSAGES = lib.PMX_MESSAGES_SHIFT
METHODS = ("opened", "received", "drained", "closed")
MARK = "_pymux_batched"
CALL = "__call__"
GRACE = 0.4  # seconds in which coroutines may clean up when the server ends

log: logging.Logger = logging.getLogger("pymux")
OnError = Callable[[Connection | None, BaseException], Any]
BatchHandler = TypeVar("BatchHandler", bound=Callable[..., Any])


@overload
def batched(
    handler: BatchHandler, *, min_messages: int = 1, max_delay: float = 0.0
) -> BatchHandler: ...
@overload
def batched(
    handler: None = None, *, min_messages: int = 1, max_delay: float = 0.0
) -> Callable[[BatchHandler], BatchHandler]: ...
def batched(
    handler: Any = None, *, min_messages: int = 1, max_delay: float = 0.0
) -> Any:
    """Mark a batch handler: it is called once a harvest, with the batch.

    Args:
        handler: the function, or an object's method `received`.
        min_messages: wait in the harvest for so many messages,
        max_delay: but at most so many seconds after the first.

    Returns:
        The handler, marked; without one, what marks it.

    Raises:
        TypeError: what is marked is no function, or an async one.
        ValueError: fewer messages than 1, fewer seconds than 0.

    >>> @batched(min_messages=256, max_delay=0.002)
    ... def upper(batch):
    ...     batch.reply_data(bytes(batch.data).upper())
    """
    min_messages = check_min_messages(min_messages)
    delay = max(seconds("max_delay", max_delay), 0)

    def mark(fn: Any) -> Any:
        if not callable(fn) or inspect.isclass(fn):
            raise TypeError(f"batched marks a function, not {fn!r}")
        if _is_async(fn):
            raise TypeError(f"a batch handler cannot be async: {fn!r}")
        try:
            setattr(fn, MARK, (min_messages, delay))
        except AttributeError:  # a built-in, a bound method

            def call(batch: Batch) -> Any:
                return fn(batch)

            setattr(call, MARK, (min_messages, delay))
            return call
        return fn

    return mark if handler is None else mark(handler)


def _is_async(fn: Any) -> bool:
    return (
        inspect.iscoroutinefunction(fn)
        or inspect.isasyncgenfunction(fn)
        or inspect.iscoroutinefunction(getattr(type(fn), CALL, None))
    )


def dispatcher_for(handler: Any) -> type[Dispatcher]:
    """Which form a handler has.

    Raises:
        TypeError: none of the four.
    """
    if inspect.isclass(handler):
        raise TypeError(
            f"the handler is the class {handler.__name__}; "
            f"give an object of it: {handler.__name__}()"
        )
    if getattr(handler, MARK, None):
        return BatchDispatcher
    methods = [name for name in METHODS if callable(getattr(handler, name, None))]
    if methods:
        for name in methods:
            if _is_async(getattr(handler, name)):
                raise TypeError(
                    f"{type(handler).__name__}.{name} is async; an object's methods "
                    "are plain ones, a coroutine handler is one `async def`"
                )
        return ObjectDispatcher
    if inspect.isasyncgenfunction(handler):
        raise TypeError(
            f"{handler!r} is an async generator; send with conn.send() instead of yield"
        )
    if _is_async(handler):
        return CoroutineDispatcher
    if callable(handler):
        return FunctionDispatcher
    raise TypeError(
        f"the handler is {handler!r}; a function, a coroutine function, a batched "
        "function or an object with opened, received, drained or closed is needed"
    )


class Dispatcher:
    """What the forms have in common."""

    half_open: bool = False
    late: bool = False  # the time of `stop` is over: the rest is being reset
    min_messages: int = 1
    delay_ns: int = 0

    def __init__(self, mux: Mux, handler: Any, on_error: OnError | None) -> None:
        self.mux = mux
        self.handler = handler
        self.on_error = on_error

    def __call__(self, batch: Batch) -> None:
        """Dispatch one batch."""
        if batch._rows:
            self.messages(batch._arena, batch._rows, batch._gap)

    def plain(self, result: int) -> None:
        """Dispatch a harvest that brought nothing but messages."""
        mux = self.mux
        gap = mux._gap if result & GAPS else None
        self.messages(mux._arena, result >> MESSAGES, gap)

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Dispatch messages: `rows` of them, in an arena, `gap` behind each."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether anything here still runs, though no connection is left."""
        return False

    def cleans_up(self) -> bool:
        """Out of time: whether what still runs is to have a moment yet."""
        return False

    def abandon(self) -> None:
        """End what still runs."""

    def bereave(self) -> None:
        """The mux is about to close, by a call of a handler's."""

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, this thread serves."""
        return contextlib.nullcontext()

    def wind_up(self, cause: BaseException | None) -> None:
        """The server ends, by an error or without one: tell whoever has not
        heard of it. Nothing that they raise keeps the others from it."""

    # --- calling ----------------------------------------------------------

    def each(
        self,
        arena: Arena,
        rows: int,
        gap: bytes | None,
        handler: Callable[[Connection, bytes], Any],
    ) -> None:
        """Call it for each message. Replies gather beside the log, and go in
        as one when nothing else was logged meanwhile."""
        mux = self.mux
        if rows == 1:
            self.one(*arena.only(mux._table, gap), handler)
            return
        log = mux._log
        before = len(log.entries)
        conns = arena.conns(mux._table, rows)
        order = iter(conns)
        pairs = zip(order, arena.cut(rows, gap))
        log.rows, log.pending = conns, []
        try:
            while not self.some(pairs, order, handler):
                pass
            replies = log.pending
            if len(replies) == rows and not log.large and len(log.entries) == before:
                with contextlib.suppress(TypeError):  # some have no answer
                    log.answer(arena, replies, mux._lines)
        finally:
            if log.pending:
                log.merge()
            log.rows = []

    def one(
        self,
        conn: Connection,
        data: bytes,
        handler: Callable[[Connection, bytes], Any],
    ) -> None:
        """The same for the one message of a batch."""
        if conn._status == CLOSED:
            return
        mux = self.mux
        try:
            reply = handler(conn, data)
            if type(reply) is not bytes or len(reply) > mux._large:
                if reply is None:
                    return
                reply = self.large(conn, reply)
            if conn._status == OPEN and reply is not None:
                mux._log.entries += (conn.id, reply)
            elif reply is not None:
                conn._answer(reply)
        except BaseException as error:
            self.failed(conn, error)

    def some(
        self,
        pairs: Iterator[tuple[Connection, bytes]],
        order: Any,
        handler: Callable[[Connection, bytes], Any],
    ) -> bool:
        """The hot loop: no call but the handler's, for a small reply. False
        where the handler raised, and there may be rows left.

        A signal's handler may raise anywhere in it. So what was done is told
        by how many rows the iterator of connections has left, not by where
        the loop stood.
        """
        log, large = self.mux._log, self.mux._large
        try:
            for conn, data in pairs:
                if conn._status == CLOSED:
                    log.pending.append(None)
                    continue
                reply = handler(conn, data)
                if (type(reply) is not bytes or len(reply) > large) and (
                    reply is not None
                ):
                    reply = self.large(conn, reply)
                log.pending.append(reply)
        except BaseException as error:
            begun = len(log.rows) - order.__length_hint__()
            if not begun:
                raise
            if len(log.pending) < begun:
                log.pending.append(None)
            self.failed(log.rows[begun - 1], error)
            return False
        return True

    def large(self, conn: Connection, reply: Any) -> bytes | None:
        """A reply that is no bytes, or that wants a look: the bytes, or None
        where they have gone into the log already."""
        mux = self.mux
        data = as_bytes(reply)
        size = len(data)
        if size > mux._reply_limit:
            mux._check_reply(conn.id, size)
        if size <= LARGE_PIECE:
            return data
        if mux._log.large + size > SUBMIT_OVER and conn._status in (OPEN, GONE):
            mux._take_large(conn.id, data)
            return None
        mux._log.large += size
        return data

    def once(self, batch: Batch, handler: Callable[[Batch], Any]) -> None:
        """Every connection with a row ends where it raises."""
        try:
            handler(batch)
        except BaseException as error:
            if self.has_ended(error):
                return
            for conn in set(batch.conns):
                self.end(conn, error)
            self.report_or_leave(None, error)

    # --- errors -----------------------------------------------------------

    def report(self, conn: Connection | None, error: BaseException) -> None:
        """Log an error of a handler, once, or give it to on_error."""
        if self.on_error is None:
            of = (
                f"of {conn!r}"
                if conn is not None
                else "of a batch, a timer or a generator"
            )
            say_error(error, "the handler %s raised", of)
            return
        try:
            self.on_error(conn, error)
        except FATAL as second:
            self.mux._leave(second)
        except BaseException as second:
            say_error(second, "on_error raised")

    def report_or_leave(self, conn: Connection | None, error: BaseException) -> None:
        """Report an error, unless it is one of those that leave pymux."""
        if isinstance(error, FATAL):
            self.mux._leave(error)
        else:
            self.report(conn, error)

    def failed(self, conn: Connection, error: BaseException) -> None:
        """A handler raised: its connection ends, flushed; unless what it
        raised is the end of a connection, which needs nothing more."""
        if self.has_ended(error):
            return
        self.end(conn, error)
        self.report_or_leave(conn, error)

    def has_ended(self, error: BaseException) -> bool:
        """Whether what a handler raised is nothing but the end of connections.
        Those that it names are closed."""
        ends = ends_in(error)
        if ends is None:
            return False
        for end in ends:
            named = end.connection
            if named is not None and named.mux is self.mux and not named.closed:
                named.close()
        return True

    def end(self, conn: Connection, error: BaseException) -> None:
        """Have a connection end with ECONNABORTED, caused by `error`."""
        self.mux._log.settle()
        if conn._status == GONE:
            conn._status = CLOSED  # its end has its cause, and is being reported
        elif conn._status != CLOSED:
            conn._status = CLOSED
            self.mux._causes[conn.id] = error
            self.mux._log.op(conn.id | FAIL)


class FunctionDispatcher(Dispatcher):
    """`def handler(conn, data)`, once a message."""

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Call it for each; what it returns is sent when it returns."""
        self.each(arena, rows, gap, self.handler)


class BatchDispatcher(Dispatcher):
    """`@batched def handler(batch)`, once a harvest."""

    def __init__(self, mux: Mux, handler: Any, on_error: OnError | None) -> None:
        super().__init__(mux, handler, on_error)
        mark: tuple[int, int] = getattr(handler, MARK)
        self.min_messages: int = mark[0]
        self.delay_ns: int = mark[1]

    def __call__(self, batch: Batch) -> None:
        """Call it with a batch that has messages."""
        if batch._rows:
            self.once(batch, self.handler)

    def plain(self, result: int) -> None:
        """Call it with the batch, which is to be made yet."""
        self.once(self.mux._hand_over(result), self.handler)


class ObjectDispatcher(Dispatcher):
    """An object with `opened`, `received`, `drained`, `closed`."""

    def __init__(self, mux: Mux, handler: Any, on_error: OnError | None) -> None:
        super().__init__(mux, handler, on_error)
        methods = {name: getattr(handler, name, None) for name in METHODS}
        self.opened: Any = methods["opened"]
        self.received: Any = methods["received"]
        self.drained: Any = methods["drained"]
        self.closed: Any = methods["closed"]
        mark = getattr(self.received, MARK, None)
        self.whole: bool = mark is not None
        self.batch: Batch | None = None  # the one that is dispatched now,
        self.ends: Iterator[Any] = iter(())  # and whom `closed` is yet to get of it
        self.left: list[Connection] = []  # those that the mux's close has ended
        if mark:
            self.min_messages: int = mark[0]
            self.delay_ns: int = mark[1]

    def __call__(self, batch: Batch) -> None:
        """Dispatch one batch."""
        if self.closed and batch.closed:
            self.batch, self.ends = batch, iter(batch.closed)
        if self.opened and batch.opened:
            for conn in batch.opened:
                self.call(conn, self.opened, conn)
        if batch._rows and self.received:
            if self.whole:
                self.once(batch, self.received)
            else:
                self.messages(batch._arena, batch._rows, batch._gap)
        if self.drained and batch.drained:
            for conn in batch.drained:
                if conn._status != CLOSED:
                    self.call(conn, self.drained, conn)
        if self.closed and batch.closed:
            for conn, error in self.ends:
                self.call(conn, self.closed, conn, error)
        self.batch = None

    def told(self) -> set[Connection]:
        """The connections that are reported by the batch being dispatched."""
        return {conn for conn, _ in self.batch.closed} if self.batch else set()

    def bereave(self) -> None:
        """Keep hold of the connections that the close ends: `closed` gets them."""
        if self.closed:
            told, table = self.told(), self.mux._table
            self.left += [c for c in table if c is not None and c not in told]

    def wind_up(self, cause: BaseException | None) -> None:
        """Where an error or a close of the mux ends the server, `closed` still gets
        every connection: first those of the dispatch that was cut short, then the
        others. A KeyboardInterrupt that `closed` raises leaves when all are told."""
        if not self.closed:
            return
        told = self.told()
        self.bereave()
        left, self.left = self.left, []
        raised: list[BaseException] = []
        for conn, end in [*self.ends, *((conn, None) for conn in left)]:
            if conn in told:
                error = end
            else:
                conn._status = CLOSED
                error = aborted(self.mux._causes.get(conn.id, cause))
            try:
                self.call(conn, self.closed, conn, error)
            except FATAL as fatal:
                raised.append(fatal)
        self.batch = None
        if raised and cause is None:
            raise raised[0]

    def plain(self, result: int) -> None:
        """Dispatch a harvest that brought nothing but messages."""
        if self.whole:
            self.once(self.mux._hand_over(result), self.received)
        elif self.received:
            super().plain(result)

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Call `received` for each; what it returns is sent when it returns."""
        self.each(arena, rows, gap, self.received)

    def call(self, conn: Connection, method: Callable[..., Any], *args: Any) -> None:
        """Call a method that answers nothing."""
        try:
            method(*args)
        except BaseException as error:
            self.failed(conn, error)


class CoroutineDispatcher(Dispatcher):
    """`async def handler(conn)`, once a connection."""

    half_open = True

    def __init__(self, mux: Mux, handler: Any, on_error: OnError | None) -> None:
        super().__init__(mux, handler, on_error)
        self.orphans: set[Task] = set()  # they run on, their connections gone
        self.told: set[Task] = set()  # those that know that the server ends
        self.until: float | None = None  # they may clean up
        self.ending: bool = False
        self.context: Context | None = None
        self.generators: Generators = Generators(self)

    def __call__(self, batch: Batch) -> None:
        """Step every coroutine that something happened to."""
        if batch._others:
            for conn in batch.opened:
                self.begin(conn)
        super().__call__(batch)
        if batch._others:
            self.others(batch)

    def begin(self, conn: Connection) -> None:
        """A connection opened: start its coroutine."""
        if self.ending:
            return
        base = self.context
        context = copy_context() if base is None else base.copy()
        try:
            coroutine = context.run(self.handler, conn)
        except BaseException as error:
            self.failed(conn, error)
            return
        task = conn._task = Task(conn, coroutine, self, context)
        self.tell_waits(conn)
        task.resume(None)

    def tell_waits(self, conn: Connection) -> None:
        """Tell the core that a task takes the messages of a connection, and
        has none that it has not answered."""
        self.mux._log.op(conn.id | WAITS)

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Step the coroutines that wait for a message, and keep the others'."""
        mux = self.mux
        table = mux._table
        runs = arena.runs(table, rows) if rows >= MANY else None
        if runs is not None:
            messages, at = arena.messages(rows, gap), 0
            for conn, length in runs:
                task = conn._task
                if task is not None and conn._status != CLOSED:
                    task.deliver_all(messages[at : at + length])
                at += length
            return
        try:
            for conn, data in zip(arena.conns(table, rows), arena.cut(rows, gap)):
                task = conn._task
                if task is None or conn._status == CLOSED:
                    continue
                if task.waiting != "recv" or task.timer is not None:
                    task.deliver(data)
                    continue
                task.waiting = None  # as in Task.resume, without its call
                mux._running = task
                try:
                    wanted = task.context.run(task.coroutine.send, data)
                    if wanted is not task or task.waiting is None:
                        task.wait_otherwise(wanted)
                except BaseException as error:
                    task.ended(error)
        finally:
            mux._running = None

    def others(self, batch: Batch) -> None:
        """What happened to connections beside messages."""
        for conn in batch.drained:
            if conn._task is not None:
                conn._task.drained()
        for conn in batch.ended:
            if conn._task is not None:
                conn._task.end(None, False)
        for conn in batch._idle:
            if conn._task is not None and not conn._task.is_at_work():
                self.tell_waits(conn)
        for conn, error in batch.closed:
            task = conn._task
            if task is not None:
                self.outlived(task)
                if self.late and task.waiting in ("recv", "drain"):
                    self.told.add(task)
                task.end(error, True)

    def outlived(self, task: Task) -> None:
        """A connection has ended before its coroutine."""
        self.orphans.add(task)

    def finished(self, task: Task, error: BaseException | None) -> None:
        """A coroutine has returned or raised: its connection closes."""
        conn = task.conn
        conn._task = None
        self.orphans.discard(task)
        self.told.discard(task)
        if isinstance(error, RuntimeError):
            error = explained(error)
        if error is not None:
            self.failed(conn, error)
        if conn._status != CLOSED:
            conn.close()

    @property
    def busy(self) -> bool:
        """Whether coroutines outlive their connections, or generators are being
        finished."""
        return bool(self.orphans or self.generators.closers)

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, this thread steps coroutines. Their contexts
        begin as its own is now, whatever timers and calls set in it later."""
        self.context = copy_context()
        return self.generators.watched()

    def bereave(self) -> None:
        """Keep hold of the coroutines, which are found by their connections."""
        for conn in self.mux._table:
            if conn is not None and conn._task is not None:
                self.orphans.add(conn._task)

    def cleans_up(self) -> bool:
        """Tell the coroutines; whether any of them is still cleaning up."""
        if self.until is None:
            self.until = time.monotonic() + GRACE
            self.mux.call_later(GRACE, int)  # the harvest is to end then
        self.interrupt(None)
        return self.busy and time.monotonic() < self.until

    def interrupt(self, cause: BaseException | None) -> None:
        """Tell each coroutine, once, that the server ends."""
        self.bereave()
        for task in self.orphans - self.told:
            self.told.add(task)
            task.interrupt(cause)

    def clean_up(self) -> None:
        """Serve while they clean up, for a moment."""
        mux = self.mux
        if self.until is None:
            self.until = time.monotonic() + GRACE
        with contextlib.suppress(OSError):  # of the harvest, which may have ended it
            while self.busy and mux._c is not None and time.monotonic() < self.until:
                mux._serve(self.until, self)

    def abandon(self) -> None:
        """Close the coroutines that are left at their await."""
        for task in [*self.orphans, *self.generators.closers]:
            task.abandon()

    def wind_up(self, cause: BaseException | None) -> None:
        """Tell the coroutines, let them clean up, and close those that do not
        come to an end; then likewise the generators that they have left."""
        self.ending = True
        raised: list[BaseException] = []
        wholly(raised, self.interrupt, cause)
        wholly(raised, self.clean_up)
        wholly(raised, self.abandon)
        self.until = None
        wholly(raised, self.generators.finish_all)
        wholly(raised, self.clean_up)
        wholly(raised, self.abandon)
        if raised and cause is None:
            raise raised[0]


def wholly(raised: list[BaseException], step: Callable[..., Any], *args: Any) -> None:
    """Call something again until it has come to its end. What is to leave pymux
    waits in a list meanwhile."""
    while True:
        try:
            step(*args)
            return
        except FATAL as error:
            raised.append(error)


def say_error(error: BaseException, text: str, *args: Any) -> None:
    """Log an error with its traceback. What a handler of the log raises in
    turn ends nobody's connection; it is shown as what finalizers raise is."""
    try:
        log.error(text, *args, exc_info=error)
    except FATAL:
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # there may be no stderr
            traceback.print_exc()


def explained(error: RuntimeError) -> RuntimeError:
    """asyncio's own complaint does not say what to do about it."""
    if "no running event loop" not in str(error):
        return error
    better = RuntimeError(
        "asyncio has no running loop here: a coroutine handler runs on the mux; "
        "to use asyncio in it, serve with pymux.aio"
    )
    better.__cause__ = error
    return better
