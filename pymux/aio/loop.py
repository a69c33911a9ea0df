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
import contextvars
import math
import weakref
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.backends import watchable
from ..engine.engine import Engine
from ..engine.owner import FORKED
from ..engine.state import DISPATCHING, IDLE
from ..engine.turn import LOOK
from ..mux import Mux
from ..objects.batch import Batch
from ..objects.made import Made
from .connection import LoopMade
from .loopend import guard, unguard

if TYPE_CHECKING:
    from ..engine.timers import Timer
    from .loopend import Guard

__all__ = ["LoopEngine", "LoopMux"]

TICK = 1000  # a second: loops keep time in milliseconds, and may be early


class LoopEngine(Engine):
    """The engine of a mux that an asyncio loop has harvested, when it has work."""

    gathers = True
    made: Made = LoopMade()  # what users hold of it

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: str | None,
        join: Callable[[Engine], None],
    ) -> None:
        self.loop = loop
        self._watched = -1
        self._guard: Guard | None = None  # of the loop's end
        self._tie: Any = None  # to the loop: tells when it lets go of us
        self.fatal: BaseException | None = None
        self._leaving: BaseException | None = None  # what goes to the loop next
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._next: asyncio.Handle | None = None  # a turn without a reason to wait
        self._flush: asyncio.Handle | None = None
        self._to_flush = False  # tasks run next that may send
        self._mux: LoopMux | None = None
        super().__init__(self.made, watchable(backend), join=join)
        self.thread = get_ident()
        self.ignore_signals()  # signals wake the loop
        # Turns are nobody's: who happened to send last is not to lend his context
        # to the handlers of others.
        self.context = contextvars.copy_context()
        try:
            self.fileno()
        except BaseException:
            self.close()
            raise

    def join(self) -> None:
        """Begin to be harvested. The mux lives as long as the loop watches its
        engine."""
        self._mux = self.mux()
        number = self.fileno()
        called = partial(self._be_called)
        self.context.run(self.loop.add_reader, number, called)
        self._watched = number
        self._tie = weakref.ref(called, partial(_let_go, weakref.ref(self)))
        self._guard = guard(self)
        self.touched()

    def after(self) -> None:
        """Something may have ended."""

    def part(self) -> None:
        """It is over: no cycle is to be left behind."""

    async def finish(self) -> None:
        """The loop ends: what there is to do before the mux is closed."""

    async def end_with_loop(self) -> None:
        """Called by the guard, in the loop that is about to end."""
        self._guard = None
        if self.c is None or self.forked():
            return
        self._forget_handles()
        try:
            if self._watched >= 0:  # else a signal's handler has cut its close short
                await self.finish()
        finally:
            self.close_now()

    # --- turns ------------------------------------------------------------

    def _be_called(self) -> None:
        """By the loop. What handlers and timers set in their context is gone
        when the turn is over: the next may be another connection's."""
        self.context.copy().run(self.take_turn)

    def take_turn(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self.c is None or self.thread == FORKED:
            return
        self.adopt_thread()
        try:
            self.serve(0.0)
            leaving, self._leaving = self._leaving, None
            if leaving is not None:
                raise leaving
        except Exception as error:  # of the harvest: handlers' have been reported
            self.fatal = error
            self.close_now()
            self.loop.call_exception_handler(
                {"message": f"{self.describe()} failed", "exception": error}
            )
        finally:
            if self.thread != FORKED:  # a handler has forked: the child
                self._arm()

    def expects(self, id: int) -> bool:
        """Whether something of a connection has arrived and is not handed out."""
        if self.c is None:
            return False
        return self.received or self.has_more(id)

    def leave(self, error: BaseException) -> None:
        """The loop gets it when the batch has been dispatched: the messages of
        the others are in it, and the loop may go on."""
        if self.state is not DISPATCHING:
            raise error
        if self._leaving is None:
            self._leaving = error

    def adopt_thread(self) -> None:
        """A loop may be run in one thread first, and in another later."""
        if self.c is not None and not self.forked():
            self.thread = get_ident()

    def _catch_up(self) -> None:
        """Send what was sent from elsewhere."""
        self._flush = None
        if self.thread == FORKED:
            return
        self.adopt_thread()
        self._arm()

    def _arm(self) -> None:
        """Send what there is; then the loop's timer to when a turn is due."""
        if self.c is not None:
            if self.log.entries:
                self.submit()
            if self._to_flush:
                self._to_flush = False
                self.touched()
            self._set_timer(self.next_timeout())
        self.after()

    def _set_timer(self, span: float | None) -> None:
        if span == 0:
            if self._next is None:
                self._next = self.loop.call_soon(self._be_called, context=self.context)
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
        self._timer = self.loop.call_at(at, self._time_has_come, context=self.context)

    def _time_has_come(self) -> None:
        self._timer = None
        self._be_called()

    def touched(self) -> None:
        """The log or a timer changed: see to it when the loop has run what is
        ready now, unless a turn is under way, which does in the end.

        Raises:
            RuntimeError: the loop has closed.
        """
        if self._flush is None and self.state is IDLE:
            self._flush = self.loop.call_soon(self._catch_up, context=self.context)

    def expect_sends(self) -> None:
        """Tasks were woken: what they send is to leave behind them."""
        if self.state is DISPATCHING:
            self._to_flush = True
        else:
            self.touched()

    def leave_soon(self) -> None:
        """A connection was closed: its last bytes leave at once, since the
        loop may stop before it comes to anything else."""
        if self.state is IDLE:
            self.submit()
            self.touched()

    def is_over(self) -> bool:
        """Whether it is closed. It closes with its loop: what is found when the
        loop has closed is freed then, by whichever thread comes first."""
        if self.c is not None and self.loop.is_closed():
            with self.lock:
                if self.thread == FORKED:
                    self.close()
                else:
                    self.thread = get_ident()
                    self.close_now()
        return self.c is None

    # --- what a mux does otherwise -----------------------------------------

    def check(self) -> None:
        if self.thread != get_ident() and asyncio._get_running_loop() is self.loop:
            self.adopt_thread()
        self.is_over()
        super().check()

    def queued(self, id: int) -> int:
        return 0 if self.is_over() else super().queued(id)

    def span(self, deadline: float | None) -> int:
        """For a harvest: to look, and to leave a batch that may gather, unless
        a call is due."""
        span = super().span(None)
        return span if deadline is None or not span else LOOK

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        timer = super().call_later(delay, fn, *args)
        self.touched()
        return timer

    def dial(self, *args: Any) -> Any:
        self.check()
        conn = super().dial(*args)
        self.touched()
        return conn

    def send_shared(self, ids: list[int], data: bytes) -> None:
        super().send_shared(ids, data)
        self.touched()

    def is_used(self) -> bool:
        """Connections that were closed may be left to the kernel."""
        return bool(self.counts.listeners) or any(
            conn is not None and not conn.closed for conn in self.table
        )

    def _forget_handles(self) -> None:
        """Nothing is scheduled any more, nor believed to be: where a signal's
        handler raised in place of a call of the loop's, that call never comes."""
        for handle in (self._timer, self._next, self._flush):
            if handle is not None:
                handle.cancel()
        self._timer = self._next = self._flush = None

    def free(self) -> None:
        self._forget_handles()
        lives = not self.forked() and not self.loop.is_closed()
        if lives and self._watched >= 0:
            self.loop.remove_reader(self._watched)
        self._watched = -1
        gone = [buffer for buffer in self.buffers if buffer is not None]
        if lives:  # first: it finds out if a signal's handler cuts short what follows
            self.loop.call_soon(self.after, context=self.context)
        super().free()
        self._mux = None
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


class LoopMux(Mux):
    """A mux that an asyncio loop has harvested."""

    __slots__ = ()

    def harvest(self, *args: Any, **options: Any) -> Batch:
        """Not here: the loop has it done."""
        raise RuntimeError("this mux is harvested by the asyncio loop it lives in")


def _let_go(ref: weakref.ref[LoopEngine], tie: Any) -> None:
    """The loop has dropped what it calls, perhaps because it has closed."""
    engine = ref()
    if engine is not None:
        engine.is_over()
