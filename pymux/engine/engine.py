"""What a mux's objects share: the state beneath everything that users hold.

An engine is made of layers, each a class on the one before: `Owned` (who may
call), `Output` (what is sent), `Turns` (calls into the core), and `Engine` (life,
connections, batches). What users hold (`Mux`, `Connection`, `Batch`) calls it; it
knows them by `Objects` alone.

The words of this house:

turn        one call into the core
harvest     turns, until one has something to report
row         a message of a batch
arena       the memory of a batch
log         what was done to connections since the last turn
piece       bytes in the log: one message
block       pieces of one layout, as the core takes them
gap         the delimiter that is kept between messages of a batch
gather      wait for `min_messages`
hold        pause reading because messages were not taken (backpressure)
adopt       take over what another has made: an arena, a connection
drain       finish what has arrived, and stop
"""

from __future__ import annotations

import errno
import logging
import socket
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from .._core import ffi, lib
from ..values.errors import BackendUnavailable
from ..values.framing import Splitter
from ..values.stats import COUNTED, Stats
from . import clock
from .arena import Arenas
from .backends import WATCHABLE, backends, choose, select_limit, unavailable
from .given import listen_on
from .ops import ABORT, SWITCH
from .os_errors import meaning
from .owner import BUSY, FORKED, busy
from .services import Dispatcher, ServiceState
from .splitting import Splitting
from .state import DISPATCHING, IDLE, TURNING
from .structs import fill_framing
from .timers import Timers
from .turn import MESSAGES, Turns

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Engine", "Objects"]

LOGGER = logging.getLogger("pymux")
WARN_EVERY = 10.0  # seconds between lines of a mux that accepting pauses
GAPS = lib.PMX_GAPS
OTHER_ROWS = lib.PMX_OTHER_ROWS


def _no_mux() -> None:
    """An engine that no mux has been made for yet."""


class Objects(Protocol):
    """What the room of users' objects does for an engine."""

    def connection(self, engine: Engine, id: int) -> Any:
        """Make the object of a connection."""

    def batch(
        self, engine: Engine, arena: Any, rows: int, gap: Any, news: bool, number: int
    ) -> Any:
        """Make a batch of `engine.serving`. `news`: there is more than messages."""

    def forget(self, engine: Engine, batch: Any) -> None:
        """A batch is over: the connections that it reports as closed are gone."""

    def answer(self, conn: Any, data: bytes) -> None:
        """Log what a handler returned, in whatever state that left `conn`."""

    def fail(self, conn: Any, error: BaseException | None) -> None:
        """Have `conn` end, caused by an error."""

    def leave(self, engine: Engine, conn: Any) -> None:
        """The core is about to close: keep what `conn` is asked for later."""

    def end(self, conn: Any) -> None:
        """The core has closed, or is a parent's: `conn` is closed."""


