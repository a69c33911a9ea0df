"""The mux: the C core's turn, and what Python keeps around it.

A harvest hands the output log to the core, which sends, waits, receives and
frames, and comes back with one batch. So there is one call into C a turn,
however many messages; each call drops the GIL, and beside a computing thread
each drop costs up to a switch interval.

Signals: a handler may raise at any call. What has been received is in the
core until the batch has been handed over (`_unreturned`), and what was in the
log is dropped from it in the same breath as the core has taken it.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from ._core import ffi, lib
from .engine.arena import Arenas
from .engine.backends import WATCHABLE, backends, choose, select_limit, unavailable
from .engine.gil import LOOK_EVERY, Gil
from .engine.log import LARGE_PIECE, ONE_ID, SHARED, Delimiter, Log
from .engine.signals import SIGNALS
from .engine.timers import NS, Timer, Timers
from .objects.batch import Batch
from .objects.connection import (
    ABORT,
    CLOSED,
    GONE,
    OPEN,
    Connection,
    as_bytes,
    keep_names,
)
from .values.addresses import Address, endpoints, from_core, show
from .values.checks import check_min_messages, seconds, whole
from .values.errors import FATAL, BackendUnavailable, error_from, meaning, no_copy
from .values.framing import (
    Fixed,
    Framing,
    Limits,
    Raw,
    check_reply,
    framing_of,
    longest_reply,
    policy,
)
from .values.stats import COUNTED, Stats

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .handlers.forms import Dispatcher

__all__ = ["Listener", "Mux"]

LOGGER: logging.Logger = logging.getLogger("pymux")
BACKLOG = 4096
UNLIMITED = 2**63
UNLET = 2**64 - 1  # what `pmx_queued` says where another thread is inside
SUBMIT_OVER = 4194304  # bytes of large pieces in the log before it is handed over
REPORT = lib.PMX_ROWS | lib.PMX_DRAINED  # reasons to return
UNUSUAL = lib.PMX_LARGE | lib.PMX_OTHER_ROWS
GAPS = lib.PMX_GAPS
MESSAGES = lib.PMX_MESSAGES_SHIFT  # the bit from which on a result has messages
REASONS = (1 << MESSAGES) - 1  # what is more than these has messages
EXCHANGE = lib.pmx_exchange
BUSY = -errno.EBUSY  # another thread is inside the core: nothing was done
SHUT = -errno.EBADF  # the core is closed: a signal's handler raised behind that


def busy() -> RuntimeError:
    """What a call raises that found another thread inside the same mux."""
    return RuntimeError(
        "another thread is inside this mux just now, and it takes one at a time; "
        "other threads may use call_threadsafe() and wakeup()"
    )


WARN_EVERY = 10.0  # seconds between lines of a mux that accepting pauses
# What an errno means where the mux itself has ended the connection.
REASONS_TO_END = {
    errno.EMSGSIZE: "a message over the framing's max_size",
    errno.EPROTO: "its stream ended inside a message",
    errno.ENOBUFS: "output over max_output",
    errno.ETIMEDOUT: "a timeout of its limits, of connecting, of TCP or of stop()",
    errno.ECONNABORTED: "its handler raised",
}


def log_end(conn: Connection, error: OSError) -> None:
    """A line for a connection that ended by an error; many handlers have no other
    way to see it."""
    cause = error.__cause__
    why = repr(cause) if cause is not None else REASONS_TO_END.get(error.errno or 0)
    LOGGER.debug("%s ended: %s%s", repr(conn), error, f" ({why})" if why else "")


def check_spin(spin: Any) -> int:
    """Nanoseconds to poll before blocking, -1 to adapt."""
    if spin == "auto":
        return -1
    if spin is None or isinstance(spin, (str, bool)):
        raise ValueError(f"spin is {spin!r}; 0 or more seconds, or 'auto', is needed")
    try:
        return seconds("spin", spin)
    except ValueError:
        raise ValueError(
            f"spin is {spin!r}; 0 or more seconds, or 'auto', is needed"
        ) from None


def check_backlog(backlog: int | None) -> int:
    """How many may wait to be accepted."""
    if backlog is None:
        return BACKLOG
    return whole("backlog", backlog, 0, 2**31 - 1, "or None")


def check_mode(mode: int) -> int:
    """Permissions of a Unix socket's file."""
    return whole("mode", mode, 0, 0o777, "like 0o600")


class Listener:
    """A listening socket of a mux, made by `Mux.listen`.

    Attributes:
        address: (host, port) with the port that was really bound, or the path.

    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     listener.address[0]
    ...     listener.close()
    '127.0.0.1'
    """

    __slots__ = ("__weakref__", "_id", "_mux", "address")

    def __init__(self, mux: Mux, id: int, address: Any) -> None:
        self._mux = mux
        self._id = id
        self.address: Any = address

    def __repr__(self) -> str:
        return f"<Listener {show(self.address)}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def close(self) -> None:
        """Stop listening; its connections live on.

        A second call does nothing, nor does one after the mux has closed.
        """
        if not self._id or self._mux._c is None:
            return
        self._mux._check()
        if lib.pmx_unlisten(self._mux._c, self._id) == BUSY:
            raise busy()
        self._id = 0


