"""A turn: one call into the core, and the work around it.

A turn hands the output log to the core, which sends, waits, receives and frames, and
returns one batch. A turn calls C once, however many messages it has: each call releases
the GIL, and beside a computing thread that costs up to a switch interval.

A signal handler may raise at any call. So a received batch stays in the core until it
has been returned (`received`), and entries leave the log in the same step in which the
core takes them.
"""

from __future__ import annotations

import errno
import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from ..values.errors import FATAL
from . import clock
from .arena import Arena, Arenas
from .gil import LOOK_EVERY, Gil
from .log import ONE_ID
from .notices import Notices
from .os_errors import meaning
from .output import Output
from .owner import BUSY, FORKED, busy
from .services import ServiceState
from .signals import SIGNALS
from .state import DISPATCHING, IN_CORE, TURNING, TurnState
from .timers import NS, Timer, Timers
from .watches import Watch

if TYPE_CHECKING:
    from .tls import Tls

__all__ = ["LOOK", "MESSAGES", "NOTABLE", "Turns"]

REPORT = lib.PMX_ROWS | lib.PMX_DRAINED  # reasons to return
MESSAGES = lib.PMX_MESSAGES_SHIFT  # first bit of the number of messages in a result
GATHERING = lib.PMX_GATHERING
FOREIGN = lib.PMX_FOREIGN
GIVEN = lib.PMX_GIVEN
NOTABLE = lib.PMX_NOTABLE
LOOK = lib.PMX_LOOK  # only look, without a wait: an unfinished batch gathers on
EXCHANGE = lib.pmx_exchange
SHUT = -errno.EBADF  # the core is closed: `free` was interrupted