class Engine(Turns):
    """The state of one mux.

    Attributes:
        table: connections, by slot.
        buffers: what takes a connection's messages (`ReceiveBuffer`), by slot.
        batch: the last one, while it is dispatched or its user's.
        valid: the number of the batch that may be read and answered, or 0.
        causes: exceptions that have ended connections, by id.
        stopped: ids of connections whose input a stop has ended; None before one.
        ends: how many connections have ended with each errno.
        serving: the service of the last batch.
        running: the task that runs.
        opening: ids of outgoing connections that have not opened yet.
        given: the rows of the batch that is dispatched, as far as they are given.
        handlers: the handlers of its connections (`Handlers`), if any.
        unused: numbers of services that may have no connection left.
        late: timeouts to be told when this batch has been dispatched.
        on_close: called before the core closes.
        on_closed: called when it has closed.
        mux: returns the mux of this engine, or None where that is gone. A mux
            that is dropped closes its engine, so the engine does not hold it.
    """

    def __init__(
        self,
        objects: Objects,
        backend: str | None = None,
        *,
        arena_size: int = 262144,
        max_messages: int = 4096,
        spin_ns: int = 0,
        join: Callable[[Engine], None] | None = None,
    ) -> None:
        """`join` is called with the open engine: its mux is known from then on. An
        engine whose making is interrupted leaves nothing."""
        self.c = None
        name = choose(backend) or ffi.NULL
        # Where a signal's handler raises, the core goes with its place.
        self._place = ffi.gc(ffi.new("pmx_mux **"), lib.pmx_dispose)
        try:
            error = self._open(name, max_messages, arena_size, spin_ns)
            if error:
                raise unavailable(backend, -error)
            c = self._place[0]
            super().__init__(c, self.new_arenas(arena_size, max_messages))
            self.name = str(ffi.string(lib.pmx_name(c)).decode())
            self.objects = objects
            self.log.answer_one = objects.answer
            self.mux: Callable[[], Any] = _no_mux
            self.table: list[Any] = []
            self.buffers: list[Any] = []
            self.batch: Any = None
            self.batches = 0
            self.valid = 0
            self.causes: dict[int, BaseException] = {}
            self.stopped: set[int] | None = None
            self.ends: dict[int, int] = {}
            self.serving = self.services[0]
            self.running: Any = None
            self.late: list[Any] = []
            self.opening: set[int] = set()
            self.splitting: Splitting | None = None
            self.handlers: Any = None
            self.given: Any = None
            self.unused: list[int] = []
            self.on_close: Callable[[], None] | None = None
            self.on_closed: Callable[[], None] | None = None
            self._ends_before = self.ends  # and before the batch of turn `_counted`
            self._counted = 0
            self._last_stats: Stats | None = None
            self._warn_at = 0.0  # (by the clock) when a pause is worth a line again
            if join is not None:
                join(self)
            self.c = c  # last: now it is open
        except BaseException:
            self.c = None
            lib.pmx_dispose(self._place)
            raise

    def _open(self, name: Any, max_messages: int, arena_size: int, spin_ns: int) -> int:
        """Open the core in its place: 0 or -errno."""
        return int(lib.pmx_open(self._place, name, max_messages, arena_size, spin_ns))

    def new_arenas(self, arena_size: int, max_messages: int) -> Arenas:
        """The memory of batches."""
        return Arenas(arena_size, max_messages)

    # --- life -------------------------------------------------------------

    def after_fork(self) -> None:
        if self.state is DISPATCHING and self.thread == get_ident():
            for conn in self.table:  # no handler is to see here what it sees there
                if conn is not None:
                    self.objects.end(conn)
        super().after_fork()

    def is_over(self) -> bool:
        """Whether the engine is closed."""
        return self.c is None

    def is_used(self) -> bool:
        """Whether to warn if the mux is dropped and not closed."""
        return True

    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened the core."""
        return bool(lib.pmx_forked(self.c))

    def close(self) -> None:
        """Close at once; in a harvest or dispatch, when that ends."""
        if self.c is None:
            return
        if self.thread == FORKED:
            self.free()
            return
        self.check()
        if self.state is IDLE:
            self.close_now()
        else:
            self.close_asked = True

    def close_now(self) -> None:
        if self.c is not None:
            try:
                if self.on_close is not None:
                    self.on_close()
                self.submit()
            except MemoryError:
                self.free()
                raise
            self.free()
            on_closed, self.on_closed = self.on_closed, None
            if on_closed is not None:
                on_closed()
        self.close_asked = False

    def free(self) -> None:
        """Close the core's part. It can be called again where it was interrupted."""
        if self.thread != FORKED:
            for conn in self.table:  # in a child, the parent's are its own
                if conn is not None:
                    self.objects.leave(self, conn)
        turn = self.turn
        if self.received and turn.reason & lib.PMX_LARGE:
            self.arenas.adopt(turn.arena)  # nobody else will
            self.received = False
        with self.lock:
            last = self._read_stats()
            last.connections = last.listeners = last.queued = last.buffers = 0
            if not self._restore_signals():
                self._leave_wakeup()
            if lib.pmx_shut(self.c) == BUSY:
                raise busy()
            self._last_stats = self._last_stats or last
            self.batch = None
            self.valid = 0
            for conn in self.table:
                if conn is not None:
                    self.objects.end(conn)
            self.table.clear()
            self.buffers.clear()
            self.log.entries.clear()
            for timer in self.timers.heap:  # a timer that is kept keeps nothing else
                timer.cancel()
            self.timers.heap.clear()
            self.timers = Timers()
            self.calls.clear()
            self.late.clear()
            self.on_callback_error = self.on_close = None  # they know a dispatcher
            self.opening.clear()
            self.c = None

    # --- connections ----------------------------------------------------

    def listen(
        self,
        make: Callable[[int, Any], Any],
        where: Any,
        policy: Any,
        framing: Any,
        *,
        backlog: int,
        reuse_port: bool,
        mode: int,
        shown: str,
    ) -> Any:
        """Listen; what `make` makes of the id, and of the address as the core has
        it. Nothing is left of a call that is interrupted before that."""
        id_ = ffi.new("uint64_t *")
        try:
            if isinstance(where, socket.socket):
                error = listen_on(self.c, where, policy, id_)
            else:
                error = lib.pmx_listen(
                    self.c, where, policy, backlog, reuse_port, mode, id_
                )
            if error < 0:
                raise self.os_error(-error, shown)
            self.note_framing(policy.service, framing)
            name = ffi.new("pmx_address *")
            if lib.pmx_listener_address(self.c, id_[0], name) == BUSY:
                raise busy()
            return make(id_[0], name)
        except BaseException:  # of a signal's handler, too
            if id_[0]:
                lib.pmx_unlisten(self.c, id_[0])
            raise

    def unlisten(self, id: int) -> None:
        """Close a listener."""
        if lib.pmx_unlisten(self.c, id) == BUSY:
            raise busy()

    def dial(self, found: Any, policy: Any, framing: Any, shown: str) -> Any:
        """Connect to addresses that were resolved; the connection."""
        self.check()
        where, count, _keep = found
        id_ = ffi.new("uint64_t *")
        service = self.services[policy.service]
        service.dialled += 1
        try:
            error = lib.pmx_connect(self.c, where, count, policy, id_)
            if error < 0:
                raise self.os_error(-error, shown)
            self.note_framing(policy.service, framing)
            self.opening.add(id_[0])
            return self.connection(id_[0])
        except BaseException:  # of a signal's handler, too
            if id_[0]:
                self.log.op(id_[0] | ABORT)
            else:
                self.release_service(service, 1)
            raise

    def os_error(self, number: int, shown: str) -> Exception:
        """The error of a call that concerns an address."""
        if number == -BUSY:
            return busy()
        if number == errno.ENOSPC and self.name == "select":
            return BackendUnavailable(number, select_limit())
        return OSError(number, meaning(number), shown)

    def connection(self, id: int) -> Any:
        """The object of a connection, made when the id is first seen."""
        slot = id & 0xFFFFFFFF
        table = self.table
        while slot >= len(table):
            self.buffers.append(None)
            table.append(None)
        conn = table[slot]
        if conn is None or conn.id != id:
            conn = table[slot] = self.objects.connection(self, id)
        return conn

    def water_of(self, id: int) -> tuple[int, int] | None:
        """(high water, low water) of a connection; None if it has ended."""
        rules = ffi.new("pmx_policy *")
        if lib.pmx_policy_of(self.c, id, rules) < 0:
            return None
        return rules.high_water, rules.low_water

    def policy_of(self, id: int) -> Any:
        """The `pmx_policy` of a connection; None if it has ended."""
        rules = ffi.new("pmx_policy *")
        return None if lib.pmx_policy_of(self.c, id, rules) < 0 else rules

    def switch(self, id: int, rules: Any, framing: Any, unread: bytes) -> None:
        """Log that a connection speaks another framing from here on.

        `unread` stands in front of what the core has of its input.
        """
        rules.framing = ffi.new("pmx_framing *")[0]
        fill_framing(rules.framing, framing)
        self.note_framing(rules.service, framing)
        if self.splitting is not None:
            self.splitting.forget(id)
        self.log.entries += (id | SWITCH, bytes(ffi.buffer(rules)) + unread)

    def dispatcher_of(self, id: int) -> Dispatcher | None:
        """The dispatcher of a connection of the table; the core is open."""
        rules = ffi.new("pmx_policy *")
        if lib.pmx_policy_of(self.c, id, rules) < 0:
            return self.serving.dispatcher  # the last batch reports its end
        service: ServiceState = self.services[rules.service]
        return service.dispatcher

    def has_more(self, id: int) -> bool:
        """Whether something of a connection has arrived and was not reported."""
        return bool(lib.pmx_pending(self.c, id))

    def unacknowledged(self, id: int) -> int | None:
        """Bytes that the peer's system does not have; None: the OS cannot tell."""
        number = lib.pmx_unacknowledged(self.c, id)
        return None if number == -errno.ENOTSUP else max(0, int(number))

    def undelivered(self, id: int) -> int:
        """The same; where the OS cannot tell, what the kernel took is delivered."""
        number = self.unacknowledged(id)
        return int(lib.pmx_queued(self.c, id)) if number is None else number

    def is_stopping(self, id: int) -> bool:
        """Whether a stop has ended the input of a connection."""
        if self.stopped is None or id in self.stopped:
            return self.stopped is not None
        if self.c is None:
            return False
        self.check()
        return bool(lib.pmx_stopping(self.c, id) == 1)

    def keep_stopping(self, id: int) -> None:
        """A connection is about to be forgotten by the core."""
        if self.stopped is not None and lib.pmx_stopping(self.c, id) == 1:
            self.stopped.add(id)

    # --- stopping -------------------------------------------------------------

    def drain(self) -> None:
        """Accept the backlog, close the listeners, end every input."""
        if self.stopped is None:
            self.stopped = set()
        lib.pmx_drain(self.c)

    def reset_all(self, number: int) -> None:
        """Reset every connection that is left, reported with this errno."""
        self.submit()
        lib.pmx_reset_all(self.c, number)

    def close_outgoing(self) -> None:
        """Close the outgoing connections: no accepted one is left to need them."""
        for conn in self.table:
            if conn is not None and not conn.closed:
                conn.close()
        self.submit()

    def has_ends(self) -> bool:
        """Whether the core has an end of a connection to report."""
        return bool(lib.pmx_next_timeout(self.c) == 0)

    # --- batches --------------------------------------------------------------

    def harvest(self, deadline: float | None, minimum: int, delay_ns: int) -> Any:
        """A batch. The caller sets `received` to False once it has the batch."""
        if self.thread != get_ident() or self.c is None:
            self.claim()
        if self.state is not IDLE:
            raise RuntimeError("harvest() cannot be called in a handler or timer")
        try:
            self.state = TURNING  # a signal's handler may neither close nor harvest
            batch = self._make_batch(self.exchange(deadline, minimum, delay_ns))
            return batch  # noqa: RET504 (behind a call a signal may strike)
        finally:  # whatever a signal's handler that raised has left behind
            self.state = IDLE
            if self.close_asked:
                self.close_now()

    def _make_batch(self, result: int) -> Any:
        """The batch that the core has received.

        It may be made again, where a signal's handler raised before the caller has
        noted that it has the batch.
        """
        if self.c is None:  # a call, or a signal's handler, has closed it
            return self.objects.batch(self, self.arena, 0, None, False, -1)
        arena = self.arena
        if result & lib.PMX_LARGE:
            arena = self.arenas.adopt(self.turn.arena)
            self.stale = True
        self.serving = self.services[self.turn.service]
        gap = self.serving.gap if result & GAPS else None
        rows, news = result >> MESSAGES, bool(result & OTHER_ROWS)
        if self.splitting is not None:
            arena, rows = self.splitting.split(arena, rows, gap)
        self.batches += 1
        batch = self.objects.batch(self, arena, rows, gap, news, self.batches)
        self.valid = self.batches
        # An empty batch is not kept: it would hold a mux that is dropped.
        self.batch = batch if news or rows else None
        return batch

    def add_service(self, dispatcher: Dispatcher) -> int:
        """A new service, whose batches go to a dispatcher: its number."""
        number = lib.pmx_add_service(self.c)
        if number < 0:
            raise self.os_error(-number, "")
        self.services.append(ServiceState(number, dispatcher))
        self.changed.add(number)
        self.stale = True
        return number

    def reuse_service(self, number: int, dispatcher: Dispatcher) -> None:
        """Give a service that has no connection to another dispatcher."""
        self.services[number] = ServiceState(number, dispatcher)
        self.changed.add(number)
        self.stale = True

    def release_service(self, service: ServiceState, count: int) -> None:
        """So many connections of a service are gone."""
        service.dialled -= count
        if service.number and service.dialled <= 0 and not service.kept:
            self.unused.append(service.number)

    def serve(self, deadline: float | None) -> None:
        """Dispatch one harvest of an engine whose services all have dispatchers. It
        may close the engine."""
        form = self.services[0].dispatcher
        assert form is not None
        batch = self.harvest(deadline, form.min_messages, form.delay_ns)
        if self.c is not None:
            self.dispatch(batch)

    def dispatch(self, batch: Any) -> None:
        """Dispatch a batch to its service's dispatcher. It may close the engine."""
        dispatcher = self.serving.dispatcher
        try:
            self.received = False
            self.state = DISPATCHING
            if batch and dispatcher is not None:
                dispatcher(batch)
            if self.late:
                self._run_late()
            else:
                self.look_for_shortage()
        finally:
            self.state = IDLE
            if self.batch is not None:  # valid on, for a handler that kept it
                batch, self.batch = self.batch, None
                if self.c is not None:
                    self.objects.forget(self, batch)
            if self.close_asked:
                self.close_now()

    def harvest_and_dispatch(
        self, deadline: float | None, minimum: int, delay_ns: int
    ) -> Any:
        """A harvest for the caller, who is service 0 and has no dispatcher. Rows of
        another service are dispatched, and the batch that is returned is empty."""
        batch = self.harvest(deadline, minimum, delay_ns)
        if self.serving.dispatcher is None and not self.late:
            return batch
        if self.serving.dispatcher is not None:
            self.dispatch(batch)
            self.serving = self.services[0]
            return self.objects.batch(self, self.arena, 0, None, False, self.valid)
        try:
            self.state = DISPATCHING
            self._run_late()
        finally:
            self.state = IDLE
            if self.close_asked:
                self.close_now()
        return batch

    def _run_late(self) -> None:
        """End the waits of coroutines to which this batch brought nothing in time."""
        while self.late and self.c is not None:
            task, timer, timeout = self.late.pop(0)
            task.time_out(timer, timeout)

    def leave(self, error: BaseException) -> None:
        """A handler raised what is to leave pymux. Here it does so at once."""
        raise error

    def forget_batch(self) -> None:
        self.valid = 0
        batch, self.batch = self.batch, None
        if batch is not None and self.c is not None:
            self.objects.forget(self, batch)

    def forget(self, conn: Any) -> None:
        """The end of a connection has been reported: its place is free."""
        slot = conn.id & 0xFFFFFFFF
        if self.table[slot] is conn:
            self.table[slot] = None
            self.buffers[slot] = None
        self.causes.pop(conn.id, None)
        self.opening.discard(conn.id)
        if self.splitting is not None:
            self.splitting.forget(conn.id)

    def note_splitter(self, framing: Splitter) -> None:
        if self.splitting is None:
            self.splitting = Splitting(self)
        self.splitting.note(framing)

    def splits(self, id: int) -> bool:
        """Whether a connection's messages come from a parser, and may be anything."""
        return self.splitting is not None and self.splitting.splits(id)

    def errno_of_end(self, id: int, number: int) -> int:
        """The errno that a connection ended with, by the core or by its parser."""
        if self.splitting is None:
            return number
        return self.splitting.broken.get(id, number)

    def count_ends(self, numbers: list[int]) -> None:
        """Count the ends of this turn, once, however often its batch is made."""
        if self._counted != self.turns:
            self._ends_before, self._counted = self.ends, self.turns
        ends = self._ends_before.copy()
        for number in numbers:
            ends[number] = ends.get(number, 0) + 1
        self.ends = ends

    # --- looking inside ---------------------------------------------------

    def fileno(self) -> int:
        """The poller's descriptor.

        Raises:
            BackendUnavailable: the backend has none.
        """
        self.check()
        fd = lib.pmx_fileno(self.c)
        if fd == BUSY:
            raise busy()
        if fd < 0:
            able = [name for name in backends() if name in WATCHABLE]
            raise BackendUnavailable(
                -fd,
                f"backend {self.name} has no descriptor to watch; "
                f"use {' or '.join(able) or 'epoll or kqueue'}",
            )
        return int(fd)

    def has_last_stats(self) -> bool:
        """Whether the engine has closed and left its figures."""
        return self._last_stats is not None

    def stats(self) -> Stats:
        """The figures; after the close, the last ones. Any thread may ask."""
        with self.lock:
            return self._last_stats or self._read_stats()

    def _read_stats(self) -> Stats:
        counts = self.counts
        stats = Stats(self.name, **{name: getattr(counts, name) for name in COUNTED})
        stats.arenas_held = self.arenas.held()
        stats.ends = self.ends.copy()
        if self.thread == get_ident():  # else the core may be taking the log
            stats.queued += self.log.size()
        return stats

    def look_for_shortage(self) -> None:
        """Log that accepting pauses for want of descriptors or memory: a line for
        each pause, but not more than one in WARN_EVERY seconds."""
        pauses = self.counts.shortages
        if pauses == self._shortages:
            return
        now = clock.now()
        if now >= self._warn_at:
            self._warn_at = now + WARN_EVERY
            why = self.os_error(int(self.counts.shortage), "").args[1]
            LOGGER.warning(
                "%s: accepting pauses, peers wait in the backlog (%d times so far): %s",
                self.describe(),
                pauses,
                why,
            )
        self._shortages = pauses

    def describe(self) -> str:
        """The mux, for its repr and for the log."""
        with self.lock:  # another thread may be closing it
            if self.c is None:
                return f"<Mux {self.name}, closed>"
            return f"<Mux {self.name}, {self.counts.connections} connections>"
