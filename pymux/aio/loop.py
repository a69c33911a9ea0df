"""A mux as a guest in an asyncio loop, stock or uvloop.

The loop watches the poller's descriptor and keeps one timer for what no
descriptor tells of. Each time it calls, the mux looks once, without waiting,
dispatches what it found, and sends the answers. Between these calls it costs
the loop nothing.

What is sent from elsewhere, by a task or another handler of the loop, goes out
when the loop has run what was ready then: one step for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import math
import weakref
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._core import lib
from ..engine.arena import MANY, Arena
from ..engine.backends import watchable
from ..handlers.buffer import Inbox
from ..handlers.forms import CoroutineDispatcher
from ..mux import FORKED, Mux
from ..objects.batch import Batch
from ..objects.connection import CLOSED, Connection
from ..values.checks import duration
from ..values.errors import FATAL, ConnectionClosed
from .loopend import guard, unguard

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..engine.timers import Timer
    from ..handlers.forms import Dispatcher, OnError
    from .loopend import Guard

__all__ = ["GuestConnection", "GuestMux", "ReaderDispatcher", "TaskDispatcher"]

ENTRIES = 32  # of the log are worth as much of the loop's patience as a drain
TICK = 1000  # a second: loops keep time in milliseconds, and may be early


class Reader(Inbox):
    """A connection's messages, and the tasks that wait for something of it."""

    __slots__ = ("coroutine", "ends", "flushes", "gone", "opening", "task", "waiter")

    mux: GuestMux

    def __init__(self, conn: Connection, coroutine: Any = None) -> None:
        super().__init__(conn)
        self.coroutine: Any = coroutine  # of a handler,
        self.task: asyncio.Task[Any] | None = None  # and what steps it
        self.gone: bool = False
        self.opening: asyncio.Future[None] | None = None
        self.waiter: asyncio.Future[None] | None = None  # for input
        self.flushes: list[asyncio.Future[None]] = []  # for output to fall
        self.ends: list[asyncio.Future[None]] = []  # for the end

    # --- what the dispatcher tells ----------------------------------------

    def deliver(self, data: bytes) -> None:
        """A message came."""
        self.keep((data,))
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Several came."""
        self.keep(messages)
        if self.waiter is None:
            self.tell_kept()
        self.wake()

    def drained(self) -> None:
        """Output fell under low water."""
        self._settle(self.flushes)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """The stream has ended (error None), or the connection is gone."""
        self.note_end(error, gone)
        self.wake()
        if gone:
            self.gone = True
            self._settle(self.flushes)
            self._settle(self.ends)
            opening, self.opening = self.opening, None
            if opening is not None and not opening.done():
                error = error or OSError(errno.ECONNABORTED, "the mux was closed")
                opening.set_exception(error)

    def end_with_loop(self) -> None:
        """The mux was closed after its loop: nobody is left to be woken."""
        self.note_end(None, True)
        self.gone = True

    def abandon(self) -> None:
        """Cancel the handler where it waits, once."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()

    def is_at_work(self) -> bool:
        """Whether no task waits for what the peer does."""
        return self.waiter is None and not self.flushes

    def wake(self) -> None:
        """Let who waits for input look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
            self.mux.expect_sends()

    def _settle(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
        futures.clear()
        self.mux.expect_sends()

    # --- waiting, in a task ------------------------------------------------

    async def wait_for_input(self, timeout: float | None) -> None:
        """Until there is a message or the end."""
        timeout = duration("timeout", timeout)
        mux = self.mux
        timer = over = None
        waiter = self.waiter = mux.loop.create_future()
        if timeout is not None:
            over = partial(self._time_is_over, waiter, timeout)
            timer = mux.loop.call_later(timeout, over, context=mux._context)
        try:
            await waiter
        finally:
            self.waiter = None
            # The future knows its error, whose traceback knows this frame.
            del waiter, over
            if timer is not None:
                timer.cancel()

    def _time_is_over(self, waiter: asyncio.Future[None], timeout: float) -> None:
        """The loop may have been busy: what came in time is looked for first."""
        if waiter.done():
            return
        mux = self.mux
        try:
            mux._take_turn()
        finally:
            if waiter.done():
                pass
            elif mux.has_more(self.conn):
                again = partial(self._time_is_over, waiter, timeout)
                mux.loop.call_soon(again, context=mux._context)
            else:
                error = TimeoutError(f"recv(): no message within {timeout} seconds")
                waiter.set_exception(error)

    async def wait_in(self, futures: list[asyncio.Future[None]]) -> None:
        """Until the futures of `flushes` or `ends` are settled."""
        future = self.mux.loop.create_future()
        futures.append(future)
        try:
            await future
        finally:
            with contextlib.suppress(ValueError):  # it is settled
                futures.remove(future)


class GuestConnection(Connection):
    """A connection in an asyncio loop.

    As every `pymux.Connection`, but for `recv`, `drain` and iteration: those
    are asyncio's to await, in any task of the loop, on the connections of
    coroutine handlers and of `pymux.aio.connect`. All of it belongs to the
    loop's thread.
    """

    __slots__ = ()

    mux: GuestMux
    _task: Reader | None  # type: ignore[assignment]

    def send(self, data: Buffer) -> None:
        try:
            super().send(data)
            self.mux.touched()
        except RuntimeError:
            if not self.mux.is_over():
                raise
            raise self._refusal() from None

    def send_eof(self) -> None:
        if not self.mux.is_over():
            super().send_eof()
            self.mux.touched()

    def close(self) -> None:
        if not self.mux.is_over():
            super().close()
            self.mux.leave_soon()

    def abort(self) -> None:
        if not self.mux.is_over():
            super().abort()
            self.mux.leave_soon()

    def pause(self) -> None:
        if not self.mux.is_over():
            super().pause()
            self.mux.touched()

    def resume(self) -> None:
        if not self.mux.is_over():
            super().resume()
            self.mux.touched()

    def _addresses(self) -> Any:
        self.mux.is_over()  # then they are kept
        return super()._addresses()

    def _stop_input(self) -> None:
        super()._stop_input()
        if self._task is not None:
            self._task.wake()

    def _reader(self, what: str) -> Reader:
        reader, mux = self._task, self.mux
        if reader is not None and mux._owner == get_ident() and mux._c is not None:
            return reader
        if reader is None and self.closed:
            raise ConnectionClosed(f"{self!r}", connection=self)
        if reader is None or not mux.is_over():
            mux._check()
        if reader is None:
            raise RuntimeError(
                f"{what} is for connections of coroutine handlers and of "
                "pymux.aio.connect(); what comes here goes to the server's handler"
            )
        return reader

    # asyncio's coroutines are awaited as the base's generators are.
    async def recv(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next message.

        Args:
            timeout: seconds to wait, None for ever.

        Returns:
            The message, or None once the peer has ended its stream. A message
            is taken only by a `recv` that returns it: one that is cancelled
            leaves it.

        Raises:
            TimeoutError: nothing came in time; the connection is as before.
            ConnectionClosed: it was lost, and every message has been taken.
            RuntimeError: another task waits in `recv` already.
        """
        if self._task is None and self.closed:
            await asyncio.sleep(0)  # nobody is to go on for ever being told
        reader = self._reader("recv()")
        if reader.waiter is not None:
            raise RuntimeError("recv() while another task waits in it: one at a time")
        if not reader.inbox and not reader.over:
            await reader.wait_for_input(timeout)
        elif not reader.inbox and reader.too_eager():
            await asyncio.sleep(0)
        message = reader.take()
        if self.mux._log.entries:  # reading goes on
            self.mux.touched()
        return message

    async def drain(self) -> None:
        """Wait until output is under low water, if it is over high water.

        After much output the loop goes one step in any case, in which others
        run and the loss of the peer is noticed.

        Raises:
            ConnectionClosed: the connection was lost.
        """
        if self._task is None and self.closed:
            await asyncio.sleep(0)
        reader, mux = self._reader("drain()"), self.mux
        if reader.lost is None and not self.closed:
            reader.eager += len(mux._log.entries) // ENTRIES
            mux._submit()
            if self.queued > reader.high_water:
                await reader.wait_in(reader.flushes)
        if reader.too_eager() or mux._handed_over == mux._gil.turns:
            mux._handed_over = -1
            await asyncio.sleep(0)
        if reader.lost is not None:
            raise reader.closed_error()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended on both sides.

        After `close()`: until the output has been sent and the peer has ended
        its stream, or `Limits.close_timeout` seconds have passed without
        progress.
        """
        if self._task is None and self.closed:
            return
        reader = self._reader("wait_closed()")
        if not reader.gone:
            await reader.wait_in(reader.ends)

    async def __anext__(self) -> bytes:  # type: ignore[override]
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> GuestConnection:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self.mux._owner != FORKED:  # in a child it is the parent's to close
            self.close()


class GuestBatch(Batch):
    """A batch that may be answered from elsewhere, until the next harvest."""

    __slots__ = ()

    _mux: GuestMux

    def reply(self, replies: Any) -> None:
        super().reply(replies)
        self._mux.touched()

    def reply_data(self, data: Any, offsets: Any = None) -> None:
        super().reply_data(data, offsets)
        self._mux.touched()


class GuestMux(Mux):
    """A mux that an asyncio loop has harvested, when there is something."""

    _kind = GuestConnection
    _kind_of_batch = GuestBatch
    _gathers = True

    def __init__(
        self, loop: asyncio.AbstractEventLoop, backend: str | None = None
    ) -> None:
        self.loop = loop
        self._watched = -1
        self._dispatcher: Dispatcher
        self._guard: Guard | None = None  # of the loop's end
        self._tie: Any = None  # to the loop: tells when it lets go of us
        self._fatal: BaseException | None = None
        self._leaving: BaseException | None = None  # what goes to the loop next
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._next: asyncio.Handle | None = None  # a turn without a reason to wait
        self._flush: asyncio.Handle | None = None
        self._to_flush = False  # tasks run next that may send
        super().__init__(watchable(backend))
        self._owner = get_ident()
        self._signal_fd = -1  # signals wake the loop, not the mux
        # Turns are nobody's: who happened to send last is not to lend his context
        # to the handlers of others.
        self._context = contextvars.copy_context()
        try:
            self.fileno()
        except BaseException:
            self.close()
            raise

    def join(self, dispatcher: Dispatcher) -> None:
        """Begin: what is harvested goes to a dispatcher."""
        self._dispatcher = dispatcher
        number = self.fileno()
        called = partial(self._be_called)
        self._context.run(self.loop.add_reader, number, called)
        self._watched = number
        self._tie = weakref.ref(called, partial(_let_go, weakref.ref(self)))
        self._guard = guard(self)
        self.touched()

    def _after(self) -> None:
        """Something may have ended."""

    def part(self) -> None:
        """It is over: no cycle is to be left behind."""

    async def finish(self) -> None:
        """The loop ends: what there is to do before the mux is closed."""

    async def end_with_loop(self) -> None:
        """Called by the guard, in the loop that is about to end."""
        self._guard = None
        if self._c is None or self.forked():
            return
        self._forget_handles()
        try:
            if self._watched >= 0:  # else a signal's handler has cut its close short
                await self.finish()
        finally:
            self._close_now()

    # --- turns ------------------------------------------------------------

    def _be_called(self) -> None:
        """By the loop. What handlers and timers set in their context is gone
        when the turn is over: the next may be another connection's."""
        self._context.copy().run(self._take_turn)

    def _take_turn(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._c is None or self._owner == FORKED:
            return
        self.adopt_thread()
        try:
            self._serve(0.0, self._dispatcher)
            leaving, self._leaving = self._leaving, None
            if leaving is not None:
                raise leaving
        except Exception as error:  # of the harvest: handlers' have been reported
            self._fatal = error
            self._close_now()
            self.loop.call_exception_handler(
                {"message": f"{self!r} failed", "exception": error}
            )
        finally:
            if self._owner != FORKED:  # a handler has forked: the child
                self._arm()

    def has_more(self, conn: Connection) -> bool:
        """Whether something of a connection has arrived and is not handed out."""
        if self._c is None:
            return False
        return self._unreturned or bool(lib.pmx_pending(self._c, conn.id))

    def _leave(self, error: BaseException) -> None:
        """The loop gets it when the batch has been dispatched: the messages of
        the others are in it, and the loop may go on."""
        if not self._dispatching:
            raise error
        if self._leaving is None:
            self._leaving = error

    def adopt_thread(self) -> None:
        """A loop may be run in one thread first, and in another later."""
        if self._c is not None and not self.forked():
            self._owner = get_ident()

    def forked(self) -> bool:
        """Whether this process is a fork of the one that it belongs to."""
        return bool(lib.pmx_forked(self._c))

    def _catch_up(self) -> None:
        """Send what was sent from elsewhere."""
        self._flush = None
        if self._owner == FORKED:
            return
        self.adopt_thread()
        self._arm()

    def _arm(self) -> None:
        """Send what there is; then the loop's timer to when a turn is due."""
        if self._c is not None:
            if self._log.entries:
                self._submit()
            if self._to_flush:
                self._to_flush = False
                self.touched()
            self._set_timer(self.next_timeout())
        self._after()

    def _set_timer(self, span: float | None) -> None:
        if span == 0:
            if self._next is None:
                self._next = self.loop.call_soon(self._be_called, context=self._context)
            return
        timer = self._timer
        if span is None:
            if timer is not None:
                timer.cancel()
                self._timer = None
            return
        now = self.loop.time()
        at = now + math.ceil(span * TICK) / TICK
        if timer is not None:  # one that comes too early looks again
            if now <= self._timer_at <= at:
                return
            timer.cancel()  # a signal's handler may have raised in place of its call
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._time_has_come, context=self._context)

    def _time_has_come(self) -> None:
        self._timer = None
        self._be_called()

    def touched(self) -> None:
        """The log or a timer changed: see to it when the loop has run what is
        ready now, unless a turn is under way, which does in the end.

        Raises:
            RuntimeError: the loop has closed.
        """
        if self._flush is None and not self._dispatching and not self._harvesting:
            self._flush = self.loop.call_soon(self._catch_up, context=self._context)

    def expect_sends(self) -> None:
        """Tasks were woken: what they send is to leave behind them."""
        if self._dispatching:
            self._to_flush = True
        else:
            self.touched()

    def leave_soon(self) -> None:
        """A connection was closed: its last bytes leave at once, since the
        loop may stop before it comes to anything else."""
        if not self._dispatching and not self._harvesting:
            self._submit()
            self.touched()

    def is_over(self) -> bool:
        """Whether it is closed. It closes with its loop: what is found when the
        loop has closed is freed then, by whichever thread comes first."""
        if self._c is not None and self.loop.is_closed():
            with self._lock:
                if self._owner == FORKED:
                    self.close()
                else:
                    self._owner = get_ident()
                    self._close_now()
        return self._c is None

    # --- what a mux does otherwise -----------------------------------------

    def _check(self) -> None:
        if self._owner != get_ident() and asyncio._get_running_loop() is self.loop:
            self.adopt_thread()
        self.is_over()
        super()._check()

    def _queued(self, id: int) -> int:
        return 0 if self.is_over() else super()._queued(id)

    def harvest(self, *args: Any, **options: Any) -> Batch:
        """Not here: the loop has it done."""
        raise RuntimeError("this mux is harvested by the asyncio loop it lives in")

    def _span(self, deadline: float | None) -> int:
        """For a harvest: to look, and to leave a batch that may gather, unless
        a call is due."""
        span = super()._span(None)
        return span if deadline is None or not span else lib.PMX_LOOK

    def _watch_signals(self) -> None:
        self._signal_fd = -1

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        timer = super().call_later(delay, fn, *args)
        self.touched()
        return timer

    def _dial(self, *args: Any) -> GuestConnection:
        self._check()
        conn: Any = super()._dial(*args)
        self.touched()
        return conn  # type: ignore[no-any-return]

    def send_many(self, conns: Any, data: Any) -> int:
        took = super().send_many(conns, data)
        self.touched()
        return took

    def _is_used(self) -> bool:
        """Connections that were closed may be left to the kernel."""
        return bool(self._counts.listeners) or any(
            conn is not None and not conn.closed for conn in self._table
        )

    def _forget_handles(self) -> None:
        """Nothing is scheduled any more, nor believed to be: where a signal's
        handler raised in place of a call of the loop's, that call never comes."""
        for handle in (self._timer, self._next, self._flush):
            if handle is not None:
                handle.cancel()
        self._timer = self._next = self._flush = None

    def _free(self) -> None:
        self._forget_handles()
        lives = not self.forked() and not self.loop.is_closed()
        if lives and self._watched >= 0:
            self.loop.remove_reader(self._watched)
        self._watched = -1
        gone = [conn._task for conn in self._table if conn is not None and conn._task]
        if lives:  # first: it finds out if a signal's handler cuts short what follows
            self.loop.call_soon(self._after, context=self._context)
        super()._free()
        if self._guard is not None:
            unguard(self._guard)
            self._guard = None
        if lives:
            for reader in gone:
                reader.end(None, True)
        else:
            for reader in gone:
                reader.end_with_loop()
            self.part()