class Turns(Output):
    """The third layer of an engine: timers, calls from other threads, turns.

    Attributes:
        received: the core has a batch that no harvest has returned yet.
        woken: the harvest that waits, or the next one, must return.
        close_asked: close the engine when the harvest or dispatch ends.
        takes_signals: take the interpreter's wakeup descriptor even from another
            owner (`serve`).
        notices: what was told an operator lately.
        slow_after: seconds after which a handler is slow; None measures nothing.
        tls: the objects of connections over TLS, once there may be any.
        lends_signals: return that descriptor after each wait, as threads take turns.
        on_given: called when the core has accepted connections for other workers.
        on_callback_error: gets the exceptions of timers, watches and calls, each with
            the words for what has raised; None: raised.
    """

    arena: Arena
    counts: Any
    gil: Gil
    received: bool
    stale: bool
    state: TurnState
    timers: Timers
    turn: Any
    wakeup_fd: int
    woken: bool

    gathers = False  # True if an unfinished batch may be left to the next harvest

    def __init__(self, c: Any, arenas: Arenas) -> None:
        super().__init__()
        self.counts = lib.pmx_counts(c)
        self.arenas = arenas
        self.arena = arenas.current
        self.turn = ffi.new("pmx_turn *")
        self.turn.mux = c
        self.gil = Gil(self.turn)
        self.received = False
        self.valid = 0  # the number of the batch that is valid
        self.batch: Any = None
        self.woken = False
        self.close_asked = False
        self.timers = Timers()
        self.calls: deque[tuple[Callable[..., Any], Any]] = deque()
        self.watches: dict[int, Watch] = {}  # by descriptor
        self.ready: dict[Watch, int] = {}  # events that were not told yet
        self.on_given: Callable[[], object] | None = None
        self.on_callback_error: Callable[[BaseException, str], None] | None = None
        self.wakeup_fd = lib.pmx_wakeup_fd(c)
        self.takes_signals = False
        self.lends_signals = False
        self._signal_fd: int | None = None
        self._minimum = self._delay_ns = -1  # of the last harvest
        self._pauses = 0  # of accepting, that were told of
        self._shortages = 0  # of these, for want of something
        self._unproxied = 0  # refused for their PROXY header
        self._busy = 0  # and of these, by max_handshakes
        self._refused = 0  # connections over max_per_peer, that were told of
        self.notices: Notices = Notices()
        self.slow_after: float | None = None
        self.tls: Tls | None = None

    @property
    def turns(self) -> int:
        """Return the number of turns that the core has begun."""
        return self.gil.turns

    # --- waking and timers --------------------------------------------------

    def wakeup(self) -> None:
        """End the wait of this harvest, or of the next. Any thread may call."""
        if self.thread == FORKED:
            self.check()
        with self.lock:
            if self.c is not None and not self.woken:
                self.woken = True
                lib.pmx_wakeup(self.c)

    def call_threadsafe(self, fn: Callable[..., Any], *args: Any) -> None:
        """Make a call in the next harvest. Any thread may call.

        Raises:
            RuntimeError: the engine is closed.
        """
        if self.thread == FORKED:
            self.check()
        with self.lock:
            if self.c is None:
                raise RuntimeError("the mux is closed")
            self.calls.append((fn, args))
            lib.pmx_wakeup(self.c)

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        """Make a call in a harvest, `delay` seconds from now."""
        self.check()
        return self.timers.add(delay, fn, args)

    def watch(self, fileobj: Any, events: int, fn: Callable[[Any, int], Any]) -> Watch:
        """Watch a file; call ``fn(fileobj, events)`` in harvests when it is ready."""
        self.check()
        watch = Watch(self, fileobj, fn)
        watch._begin(events)
        return watch

    def _note_ready(self) -> None:
        """Note the watched files that the last turn found ready.

        After a signal handler that raised, this is repeated.
        """
        for k in range(self.turn.foreign_count):
            found = self.turn.foreign[k]
            watch = self.watches.get(found >> 2)
            if watch is not None:
                self.ready[watch] = self.ready.get(watch, 0) | (found & 3)
        self.turn.foreign_count = 0

    def _run_due(self) -> bool:
        """Run the calls that are due. True if there were any.

        A timer set meanwhile waits for the next turn, since a coarse clock could make
        it due at once.
        """
        ran = False
        for watch in list(self.ready):
            if watch in self.ready:  # no other call has closed it
                self.run_call(watch._call, (), "a watch")
                ran = True
        now, newest = clock.now(), self.timers.made
        for _ in range(len(self.calls)):
            if not self.calls:  # a call closed the engine
                break
            fn, args = self.calls.popleft()
            self.run_call(fn, args)
            ran = True
        while (due := self.timers.pop_due(now, newest)) is not None:
            self.run_call(*due, "a timer")
            ran = True
        return ran

    def run_call(
        self, fn: Any, args: Any, what: str = "a call by call_threadsafe"
    ) -> None:
        """Make a call as a handler is called: it may not harvest, and a close takes
        effect when the call has ended.

        Args:
            what: the words for what calls, for a report of an error.
        """
        before, self.state = self.state, DISPATCHING
        measured = self.slow_after is not None and before is not DISPATCHING
        began = clock.now() if measured else 0.0
        try:
            fn(*args)
        except BaseException as error:
            if self.on_callback_error is None or isinstance(error, FATAL):
                raise
            self.on_callback_error(error, what)
        finally:
            self.state = before
            if measured:
                self.look_at_time(clock.now() - began, what)
            if self.close_asked and before is not DISPATCHING:
                self.close_now()

    # --- signals --------------------------------------------------------------

    def _watch_signals(self) -> None:
        """Let a signal just before a wait end that wait, if this is the main thread."""
        fd = -1
        main = threading.main_thread()
        if self.wakeup_fd >= 0 and threading.current_thread() is main:
            fd = SIGNALS.add(self.wakeup_fd, self.takes_signals)
        self._signal_fd = fd  # last: after a signal handler that raised, try again

    def ignore_signals(self) -> None:
        """Leave the wakeup descriptor to another loop."""
        self._signal_fd = -1

    def _restore_signals(self) -> bool:
        """Stop signals from writing to the wakeup. True if the wakeup may be closed."""
        fd, self._signal_fd = self.wakeup_fd, None
        if fd not in SIGNALS.ours:  # true even if `add` was interrupted
            return True
        if threading.current_thread() is not threading.main_thread():
            return False  # only the main thread can reset the descriptor
        SIGNALS.remove(fd)
        return True

    def _leave_wakeup(self) -> None:
        """Keep the wakeup open for signals, until the main thread closes it.

        Another thread collects the engine, but cannot stop the interpreter from
        writing to the wakeup.
        """
        wakeup = ffi.new("int64_t[2]")
        lib.pmx_keep_wakeup(self.c, wakeup)
        close = partial(lib.pmx_wakeup_close, wakeup)
        SIGNALS.left.append((self.wakeup_fd, close))

    # --- turns ----------------------------------------------------------------

    def exchange(self, deadline: float | None, minimum: int, delay_ns: int) -> int:
        """Take turns until there is a reason to return.

        Args:
            deadline: a time of the clock; None waits for ever.
            minimum: the number of messages to gather.
            delay_ns: nanoseconds to gather at most.

        Returns:
            The result of `pmx_exchange`: reasons, and the number of messages from
            bit PMX_MESSAGES_SHIFT on. The engine may be closed.
        """
        if self.c is None:  # a signal handler just closed the engine
            self.check()
        turn = self.turn
        if self.received:  # a signal handler, or a timer's call, raised before
            if turn.reason & FOREIGN:
                self._note_ready()
            if self.tls is not None:
                self.tls.go_on(turn, turn.reason)
            if turn.reason & lib.PMX_ROWS:
                return int(turn.reason | turn.messages << MESSAGES)
            self.received = False
        self.valid = 0
        if self.batch is not None:
            self.forget_batch()
        if self.splitting is not None and self.splitting.failed:
            self.splitting.end_failed()
        if (
            self.stale
            or (self.arena.exporter is not None and self.arena.held())
            or minimum != self._minimum
            or delay_ns != self._delay_ns
        ) and not turn.reason & lib.PMX_GATHERING:
            self._configure(minimum, delay_ns)
        log, entries, gil = self.log, self.log.entries, self.gil
        first, ran, result = True, False, 0
        while True:
            span = -1
            if (
                deadline is not None
                or self.timers.heap
                or self.calls
                or self.ready
                or self.woken  # the wakeup byte may have been read already
            ):
                span = self.span(deadline)
            fd = self._signal_fd
            if span and fd != SIGNALS.holder and fd != -1:
                self._watch_signals()
            shape, holding = 0, None
            ids = bounds = data = b""
            try:
                self.state = IN_CORE  # a signal handler may only send
                count = len(entries)
                if count == 2 and type(entries[1]) is bytes:
                    shape, ids, data = 1, ONE_ID(entries[0]), entries[1]
                elif count:
                    shape, ids, bounds, data, _keep = log.lay_out(turn, count)
                if first and gil.left:  # this call keeps the GIL: see gil.py
                    holding, *args = gil.arguments(span, shape, ids, bounds, data)
                taken = True
                try:
                    if holding is not None:
                        result = holding(*args)
                    else:
                        size = len(data)
                        result = EXCHANGE(turn, span, shape, ids, bounds, data, size)
                        if not gil.turns & LOOK_EVERY:
                            gil.look(self.counts)
                    if result == BUSY:
                        taken = False
                except BaseException:  # did the core begin a turn?
                    taken = self.counts.harvests != gil.turns
                    raise
                finally:  # no call before all is noted: a signal handler may raise
                    if taken:
                        self.received = True
                        gil.turns += 1
                        if count:
                            del entries[:count]
                            log.large = log.seen = log.bounded = 0
                            if not entries:  # a signal handler may have sent
                                log.specials = 0
                    else:
                        turn.block_count = 0
            finally:
                self.state = TURNING
                if self.lends_signals:
                    self._restore_signals()
            first = False
            if self.close_asked:  # by a signal handler
                self.close_now()
                return 0
            if result < 0:
                raise self._core_error(result)
            if result & FOREIGN:
                self._note_ready()
            if result & GIVEN and self.on_given is not None:
                self.on_given()
            if self.tls is not None:
                self.tls.go_on(turn, result)
            if not ran and (self.timers.heap or self.calls or self.ready):
                ran = self._run_due()
            if self.c is None:  # a call closed the engine
                return 0
            over = deadline is not None and clock.now() >= deadline
            if result & GATHERING and not self.gathers:
                if ran or self.woken or over:
                    deadline = 0.0  # return the gathered messages
            elif result & REPORT:
                break
            else:
                if result & NOTABLE:
                    self.warn_of_peers()
                if ran or self.woken or span == 0 or over:
                    break
            self.received = False
        self.woken = False
        return result

    def _core_error(self, result: int) -> Exception:
        """Return the error of a turn that the core refused, or that failed."""
        self.received = False
        self.gil.turns = self.counts.harvests
        if result == BUSY:
            return busy()
        if result == SHUT:
            return RuntimeError("the mux is closed")
        return OSError(-result, meaning(-result))

    def _configure(self, minimum: int, delay_ns: int) -> None:
        """Give the core an arena, and the settings of this harvest."""
        self.arena = self.arenas.ready()
        self.turn.arena = self.arena.c
        self._minimum, self._delay_ns = minimum, delay_ns
        for number in {0, *self.changed}:
            service = self.services[number]
            form = service.dispatcher
            if service.number and form is not None:
                minimum, delay_ns = form.min_messages, form.delay_ns
            wanted = service.wants(minimum, delay_ns)
            if wanted != service.told:
                if lib.pmx_configure(self.c, service.number, *wanted):
                    raise busy()
                service.told = wanted
        self.changed.clear()
        self.stale = False

    def want_gaps(self, service: ServiceState, wanted: bool) -> None:
        """Let later batches of a service keep their delimiters, or not."""
        if wanted is not service.leave_gaps:
            service.leave_gaps = wanted
            self.changed.add(service.number)
            self.stale = True

    def span(self, deadline: float | None) -> int:
        """Return nanoseconds until the deadline or the next timer; -1 for ever."""
        if self.calls or self.woken or self.ready:
            return 0
        if self.timers.heap:
            timer = self.timers.next()
            if timer is not None and (deadline is None or timer < deadline):
                deadline = timer
        if deadline is None:
            return -1
        return max(math.ceil((deadline - clock.now()) * NS), 0)

    def next_timeout(self) -> float | None:
        """Return seconds until a harvest is needed, or None.

        The harvest is needed then even if the poller's descriptor is not readable.
        """
        self.check()
        if self.log.entries or self.received:
            return 0.0
        if self.splitting is not None and self.splitting.failed:
            return 0.0
        ours = self.span(None)
        core = lib.pmx_next_timeout(self.c)
        if core == BUSY:
            raise busy()
        spans = [span for span in (ours, core) if span >= 0]
        return min(spans) / NS if spans else None

    def doze(self, least: float) -> float:
        """Return seconds for which a loop need not watch the poller's descriptor,
        since a batch gathers; 0: the loop watches.

        Args:
            least: the shortest time that the loop can wait, in seconds.
        """
        if not self.turn.reason & GATHERING:
            return 0.0
        span = lib.pmx_doze(self.c, round(least * NS))
        if span == BUSY:
            raise busy()
        return float(span / NS)

    # --- for the next layer -------------------------------------------------

    valid: int
    splitting: Any  # parsers of connections, if there are any

    def forget_batch(self) -> None:
        """End the last batch."""
        raise NotImplementedError

    def close_now(self) -> None:
        """Close the engine."""
        raise NotImplementedError

    def look_at_time(self, took: float, what: str) -> None:
        """Warn of a call that took longer than `slow_after`."""
        raise NotImplementedError

    def warn_of_peers(self) -> None:
        """Warn that peers wait in the backlog or were refused."""
        raise NotImplementedError
