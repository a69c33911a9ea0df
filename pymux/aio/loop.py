"""A mux in an asyncio loop, which may be asyncio's own or uvloop's.

The loop watches the poller's descriptor and keeps one timer for what no descriptor
tells of. Each time the loop calls, the mux harvests without waiting, dispatches the
batch, and sends the answers. Between these calls the mux costs the loop nothing.
While a batch gathers, the loop does not watch the poller's descriptor, which would
call for each event, but lets a part of `max_delay` pass (csrc/doze.c has the rules).
The wakeup's descriptor is always watched: it ends that time at once.
`flusher.py` sends what does not come from a turn.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.engine import Engine
from ..engine.owner import FORKED
from ..engine.state import DISPATCHING
from ..engine.turn import LOOK
from ..mux import Mux
from ..objects.batch import Batch
from ..objects.made import Made
from .connection import LoopMade
from .flusher import Flusher
from .loopend import guard, unguard

if TYPE_CHECKING:
    from .loopend import Guard

__all__ = ["LoopEngine", "LoopMux"]

TICKS = 1000  # in a second: loops count milliseconds, and their timers may be early


class LoopEngine(Flusher):
    """The engine of a mux that an asyncio loop harvests.

    Attributes:
        made: makes the objects that users hold.
        fatal: what has ended the engine, if anything did.
    """

    thread: int | None

    gathers = True
    made: Made = LoopMade()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: str | None,
        join: Callable[[Engine], None],
        **sizes: int,
    ) -> None:
        self.fatal: BaseException | None = None
        self._watched = -1  # the wakeup's descriptor, which the loop watches
        self._number = -1  # the poller's descriptor
        self._looks = False  # whether the loop watches that one too
        self._guard: Guard | None = None  # tells that the loop ends
        self._tie: Any = None  # tells that the loop has dropped its callback
        self._leaving: BaseException | None = None  # is raised when the turn is over
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # the loop's time at which the timer is due
        self._slice: asyncio.TimerHandle | None = None  # when to look again
        self._next: asyncio.Handle | None = None  # a turn that waits for nothing
        self._mux: LoopMux | None = None  # while the loop watches the descriptor
        super().__init__(loop, self.made, backend, join, **sizes)
        self.ignore_signals()  # signals wake the loop
        try:
            self._number = self.fileno()
        except BaseException:
            self.close()
            raise

    def join(self) -> None:
        """Have the loop harvest. The mux lives while the loop watches its engine."""
        self._mux = self.mux()
        number = self.woken_fileno()
        called = partial(self._be_woken)
        self.context.run(self.loop.add_reader, number, called)
        self._watched = number
        self._look(True)
        self._tie = weakref.ref(called, partial(_let_go, weakref.ref(self)))
        self._guard = guard(self)
        self.touched()

    def after(self) -> None:
        """A connection, a handler or the engine may have ended."""

    def part(self) -> None:
        """The engine is over: drop references that would be a cycle."""

    async def finish(self) -> None:
        """The loop ends: finish before the mux is closed."""

    async def end_with_loop(self) -> None:
        """Called by the guard: the loop is about to end."""
        self._guard = None
        if self.c is None or self.forked():
            return
        self._forget_handles()
        try:
            if self._watched >= 0:  # else a signal's handler has interrupted a close
                await self.finish()
        finally:
            self.close_now()

    # --- turns ------------------------------------------------------------

    def _look(self, looks: bool) -> None:
        """Have the loop call when something is ready, or only after a wakeup.

        Where a signal's handler interrupts this, the loop calls too often, not never.
        """
        if looks is self._looks:
            return
        self._looks = False
        if looks:
            context = self.context.copy()  # this may run in `context` itself
            context.run(self.loop.add_reader, self._number, self._be_called)
            self._looks = True
        else:
            self.loop.remove_reader(self._number)

    def _be_woken(self) -> None:
        """Called by the loop: the mux was woken. Where the poller's descriptor is
        watched, that one tells too."""
        if not self._looks:
            self._be_called()

    def _be_called(self) -> None:
        """Called by the loop: take a turn in a copy of the context.

        Handlers and timers may set variables, and the next turn may be another
        connection's.
        """
        if not self.has_woken():
            self.context.copy().run(self.take_turn)

    def take_turn(self) -> None:
        """Harvest, dispatch, send the answers, and set the loop's timer."""
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
        except Exception as error:  # of the harvest: a handler's was reported
            self.fatal = error
            self.close_now()
            self.loop.call_exception_handler(
                {"message": f"{self.describe()} failed", "exception": error}
            )
        finally:
            if self.thread != FORKED:  # else a handler has forked: the child
                self.arm()

    def expects(self, id: int) -> bool:
        """Whether input of a connection has arrived and was not dispatched."""
        if self.c is None:
            return False
        return self.received or self.has_more(id)

    def leave(self, error: BaseException) -> None:
        """Raise a handler's exception into the loop, once the batch is dispatched.

        The batch has messages of other connections too, and the loop may go on.
        """
        if self.state is not DISPATCHING:
            raise error
        if self._leaving is None:
            self._leaving = error

    def arm(self) -> None:
        if self.c is not None:
            self.flush()
            span = self.next_timeout()
            self._rest(self.doze(1 / TICKS) if span else 0.0)
            self._set_timer(span)
        self.after()

    def _rest(self, span: float) -> None:
        """Have the loop leave the poller's descriptor alone for a time; 0: not.

        The timer stays set meanwhile. A signal's handler may raise instead of the call
        that ends this time, or in that call; then the end of `max_delay` does.
        """
        if not span:
            self._look(True)
        if self._slice is not None:
            self._slice.cancel()
            self._slice = None
        if span:
            ticks = math.ceil(span * TICKS) / TICKS
            over = self._slice_is_over
            self._slice = self.loop.call_later(ticks, over, context=self.context)
            self._look(False)

    def _set_timer(self, span: float | None) -> None:
        """Have the loop call in `span` seconds; None: no turn is due."""
        if span == 0:
            if self._next is None:
                self._next = self.loop.call_soon(self._go_on, context=self.context)
            return
        timer = self._timer
        if span is None:
            if timer is not None:
                timer.cancel()
                self._timer = None
            return
        now = self.loop.time()
        at = now + math.ceil(span * TICKS) / TICKS
        if timer is not None:  # a timer that comes too early sets another
            if now <= self._timer_at <= at:
                return
            timer.cancel()  # perhaps a signal's handler raised instead of its call
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._time_has_come, context=self.context)

    def _go_on(self) -> None:
        self._next = None
        self._be_called()

    def _time_has_come(self) -> None:
        self._timer = None
        self._be_called()

    def _slice_is_over(self) -> None:
        self._slice = None
        self._be_called()

    def is_over(self) -> bool:
        """Whether the engine is closed. An engine closes with its loop: where the
        loop has closed already, the first thread that asks frees the engine."""
        if self.c is not None and self.loop.is_closed():
            with self.lock:
                if self.thread == FORKED:
                    self.close()
                else:
                    self.thread = get_ident()
                    self.close_now()
        return self.c is None

    # --- what other engines do differently ----------------------------------

    def check(self) -> None:
        if self.thread != get_ident() and self._runs_here():
            self.adopt_thread()
        self.is_over()
        super().check()

    def _runs_here(self) -> bool:
        """Whether the loop runs in this thread."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:  # no loop runs here
            return False

    def queued(self, id: int) -> int:
        return 0 if self.is_over() else super().queued(id)

    def span(self, deadline: float | None) -> int:
        """The span of a harvest: only a look, which leaves a gathering batch to the
        next turn, unless a call is due."""
        span = super().span(None)
        return span if deadline is None or not span else LOOK

    def is_used(self) -> bool:
        """Whether a connection or listener is open. The kernel finishes those that
        were closed."""
        return bool(self.counts.listeners) or any(
            conn is not None and not conn.closed for conn in self.table
        )

    def _forget_handles(self) -> None:
        """Cancel every call that the loop is to make.

        Where a signal's handler has raised instead of such a call, the handle would
        stand for a call that never comes.
        """
        for handle in (self._timer, self._slice, self._next, self._flush):
            if handle is not None:
                handle.cancel()
        self._timer = self._slice = self._next = self._flush = None
        self._waits = 0

    def free(self) -> None:
        self._forget_handles()
        lives = not self.forked() and not self.loop.is_closed()
        if lives and self._watched >= 0:
            self.loop.remove_reader(self._watched)
            self.loop.remove_reader(self._number)
        self._watched = -1
        self._looks = False
        gone = [buffer for buffer in self.buffers if buffer is not None]
        if lives:  # first, since a signal's handler may interrupt what follows
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
    """A mux that an asyncio loop harvests."""

    __slots__ = ()

    def harvest(self, *args: Any, **options: Any) -> Batch:
        """Refuse: the loop harvests."""
        raise RuntimeError("the asyncio loop of this mux harvests it; do not call this")


def _let_go(ref: weakref.ref[LoopEngine], tie: Any) -> None:
    """The loop has dropped its callback, perhaps because the loop has closed."""
    engine = ref()
    if engine is not None:
        engine.is_over()