_MUXES: weakref.WeakSet[Mux] = weakref.WeakSet()
FORKED = -1  # owner of a mux in a child of its process


def _after_fork() -> None:
    for mux in list(_MUXES):
        if mux._dispatching and mux._owner == get_ident():
            for conn in mux._table:  # no handler is to see here what it sees there
                if conn is not None:
                    conn._status = CLOSED
        mux._owner = FORKED
        mux._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Mux:
    """Many connections, harvested together.

    It belongs to this process and to the thread of its first harvest;
    elsewhere every call but `wakeup` and `call_threadsafe` raises
    RuntimeError.

    Args:
        backend: a name of `backends()`; None takes the environment's
            ``PYMUX_BACKEND``, else the best that works.
        arena_size: about how many bytes one harvest takes in.
        max_messages: how many messages one harvest takes in at most.
        spin: seconds to poll before blocking, ``"auto"`` to adapt.

    Raises:
        ValueError: a backend nobody knows, or a size out of range.
        BackendUnavailable: a backend that this machine lacks.

    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     conn = mux.connect(listener.address)
    ...     len(mux.harvest(0))
    0
    """

    _kind = Connection  # what its connections are,
    _kind_of_batch = Batch  # and its batches
    _gathers = False  # whether an unfinished batch may be left to the next harvest

    def __init__(
        self,
        backend: str | None = None,
        *,
        arena_size: int = 262144,
        max_messages: int = 4096,
        spin: float | Literal["auto"] = 0.0,
    ) -> None:
        self._c: Any = None
        arena_size = whole("arena_size", arena_size, 1, 2**30)
        max_messages = whole("max_messages", max_messages, 1, 2**24)
        spin_ns = check_spin(spin)
        name = choose(backend) or ffi.NULL
        # Where a signal's handler raises, the core goes with its place.
        self._place = ffi.gc(ffi.new("pmx_mux **"), lib.pmx_dispose)
        try:
            error = self._open(name, max_messages, arena_size, spin_ns)
            if error:
                raise unavailable(backend, -error)
            self._begin(self._place[0], arena_size, max_messages)
        except BaseException:
            self._c = None
            lib.pmx_dispose(self._place)
            raise

    def _begin(self, c: Any, arena_size: int, max_messages: int) -> None:
        """The rest of being made, once the core is open."""
        self._name = str(ffi.string(lib.pmx_name(c)).decode())
        self._counts = lib.pmx_counts(c)
        self._owner: int | None = None
        self._lock = threading.RLock()  # _c against wakeup() of other threads
        self._last_stats: Stats | None = None

        self._arenas = self._new_arenas(arena_size, max_messages)
        self._arena = self._arenas.current
        self._turn = ffi.new("pmx_turn *")
        self._turn.mux = c
        self._gil = Gil(self._turn)
        self._table: list[Any] = []  # connections, by slot
        self._batch: Batch | None = None  # while it is dispatched, or its user's
        self._batches = 0  # how many there have been,
        self._valid = 0  # and which of them may be read and answered
        self._unreturned = False
        self._causes: dict[int, BaseException] = {}
        self._stopped: set[int] | None = None  # ids whose input a stop has cut
        self._ends: dict[int, int] = {}  # how many by each errno,
        self._ends_before = self._ends  # and before the batch of turn `_filled`
        self._filled = 0
        self._shortages = 0  # pauses of accepting that were seen, and
        self._warn_at = 0.0  # (monotonic) when the next is worth a line again

        self._log = Log()
        self._large = LARGE_PIECE  # a longer piece goes through _take_large()
        self._reply_limit = UNLIMITED  # a longer one may not fit its framing
        self._lines: Delimiter | None = None  # where every framing is the same
        self._only_framing: Framing | None = None
        self._gap: bytes | None = None  # the delimiter that the core leaves
        self._framings = 0
        self._leave_gaps = True  # delimiters between messages: see batch.py
        self._stale = True  # what the turn's fields say, beside these two:
        self._min_messages = self._delay_ns = -1
        self._leaves_gaps: bool | None = None  # as the core was told

        self._running: Any = None  # the coroutine that runs
        self._late: list[Any] = []  # timeouts, once this batch has been dispatched
        self._handed_over = -1  # the turn in which the log last grew too long
        self._dispatching = False
        self._harvesting = False
        self._in_core = False  # then the log is not to be submitted
        self._close_asked = False
        self._timers = Timers()
        self._calls: deque[tuple[Callable[..., Any], Any]] = deque()
        self._woken = False
        self._on_callback_error: Callable[[BaseException], None] | None = None
        self._on_close: Callable[[], None] | None = None
        self._signal_fd: int | None = None
        self._wakeup_fd = lib.pmx_wakeup_fd(c)
        self._takes_signals = False  # even from somebody else: `serve`
        self._lends_signals = False  # after each wait, since threads take turns
        _MUXES.add(self)
        self._c = c  # last: now it is open

    def __repr__(self) -> str:
        with self._lock:  # another thread may be closing it
            if self._c is None:
                return f"<Mux {self._name}, closed>"
            return f"<Mux {self._name}, {self._counts.connections} connections>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def __enter__(self) -> Mux:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_c", None) is not None:
            try:
                if self._is_used() and not lib.pmx_forked(self._c):
                    warnings.warn(
                        f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self
                    )
            finally:
                self._free()

    def _open(self, name: Any, max_messages: int, arena_size: int, spin_ns: int) -> int:
        """Open the core in `_place`: 0 or -errno."""
        return int(lib.pmx_open(self._place, name, max_messages, arena_size, spin_ns))

    def _new_arenas(self, arena_size: int, max_messages: int) -> Arenas:
        return Arenas(arena_size, max_messages)

    def _is_used(self) -> bool:
        """Whether to warn where this is dropped and not closed."""
        return True

    # --- whose it is ----------------------------------------------------

    def _check(self) -> None:
        """Raise where this thread or process may not use the mux."""
        owner = self._owner
        if owner == get_ident():
            if self._c is None:
                raise RuntimeError("the mux is closed")
            return
        if owner == FORKED:
            raise RuntimeError(
                "this mux belongs to the process that made it; "
                "after a fork, make one of your own"
            )
        if self._c is None:
            raise RuntimeError("the mux is closed")
        if owner is not None:
            raise RuntimeError(
                "this mux belongs to the thread of its first harvest; "
                "other threads may use call_threadsafe() and wakeup()"
            )

    def _is_here(self) -> bool:
        """Whether this thread may use the mux, and it is open."""
        owner = self._owner
        return self._c is not None and (owner is None or owner == get_ident())

    def _adopt_thread(self) -> None:
        """Make this thread the owner: for those who take turns (`Client`)."""
        self._lends_signals = True
        if self._owner != FORKED:
            self._owner = get_ident()
        self._check()

    def _claim(self) -> None:
        """The first harvest makes this thread the owner, if it is the first."""
        with self._lock:
            self._check()
            self._owner = get_ident()

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._name

    def close(self) -> None:
        """Close everything at once; inside a handler, when its dispatch ends.

        Output that the kernel takes now is sent; a connection with more than
        that is reset, so that its peer does not take the part for the whole.
        In a forked child only memory and descriptors are freed.
        """
        if self._c is None:
            return
        if self._owner == FORKED:
            self._free()
            return
        self._check()
        if self._dispatching or self._harvesting:
            self._close_asked = True
        else:
            self._close_now()

    def _close_now(self) -> None:
        if self._c is not None:
            try:
                if self._on_close is not None:
                    self._on_close()
                self._submit()
            except MemoryError:
                self._free()
                raise
            self._free()
        self._close_asked = False

    def _free(self) -> None:
        """Close the core's part. It can be called again where it was interrupted."""
        if self._owner != FORKED:
            for conn in self._table:  # in a child, the parent's are its own
                if conn is not None:
                    conn._keep_addresses()
                    if self._stopped is not None and conn.stopping:
                        self._stopped.add(conn.id)
        turn = self._turn
        if self._unreturned and turn.reason & lib.PMX_LARGE:
            self._arenas.adopt(turn.arena)  # nobody else will
            self._unreturned = False
        with self._lock:
            last = self._read_stats()
            last.connections = last.listeners = last.queued = last.buffers = 0
            if not self._restore_signals():
                self._leave_wakeup()
            if lib.pmx_shut(self._c) == BUSY:
                raise busy()
            self._last_stats = self._last_stats or last
            self._batch = None
            self._valid = 0
            for conn in self._table:
                if conn is not None:
                    conn._status = CLOSED
            self._table.clear()
            self._log.entries.clear()
            for timer in self._timers.heap:  # whoever keeps it keeps nothing else
                timer.cancel()
            self._timers.heap.clear()
            self._timers = Timers()
            self._calls.clear()
            self._late.clear()
            self._on_callback_error = self._on_close = None  # they know a dispatcher
            self._c = None

    def _leave_wakeup(self) -> None:
        """Collected in another thread than the main one, where signals write to
        our wakeup: that alone stays open, until the main thread comes by."""
        wakeup = ffi.new("int64_t[2]")
        lib.pmx_keep_wakeup(self._c, wakeup)
        close = partial(lib.pmx_wakeup_close, wakeup)
        SIGNALS.left.append((self._wakeup_fd, close))

    # --- connections ----------------------------------------------------

    def listen(
        self,
        address: Address,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        half_open: bool = False,
        mode: int = 0o600,
    ) -> Listener:
        """Listen on an address; who connects shows up in `Batch.opened`.

        Args:
            address: (host, port), or the path of a Unix socket. Port 0 picks
                one; "" is every IPv4 interface, "::" both protocols.
            framing: of every connection; None is `Raw()`.
            limits: of every connection; None is `Limits()`.
            backlog: how many may wait to be accepted; None is 4096. The OS
                caps it.
            reuse_port: let several processes listen on one port.
            half_open: report the peer's end of stream in `Batch.ended` and
                leave the connection open for sending.
            mode: permissions of a Unix socket's file.

        Raises:
            ValueError, TypeError: an argument that cannot be.
            OSError: the address is in use, not permitted, not this machine's.
        """
        self._check()
        backlog = check_backlog(backlog)
        mode = check_mode(mode)
        rules = policy(framing, limits, half_open=half_open)
        where, _, _keep = endpoints(address, listen=True)
        id_ = ffi.new("uint64_t *")
        try:
            error = lib.pmx_listen(
                self._c, where, rules, backlog, bool(reuse_port), mode, id_
            )
            if error < 0:
                raise self._os_error(-error, show(address))
            self._note_framing(framing)
            name = ffi.new("pmx_address *")
            if lib.pmx_listener_address(self._c, id_[0], name) == BUSY:
                raise busy()
            return Listener(self, id_[0], from_core(name))
        except BaseException:  # of a signal's handler, too
            if id_[0]:
                lib.pmx_unlisten(self._c, id_[0])
            raise

    def connect(
        self,
        address: Address,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        half_open: bool = False,
        timeout: float | None = None,
    ) -> Connection:
        """Connect, without waiting.

        A harvest reports what became of it: in `Batch.opened`, or in
        `Batch.closed` with the error. A name is resolved here and now, which
        blocks; its addresses are tried in order.

        Args:
            address: (host, port), or the path of a Unix socket.
            framing: None is `Raw()`.
            limits: None is `Limits()`.
            half_open: as for `listen`.
            timeout: seconds it may take; None leaves it to the OS.

        Returns:
            The connection; what is sent before it opens is queued.

        Raises:
            ValueError, TypeError: an argument that cannot be.
            OSError: the name does not resolve, or no descriptor can be had.
        """
        self._check()
        rules = policy(framing, limits, half_open=half_open, timeout=timeout)
        found = endpoints(address, listen=False)
        return self._dial(address, found, rules, framing)

    def _dial(
        self, address: Any, found: Any, rules: Any, framing: Framing | None
    ) -> Connection:
        """Connect to an address that `endpoints` has resolved."""
        where, count, _keep = found
        id_ = ffi.new("uint64_t *")
        try:
            error = lib.pmx_connect(self._c, where, count, rules, id_)
            if error < 0:
                raise self._os_error(-error, show(address))
            self._note_framing(framing)
            return self._conn(id_[0])
        except BaseException:  # of a signal's handler, too
            if id_[0]:
                self._log.op(id_[0] | ABORT)
            raise

    def _os_error(self, number: int, address: str) -> Exception:
        if number == -BUSY:
            return busy()
        if number == errno.ENOSPC and self._name == "select":
            return BackendUnavailable(number, select_limit())
        return OSError(number, meaning(number), address)

    def _note_framing(self, framing: Framing | None) -> None:
        framing = framing or Raw()
        if not self._framings:
            self._lines = Delimiter.of(framing)
            self._only_framing = framing
        elif framing != self._only_framing:
            self._lines = self._only_framing = None
        self._framings += 1
        self._stale = True
        self._reply_limit = min(self._reply_limit, longest_reply(framing))
        self._large = min(LARGE_PIECE, self._reply_limit)

    def _conn(self, id: int) -> Connection:
        """The Connection of an id, made when it is first seen."""
        slot = id & 0xFFFFFFFF
        table = self._table
        while slot >= len(table):
            table.append(None)
        conn = table[slot]
        if conn is None or conn.id != id:
            conn = table[slot] = self._kind(self, id)
        return conn  # type: ignore[no-any-return]

    # --- output -----------------------------------------------------------

    def _check_reply(self, id: int, size: int) -> None:
        """Raise ValueError where a message does not fit its framing."""
        if size > self._reply_limit:
            if self._only_framing is not None:
                check_reply(self._only_framing, size)
                return
            rules = ffi.new("pmx_policy *")
            error = lib.pmx_policy_of(self._c, id, rules)
            if error == BUSY:
                raise busy()
            if not error:
                check_reply(framing_of(rules.framing), size)

    def _fit(self, replies: list[Any]) -> bool:
        """Whether these small replies surely fit the framings, whichever are
        whose."""
        if self._reply_limit >= UNLIMITED:
            return len(replies[0]) <= LARGE_PIECE
        only = self._only_framing
        if isinstance(only, Fixed):
            return set(map(len, replies)) == {only.size}
        return max(map(len, replies)) <= min(self._reply_limit, LARGE_PIECE)

    def _take_large(self, id: int, data: bytes) -> None:
        """Log a piece that wants a look: at its framing's limit, or at how
        much the log holds, which must stay bounded inside a handler too."""
        self._check_reply(id, len(data))
        self._log.settle()
        self._log.entries += (id, data)
        if len(data) > LARGE_PIECE:
            self._log.large += len(data)
            if self._log.large > SUBMIT_OVER:
                self._hand_over_log()

    def send_many(self, conns: Iterable[Connection], data: Buffer) -> int:
        """Send one message to many connections.

        Slow readers share one copy of it.

        Args:
            conns: connections of this mux; those that no longer take output
                are passed over.
            data: bytes-like; what it holds now is sent.

        Returns:
            How many took it.

        Raises:
            TypeError: for what is not bytes-like; a str must be encoded.
            ValueError: a connection of another mux, or one whose framing
                cannot carry it; nothing is sent.
        """
        self._check()
        data = as_bytes(data)
        ids = []
        for conn in conns:
            if conn.mux is not self:
                raise ValueError(f"{conn!r} belongs to another mux")
            if conn._status == OPEN:
                ids.append(conn.id)
        if len(data) > self._reply_limit:
            for id in ids:
                self._check_reply(id, len(data))
        if ids:
            whose = ffi.new("uint64_t[]", ids)
            self._log.special((SHARED | len(ids), whose, b"", data, None))
            self._log.large += len(data)
            if self._log.large > SUBMIT_OVER:
                self._hand_over_log()
        return len(ids)

    def _queued(self, id: int) -> int:
        """What the core has queued for it, and what is still in the log."""
        if self._c is None:
            return 0
        self._check()
        queued = int(lib.pmx_queued(self._c, id))
        if queued == UNLET:
            raise busy()
        return queued + self._log.queued(id)

    def _hand_over_log(self) -> None:
        """It has grown long inside a handler. A coroutine that drains waits for
        the next turn now: only then the mux learns what became of the peer."""
        self._handed_over = self._gil.turns
        self._submit()

    def _submit(self) -> None:
        """Hand the log to the core, which sends what can be sent."""
        if self._in_core:
            return  # a signal's handler: the harvest is at it
        log = self._log
        log.settle()
        count = log.ready_to_submit() if self._dispatching else len(log.entries)
        if count:
            _keep = log.lay_out_blocks(self._turn, count)
            taken = True
            try:
                if lib.pmx_submit(self._turn) == BUSY:
                    taken = False
                    raise busy()
            finally:
                if taken:
                    del log.entries[:count]
                    log.large = log.seen = 0
                    if not log.entries:
                        log.specials = 0

    # --- harvesting -------------------------------------------------------

    def harvest(
        self,
        timeout: float | None = None,
        *,
        min_messages: int = 1,
        max_delay: float = 0.0,
    ) -> Batch:
        """Send what is queued, wait, and take in everything that is ready.

        Returns when there is anything to report, at the timeout, at a
        `wakeup`, or after running a due timer or threadsafe call; then the
        batch may be empty. A signal whose handler does not raise does not end
        it; if one raises, the next harvest returns what was received.

        Args:
            timeout: seconds; 0 does not wait, None waits for ever.
            min_messages: once there is a message, wait for so many,
            max_delay: but at most so many seconds.

        Returns:
            A `Batch`, valid until the next harvest.

        Raises:
            RuntimeError: inside a handler or timer, in another thread than
                the first harvest's, after `close()`, in a forked child.
            ValueError: a negative timeout.
        """
        deadline = None
        if timeout is not None:
            span = seconds("timeout", timeout)
            deadline = time.monotonic() + span / NS
        delay = 0
        if type(min_messages) is not int or min_messages != 1:
            min_messages = check_min_messages(min_messages)
        if type(max_delay) is not float or max_delay:
            delay = max(seconds("max_delay", max_delay), 0)
        batch: Batch = self._harvest(deadline, min_messages, delay)
        self._unreturned = False
        return batch

    def _harvest(
        self,
        deadline: float | None,
        min_messages: int,
        delay_ns: int,
        bare: bool = False,
    ) -> Any:
        """A `Batch`; or, where bare and there is nothing but messages, what
        `pmx_exchange` returned, for `Dispatcher.plain`."""
        if self._owner != get_ident() or self._c is None:
            self._claim()
        if self._dispatching or self._harvesting:
            raise RuntimeError("harvest() cannot be called in a handler or timer")
        try:
            self._harvesting = True  # a signal's handler may neither close nor harvest
            result = self._take_turns(deadline, min_messages, delay_ns)
            what: Any
            if self._c is None:  # a call, or a signal's handler, has closed it
                what = Batch(self, self._arena, 0, None, False)
            elif bare and not result & UNUSUAL:
                self._unreturned = False
                what = result
            else:
                what = self._hand_over(result)
            return what
        finally:  # whatever a signal's handler that raised has left behind
            self._harvesting = self._in_core = self._dispatching = False
            if self._close_asked:
                self._close_now()

    def _take_turns(
        self, deadline: float | None, min_messages: int, delay_ns: int
    ) -> int:
        """Turns of the core, until there is a reason to return: what
        `pmx_exchange` returned."""
        if self._c is None:  # a signal's handler closed it just now
            self._check()
        turn = self._turn
        if self._unreturned:  # a signal's handler, or a timer's call, raised
            if turn.reason & lib.PMX_ROWS:
                return int(turn.reason | turn.messages << MESSAGES)
            self._unreturned = False
        if self._valid:
            self._forget_batch()
        if (
            self._stale
            or (self._arena.exporter is not None and self._arena.held())
            or min_messages != self._min_messages
            or delay_ns != self._delay_ns
        ) and not turn.reason & lib.PMX_GATHERING:
            self._tell(min_messages, delay_ns)
        log, entries, gil = self._log, self._log.entries, self._gil
        looked = ran = False
        result: int
        while True:
            span = -1
            if (
                deadline is not None
                or self._timers.heap
                or self._calls
                or self._woken  # and the byte that said so may have been read
            ):
                span = self._span(deadline)
            fd = self._signal_fd
            if span and fd != SIGNALS.holder and fd != -1:
                self._watch_signals()
            shape = 0
            ids = bounds = data = b""
            hold = None
            try:
                self._in_core = True  # a signal's handler may send, no more
                count = len(entries)
                if count == 2 and type(entries[1]) is bytes:
                    shape, ids, data = 1, ONE_ID(entries[0]), entries[1]
                elif count:
                    shape, ids, bounds, data, _keep = log.lay_out(turn, count)
                if gil.left and not looked:
                    looked = True
                    hold, where, *what = gil.arguments(span, shape, ids, bounds, data)
                taken = True
                try:
                    if hold is not None:
                        result = hold(where, *what)
                    else:
                        size = len(data)
                        result = EXCHANGE(turn, span, shape, ids, bounds, data, size)
                        if not gil.turns & LOOK_EVERY:
                            gil.look()
                            if self._counts.shortages != self._shortages:
                                self._warn_of_pause()
                    if result == BUSY:
                        taken = False
                except BaseException:  # before the core was called?
                    taken = self._counts.harvests != gil.turns
                    raise
                finally:  # nothing is called here before all of it is noted
                    if taken:
                        self._unreturned = True
                        gil.turns += 1
                        if count:
                            del entries[:count]
                            log.large = log.seen = 0
                            if not entries:  # else a signal's handler has sent
                                log.specials = 0
                    else:
                        turn.block_count = 0
            finally:
                self._in_core = False
                if self._lends_signals:
                    self._restore_signals()
            if self._close_asked:  # by a signal's handler
                self._close_now()
                return 0
            if result < 0:
                self._unreturned = False
                gil.turns = self._counts.harvests
                if result == BUSY:
                    raise busy()
                if result == SHUT:
                    raise RuntimeError("the mux is closed")
                raise OSError(-result, meaning(-result))
            if not ran and (self._timers.heap or self._calls):
                ran = self._run_due()
            if self._c is None:  # a call has closed it
                return 0
            over = deadline is not None and time.monotonic() >= deadline
            if result & lib.PMX_GATHERING and not self._gathers:
                if ran or self._woken or over:
                    deadline = 0.0  # what there is now
            elif result & REPORT or ran or self._woken or span == 0 or over:
                break
            self._unreturned = False
            if self._counts.shortages != self._shortages:
                self._warn_of_pause()
        self._woken = False
        return result

    def _tell(self, min_messages: int, delay_ns: int) -> None:
        """Set the fields of the turn that rarely change: to set one costs as
        much as a call."""
        self._arena = self._arenas.ready()
        turn = self._turn
        turn.arena = self._arena.c
        leave = self._leave_gaps and self._lines is not None
        if (
            min_messages != self._min_messages
            or delay_ns != self._delay_ns
            or leave is not self._leaves_gaps
        ):
            if lib.pmx_configure(self._c, 0, min_messages, delay_ns, leave):
                raise busy()
            self._min_messages, self._delay_ns = min_messages, delay_ns
            self._leaves_gaps = leave
        self._gap = self._lines.delimiter if leave and self._lines else None
        self._stale = False

    def _want_gaps(self, wanted: bool) -> None:
        """Whether the batches to come are to have their delimiters in place."""
        if wanted is not self._leave_gaps:
            self._leave_gaps = wanted
            self._stale = True

    def _span(self, deadline: float | None) -> int:
        """Nanoseconds until the deadline or the next timer; -1 for ever."""
        if self._calls or self._woken:
            return 0
        if self._timers.heap:
            timer = self._timers.next()
            if timer is not None and (deadline is None or timer < deadline):
                deadline = timer
        if deadline is None:
            return -1
        return max(math.ceil((deadline - time.monotonic()) * NS), 0)

    def _serve(self, deadline: float | None, dispatcher: Dispatcher) -> None:
        """Dispatch one harvest. May close the mux."""
        minimum, delay = dispatcher.min_messages, dispatcher.delay_ns
        what = self._harvest(deadline, minimum, delay, True)
        if self._c is None:
            return
        try:
            self._unreturned = False
            self._dispatching = True
            if type(what) is not int:
                dispatcher(what)
            elif what > REASONS:
                dispatcher.plain(what)
            if self._late:
                self._run_late()
            elif self._counts.shortages != self._shortages:
                self._warn_of_pause()
        finally:
            self._dispatching = False
            if self._batch is not None:  # valid on, for a handler that kept it
                batch, self._batch = self._batch, None
                self._forget_closed(batch)
            if self._close_asked:
                self._close_now()

    def _run_late(self) -> None:
        """Timeouts of coroutines to which this batch brought nothing."""
        while self._late and self._c is not None:
            task, timer, timeout = self._late.pop(0)
            task.time_out(timer, timeout)

    def _forget_batch(self) -> None:
        """The last batch is over."""
        self._valid = 0
        batch, self._batch = self._batch, None
        if batch is not None:
            self._forget_closed(batch)

    def _forget_closed(self, batch: Batch) -> None:
        """Those that it reports as closed are, for good."""
        if not batch._others or self._c is None:
            return
        for conn, _ in batch.closed:
            conn._status = CLOSED
            slot = conn.id & 0xFFFFFFFF
            if self._table[slot] is conn:
                self._table[slot] = None

    def _hand_over(self, result: int) -> Batch:
        """The batch that the core has received. May be begun again, where a
        signal's handler raised before the caller has noted (`_unreturned`) that
        it has the batch."""
        arena = self._arena
        others = False
        if result & UNUSUAL:
            if result & lib.PMX_LARGE:
                arena = self._arenas.adopt(self._turn.arena)
                self._stale = True
            others = bool(result & lib.PMX_OTHER_ROWS)
        gap = self._gap if result & GAPS else None
        batch = self._kind_of_batch(self, arena, result >> MESSAGES, gap, others)
        if others:
            if self._filled != self._gil.turns:  # else begun again: count anew
                self._ends_before = self._ends
                self._filled = self._gil.turns
            self._ends = self._fill(batch, self._turn)
        self._batches += 1
        batch._number = self._valid = self._batches
        # One with nothing in it is not kept: it would hold a mux that is dropped.
        self._batch = batch if others or batch._rows else None
        return batch

    def _fill(self, batch: Batch, turn: Any) -> dict[int, int]:
        """What happened beside messages; the errnos of all ends so far."""
        ends = self._ends_before
        conn = self._conn
        batch.opened = [conn(turn.opened[k]) for k in range(turn.opened_count)]
        batch.drained = [conn(turn.drained[k]) for k in range(turn.drained_count)]
        batch.ended = [conn(turn.ended[k]) for k in range(turn.ended_count)]
        batch._idle = [conn(turn.idle[k]) for k in range(turn.idle_count)]
        for k in range(turn.closed_count):
            row = turn.closed[k]
            gone = conn(row.id)
            error = error_from(row.error)
            if error is not None:
                error.__cause__ = self._causes.pop(row.id, None)
            if gone._status != CLOSED:
                gone._status = GONE
            keep_names(gone, row.names)
            if self._stopped is not None and lib.pmx_stopping(self._c, row.id) == 1:
                self._stopped.add(row.id)
            batch.closed.append((gone, error))
            if error is not None:
                if ends is self._ends_before:
                    ends = ends.copy()
                ends[row.error] = ends.get(row.error, 0) + 1
                if LOGGER.isEnabledFor(logging.DEBUG):
                    log_end(gone, error)
        if self._counts.shortages != self._shortages:
            self._warn_of_pause()
        return ends

    def _warn_of_pause(self) -> None:
        """Accepting pauses for want of descriptors or memory: a line for each
        pause, but not more than one in so many seconds."""
        now, pauses = time.monotonic(), self._counts.shortages
        if now >= self._warn_at:
            self._warn_at = now + WARN_EVERY
            why = self._os_error(int(self._counts.shortage), "").args[1]
            LOGGER.warning(
                "%s: accepting pauses, peers wait in the backlog (%d times so far): %s",
                repr(self),
                pauses,
                why,
            )
        self._shortages = pauses

    # --- waking, timers ---------------------------------------------------

    def wakeup(self) -> None:
        """Make the harvest that waits, or the next one, return.

        Any thread may call it; after `close()` it does nothing.
        """
        if self._owner == FORKED:
            self._check()
        with self._lock:
            if self._c is not None and not self._woken:
                self._woken = True
                lib.pmx_wakeup(self._c)

    def call_threadsafe(self, fn: Callable[..., Any], *args: Any) -> None:
        """Call ``fn(*args)`` in the mux's thread, in its next harvest.

        Any thread may call it; that harvest then returns. What it raises comes
        out of the harvest, or goes to the server's `on_error`.

        Args:
            fn: the callable.
            args: for it.

        Raises:
            TypeError: `fn` cannot be called.
            RuntimeError: the mux is closed.
        """
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        if self._owner == FORKED:
            self._check()
        with self._lock:
            if self._c is None:
                raise RuntimeError("the mux is closed")
            self._calls.append((fn, args))
            lib.pmx_wakeup(self._c)

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        """Call ``fn(*args)`` during a harvest, `delay` seconds from now.

        What it raises comes out of the harvest, or goes to the server's
        `on_error`.

        Args:
            delay: seconds; 0 or less means the next harvest.
            fn: the callable.
            args: for it.

        Returns:
            A `Timer`; its `cancel()` forgets the call.

        Raises:
            TypeError, ValueError: a delay that is no number; `fn` cannot be
                called.
        """
        self._check()
        return self._timers.add(delay, fn, args)

    def _run_due(self) -> bool:
        """Run what is due now, but not what is set meanwhile, which may be due
        at once on a coarse clock; whether anything was."""
        ran = False
        now, newest = time.monotonic(), self._timers.made
        for _ in range(len(self._calls)):
            if not self._calls:  # one of them has closed the mux
                break
            fn, args = self._calls.popleft()
            self._run(fn, args)
            ran = True
        while (due := self._timers.pop_due(now, newest)) is not None:
            self._run(*due)
            ran = True
        return ran

    def _run(self, fn: Any, args: Any) -> None:
        was, self._dispatching = self._dispatching, True
        try:
            fn(*args)
        except BaseException as error:
            if self._on_callback_error is None or isinstance(error, FATAL):
                raise
            self._on_callback_error(error)
        finally:
            self._dispatching = was
            if self._close_asked and not was:
                self._close_now()

    def _leave(self, error: BaseException) -> None:
        """A handler raised what is to leave pymux. Here it does so at once."""
        raise error

    # --- signals ----------------------------------------------------------

    def _watch_signals(self) -> None:
        """Let a signal wake a wait that it came just before, which would
        sleep it out. Only the main thread can."""
        fd = -1
        main = threading.main_thread()
        if self._wakeup_fd >= 0 and threading.current_thread() is main:
            fd = SIGNALS.add(self._wakeup_fd, self._takes_signals)
        self._signal_fd = fd  # last: a handler that raised before is no refusal

    def _restore_signals(self) -> bool:
        """Whether our descriptor may be closed: no signal writes to it."""
        fd, self._signal_fd = self._wakeup_fd, None
        if fd not in SIGNALS.ours:  # a handler that raised may have left it there
            return True
        if threading.current_thread() is not threading.main_thread():
            return False  # dropped, and collected in another thread: leak it
        SIGNALS.remove(fd)
        return True

    # --- looking inside ---------------------------------------------------

    def fileno(self) -> int:
        """The poller's descriptor, for another event loop to watch.

        It is readable when a harvest would have something, except for the
        work that `next_timeout()` tells of.

        Raises:
            BackendUnavailable: poll and select have none.
        """
        self._check()
        fd = lib.pmx_fileno(self._c)
        if fd == BUSY:
            raise busy()
        if fd < 0:
            able = [name for name in backends() if name in WATCHABLE]
            raise BackendUnavailable(
                -fd,
                f"backend {self._name} has no descriptor to watch; "
                f"use {' or '.join(able) or 'epoll or kqueue'}",
            )
        return int(fd)

    def next_timeout(self) -> float | None:
        """Seconds until a harvest is needed whatever `fileno()` says.

        Returns:
            0 where there is something to do now (buffered messages, unsent
            output), None where there is nothing to wait for.
        """
        self._check()
        if self._log.entries or self._unreturned:
            return 0.0
        ours = self._span(None)
        core = lib.pmx_next_timeout(self._c)
        if core == BUSY:
            raise busy()
        spans = [span for span in (ours, core) if span >= 0]
        return min(spans) / NS if spans else None

    def stats(self) -> Stats:
        """Figures of this mux; after `close()`, the last ones."""
        if self._last_stats is None:
            self._check()
        return self._figures()

    def _figures(self) -> Stats:
        """The same, for any thread."""
        with self._lock:
            return self._last_stats or self._read_stats()

    def _read_stats(self) -> Stats:
        counts = self._counts
        stats = Stats(self._name, **{name: getattr(counts, name) for name in COUNTED})
        stats.arenas_held = self._arenas.held()
        stats.ends = self._ends.copy()
        if self._owner == get_ident():  # else the core may be taking the log
            stats.queued += self._log.size()
        return stats