def _let_go(ref: weakref.ref[GuestMux], tie: Any) -> None:
    """The loop has dropped what it calls: perhaps since it has closed."""
    mux = ref()
    if mux is not None:
        mux.is_over()


class ReaderDispatcher(CoroutineDispatcher):
    """Brings messages to the readers of their connections."""

    mux: GuestMux

    def outlived(self, task: Any) -> None:
        """Nothing is kept of a connection that has ended."""

    def bereave(self) -> None:
        """Tasks are the loop's."""

    def wind_up(self, cause: BaseException | None) -> None:
        """Each task learns of the end from its reader."""

    def cleans_up(self) -> bool:
        """They are cancelled, and take the time that they need."""
        return False

    def messages(self, arena: Arena, rows: int, gap: bytes | None) -> None:
        """Put each into its connection's inbox."""
        table = self.mux._table
        runs = arena.runs(table, rows) if rows >= MANY else None
        if runs is not None:
            messages, at = arena.messages(rows, gap), 0
            for conn, length in runs:
                if conn._task is not None and conn._status != CLOSED:
                    conn._task.deliver_all(messages[at : at + length])
                at += length
            return
        for conn, data in zip(arena.conns(table, rows), arena.cut(rows, gap)):
            if conn._task is not None and conn._status != CLOSED:
                conn._task.deliver(data)


