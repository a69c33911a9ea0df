"""Sends from outside a turn, in an asyncio loop.

A task, or a handler of something else, may send between two turns. The output log
takes such messages. The core gets the log when the loop has run what was ready then:
once for all that was sent in one step of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.backends import watchable
from ..engine.engine import Engine
from ..engine.owner import FORKED
from ..engine.state import DISPATCHING, IDLE

if TYPE_CHECKING:
    from ..engine.engine import Objects
    from ..engine.timers import Timer

__all__ = ["Flusher"]

# Calls in one step of the loop: for a descriptor, the timer and the next turn. Not
# more, since a signal's handler may raise instead of the call that ends the step.
MOST_WAITS = 3


class Flusher(Engine):
    """An engine in an asyncio loop that sends at the end of the loop's step.

    Attributes:
        loop: the loop.
        context: the context of every call that the loop makes for this engine.
            Turns belong to no task, so the context of the task that happened to send
            last must not reach the handlers of other connections.
    """

    context: contextvars.Context
    thread: int | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        objects: Objects,
        backend: str | None,
        join: Callable[[Engine], None],
        **sizes: int,
    ) -> None:
        self.loop = loop
        self._flush: asyncio.Handle | None = None  # a call at the end of this step
        self._to_flush = False  # tasks that run next may send
        self._waits = 0  # how many calls leave the turn to those tasks yet
        self.context = contextvars.copy_context()
        super().__init__(objects, watchable(backend), join=join, **sizes)
        self.thread = get_ident()

    def touched(self) -> None:
        """The log or a timer has changed: have the loop call when it has run what is
        ready now. A turn that is under way sees to the change itself.

        Raises:
            RuntimeError: the loop has closed.
        """
        if self._flush is None and self.state is IDLE:
            self._flush = self.loop.call_soon(self._end_step, context=self.context)

    def expect_sends(self) -> None:
        """Tasks were woken: their messages leave when they have run."""
        if self.state is DISPATCHING:
            self._to_flush = True
        else:
            self.touched()

    def leave_soon(self) -> None:
        """A connection was closed: its last bytes leave at once, since the loop may
        stop before the end of this step."""
        if self.state is IDLE:
            self.submit()
            self.touched()

    def _end_step(self) -> None:
        """Called by the loop: send what was sent from outside a turn."""
        self._flush = None
        self._waits = 0
        if self.thread == FORKED:
            return
        self.adopt_thread()
        self.arm()

    def flush(self) -> None:
        """Send the log, and have woken tasks followed by another flush."""
        if self.log.entries:
            self.submit()
        if self._to_flush:
            self._to_flush = False
            if self._flush is not None and self.state is IDLE:  # it came too early
                self._flush.cancel()
                self._flush = None
            self.touched()
            self._waits = MOST_WAITS

    def has_woken(self) -> bool:
        """Whether tasks that the last turn has woken are still to run.

        The loop may call twice in one step. A second turn would take what the first
        has brought for answered, and end connections whose input has ended with it.
        """
        if not self._waits:
            return False
        self._waits -= 1
        return True

    def adopt_thread(self) -> None:
        """Belong to this thread: a loop may run in one thread first, and in another
        later."""
        if self.c is not None and not self.forked():
            self.thread = get_ident()

    # --- what changes the log or a timer ------------------------------------

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        timer = super().call_later(delay, fn, *args)
        self.touched()
        return timer

    def dial(self, *args: Any) -> Any:
        self.check()
        conn = super().dial(*args)
        self.touched()
        return conn

    def retire(self) -> None:
        super().retire()
        self.touched()

    def send_shared(self, ids: Any, count: int, data: bytes) -> None:
        super().send_shared(ids, count, data)
        self.touched()

    def send_to_all(self, ids: list[int], messages: list[bytes]) -> None:
        super().send_to_all(ids, messages)
        self.touched()

    def settle_here(self, call: Callable[..., Any], *args: Any) -> None:
        super().settle_here(call, *args)
        if self.c is not None:
            self.touched()

    # --- what the next layer does -------------------------------------------

    def arm(self) -> None:
        """Flush, and set the loop's timer to the time of the next turn."""
        raise NotImplementedError