class TaskDispatcher(ReaderDispatcher):
    """`async def handler(conn)`, each an asyncio task."""

    def __init__(self, mux: GuestMux, handler: Any, on_error: OnError | None) -> None:
        super().__init__(mux, handler, on_error)
        self.readers: set[Any] = self.orphans  # of all that run

    def begin(self, conn: Any) -> None:
        """A connection opened: start its task."""
        try:
            coroutine = self.handler(conn)
        except BaseException as error:
            self.failed(conn, error)
            return
        reader = conn._task = Reader(conn, coroutine)
        self.tell_waits(conn)
        self.readers.add(reader)
        try:
            task = reader.task = self.mux.loop.create_task(coroutine)
        except BaseException as error:  # of a task factory, an eager one's Ctrl-C
            self.readers.discard(reader)
            coroutine.close()
            self.failed(conn, error)
            return
        task.add_done_callback(lambda task: self.ended(reader, task))
        self.mux.expect_sends()

    def ended(self, reader: Reader, task: asyncio.Task[Any]) -> None:
        """A handler has returned, raised or was cancelled: its connection
        closes."""
        conn = reader.conn
        reader.task = None
        self.readers.discard(reader)
        if self.mux._owner == FORKED:
            return
        error = None if task.cancelled() else task.exception()
        try:
            if isinstance(error, FATAL):  # the loop has got it from the task
                self.end(conn, error)
            elif error is not None:
                self.failed(conn, error)
            if conn._status != CLOSED:
                conn.close()
        finally:  # on_error may raise one of those
            reader.over = True
            if reader.gone:
                conn._task = None  # no cycle is left behind
            if not self.mux.loop.is_closed():
                reader.wake()  # other tasks may wait on it
                self.mux.touched()

    def outlived(self, task: Any) -> None:
        """Its handler may run on, or is the last that knew of it."""
        if task not in self.readers:
            task.conn._task = None

    def abandon(self) -> None:
        """Cancel every handler that still runs."""
        for reader in list(self.readers):
            reader.abandon()

    def report(self, conn: Connection | None, error: BaseException) -> None:
        """Give an error to on_error, else to the loop's exception handler."""
        if self.on_error is not None:
            super().report(conn, error)
            return
        of = f"of {conn!r}" if conn is not None else "of a timer"
        self.mux.loop.call_exception_handler(
            {"message": f"the handler {of} raised", "exception": error}
        )

    def runs(self, task: Any) -> bool:
        """Whether a task is one of the handlers'."""
        coroutine = task.get_coro()
        return any(reader.coroutine is coroutine for reader in self.readers)
