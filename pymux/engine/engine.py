"""The engine: the state that all objects of a mux share.

An engine is made of layers, each a class on the one before: `Owned` (which thread
may call), `Output` (the log), `Turns` (calls into the core), `Connections`,
`Stops`, `Batches`, and `Engine` (open and close, figures). Users' objects (`Mux`,
`Connection`, `Batch`) call the engine; the engine knows them by `Objects` alone.

The words of this house:

turn        one call into the core
harvest     turns, until one has something to report
batch       the result of a harvest: rows, and news of connections
row         a message of a batch
arena       the memory of a batch; the core cuts messages there in place
log         messages and operations since the last turn, in order
piece       bytes in the log: one message
block       pieces of one layout, as the core takes them
layout      how a block says where its pieces begin and end (`enum pmx_cut`)
op          an operation on a connection, other than to send: pause, close, switch
gap         the delimiter that is kept between messages of a batch
gather      wait for `min_messages`
service     the connections of one handler; the rows of a batch are of one service
dispatch    call a service's handler with the messages and news of a batch
hold        pause reading because messages were not taken (backpressure)
owe         let the answers to a batch come later; the debt is these answers
adopt       take over an arena or a connection that another part has made
switch      change the framing in mid-stream
drain       handle the input that has arrived, and stop
dialled     made by this side: an outgoing connection
given       handed over: a socket to the mux, a row to its handler
foreign     of a descriptor that the mux only watches, for the user
lease       who needs an arena: its owner, and Arrow arrays (csrc/arena.c)
"""

from __future__ import annotations

import errno
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from ..values.addresses import format_address
from ..values.errors import BackendUnavailable
from ..values.stats import COUNTED, Stats
from .arena import Arenas
from .backends import WATCHABLE, backends, choose, unavailable
from .batches import Batches
from .connections import Objects
from .notices import only, tell
from .openssl import NO_SSL, openssl_version
from .os_errors import meaning
from .owner import BUSY, FORKED, busy
from .state import DISPATCHING, IDLE
from .structs import from_core
from .timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .owed import Debts
    from .tls import Tls

__all__ = ["Engine", "Objects"]


# What happens to peers where a limit of a listener is reached.
LIMITED = {
    "max_connections": "peers wait in the backlog",
    "max_per_peer": "the peer is refused",
    "max_handshakes": "peers wait in the backlog",
}


# Why a peer of a listener with `proxy` was refused, by the core's errno.
UNPROXIED = {
    errno.EACCES: "the peer is not trusted to send a PROXY header",
    errno.EPROTO: "what the peer has sent is no PROXY header",
    errno.ETIMEDOUT: "the peer has sent no PROXY header in time",
}


def _no_mux() -> None:
    """Return None: the engine has no mux yet."""


class Engine(Batches):
    """The state of one mux.

    Attributes:
        on_close: called before the core closes.
        on_closed: called when it has closed.
        mux: returns the mux of this engine, or None if the mux is gone. A dropped
            mux closes its engine, so the engine does not keep the mux alive.
    """

    batch: Any
    c: Any
    debts: Debts | None
    close_asked: bool
    handlers: Any
    on_callback_error: Callable[[BaseException, str], None] | None
    timers: Timers
    tls: Tls | None

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
        """Open the core, then call `join` with the engine, which gives it a mux.

        If a signal handler raises meanwhile, the core is closed.
        """
        self.c = None
        name = choose(backend) or ffi.NULL
        # If a signal handler raises, the core is disposed of with its place.
        self._place = ffi.gc(ffi.new("pmx_mux **"), lib.pmx_dispose)
        try:
            error = self._open(name, max_messages, arena_size, spin_ns)
            if error:
                raise unavailable(backend, -error)
            c = self._place[0]
            super().__init__(c, self.new_arenas(arena_size, max_messages), objects)
            self.mux: Callable[[], Any] = _no_mux
            self.on_close: Callable[[], None] | None = None
            self.on_closed: Callable[[], None] | None = None
            self._last_stats: Stats | None = None
            if join is not None:
                join(self)
            self.c = c  # last: now the engine is open
        except BaseException:
            self.c = None
            lib.pmx_dispose(self._place)
            raise

    def _open(self, name: Any, max_messages: int, arena_size: int, spin_ns: int) -> int:
        """Open the core in its place; return 0 or -errno."""
        return int(lib.pmx_open(self._place, name, max_messages, arena_size, spin_ns))

    def _new_tls(self) -> Tls:
        if openssl_version() is None:
            raise BackendUnavailable(errno.ENOTSUP, NO_SSL)
        from .tls import Tls

        return Tls(self.c, self.opening)

    def new_arenas(self, arena_size: int, max_messages: int) -> Arenas:
        """Return the memory of batches."""
        return Arenas(arena_size, max_messages)

    # --- life -------------------------------------------------------------

    def after_fork(self) -> None:
        if self.state is DISPATCHING and self.thread == get_ident():
            for conn in self.table:  # the parent's handlers serve them
                if conn is not None:
                    self.objects.end(conn)
        super().after_fork()

    def is_used(self) -> bool:
        """True if a mux that is dropped unclosed shall warn."""
        return True

    def forked(self) -> bool:
        """True if this process is a fork of the one that opened the core."""
        return bool(lib.pmx_forked(self.c))

    def close(self) -> None:
        """Close at once; during a harvest or dispatch, at its end."""
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
                if self.c is None:  # a handler closed it meanwhile
                    return
                self.submit()
            except MemoryError:
                self.free()
                raise
            self.free()
            on_closed, self.on_closed = self.on_closed, None
            if on_closed is not None:
                on_closed()
            self.notices.flush()
        self.close_asked = False

    def free(self) -> None:
        """Close the core and clear the engine. After an interrupt, call it again."""
        if self.thread != FORKED:
            for conn in self.table:  # not in a child: they are the parent's
                if conn is not None:
                    self.objects.leave(self, conn)
        turn = self.turn
        if self.received and turn.reason & lib.PMX_LARGE:
            self.arenas.adopt(turn.arena)  # no batch will
            self.received = False
        with self.lock:
            last = self._read_stats()
            last.connections = last.listeners = last.queued = last.buffers = 0
            if not self._restore_signals():
                self._leave_wakeup()
            # The core unmaps the file in which it counts; an interrupt may come then.
            self.counts = ffi.new("pmx_stats *", self.counts[0])
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
            self.dialled.clear()
            self.log.entries.clear()
            for timer in self.timers.heap:  # a kept timer keeps no callable alive
                timer.cancel()
            self.timers.heap.clear()
            self.timers = Timers()
            self.calls.clear()
            for watch in self.watches.values():
                watch._forget()
            self.watches.clear()
            self.ready.clear()
            self.late.clear()
            self.between.clear()
            if self.tls is not None:
                self.tls.forget_all()
                self.tls = None
            # These lead to dispatchers, which know the engine: break the cycles.
            self.on_callback_error = self.on_close = self.handlers = None
            for service in self.services:
                service.dispatcher = None
            self.opening.clear()
            self.debts = None
            self.rooms.end(self, self.thread == FORKED)
            self.c = None

    # --- looking inside ---------------------------------------------------

    def fileno(self) -> int:
        """Return the poller's descriptor.

        Raises:
            BackendUnavailable: the backend has no descriptor.
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

    def woken_fileno(self) -> int:
        """Return the descriptor that a wakeup makes readable."""
        return int(lib.pmx_woken_fd(self.c))

    def has_last_stats(self) -> bool:
        """True if the engine has closed and kept its last figures."""
        return self._last_stats is not None

    def stats(self) -> Stats:
        """Return the figures; after the close, the last ones. Any thread may call."""
        with self.lock:
            return self._last_stats or self._read_stats()

    def _read_stats(self) -> Stats:
        counts = self.counts
        stats = Stats(self.name, **{name: getattr(counts, name) for name in COUNTED})
        stats.arenas_held = self.arenas.held()
        stats.ends = self.ends.copy()
        if self.thread == get_ident():  # in other threads the log may change
            stats.queued += self.log.size()
        return stats

    def count_in(self, file: int, offset: int) -> None:
        """Count in a file that others may read, until the engine closes.

        Args:
            file: its descriptor, which may be closed afterwards.
            offset: bytes before the figures, which are `figures.SIZE` bytes.

        Raises:
            OSError: the file cannot be mapped.
        """
        self.check()
        with self.lock:
            self.counts = ffi.new("pmx_stats *", self.counts[0])  # as in `free`
            error = lib.pmx_count_in(self.c, file, offset)
            self.counts: Any = lib.pmx_counts(self.c)
            if error == BUSY:
                raise busy()
            if error:
                raise OSError(-error, meaning(-error))

    def wakes(self, sock: int) -> None:
        """Send a byte to a socket at the end of the first turn after the figure
        `asleep` was set, in the file of `count_in`.

        Args:
            sock: a descriptor of a connected socket, which stays open until the engine
                closes.
        """
        self.check()
        if lib.pmx_wakes(self.c, sock) == BUSY:
            raise busy()

    def warn_of_peers(self) -> None:
        """Warn that peers wait in the backlog, since the process is short of something
        or a listener has max_connections or max_handshakes; or that some were
        refused."""
        counts = self.counts
        pauses, shortages = counts.accept_pauses, counts.shortages
        refused = counts.refused_per_peer
        if shortages != self._shortages:
            self._warn_of_shortage(int(counts.shortage), int(shortages))
        busy = counts.handshake_pauses
        if busy != self._busy:
            self._warn_of_limit(int(counts.busy), "max_handshakes", 1)
        full = pauses - shortages - busy
        if full != self._pauses - self._shortages - self._busy:
            self._warn_of_limit(int(counts.full), "max_connections", 1)
        if refused != self._refused:
            more = refused - self._refused
            self._warn_of_limit(int(counts.refuser), "max_per_peer", more)
        unproxied = counts.proxy_refused
        if unproxied != self._unproxied:
            self._warn_of_header(unproxied - self._unproxied)
        self._unproxied = unproxied
        self._pauses, self._shortages, self._refused = pauses, shortages, refused
        self._busy = busy

    def _warn_of_shortage(self, number: int, times: int) -> None:
        """Warn that no listener accepts, for want of descriptors or memory."""
        where = [format_address(one) for one in self._addresses()]
        text = f"accepting pauses at {', '.join(where)}, peers wait in the backlog"
        local = only(self._addresses())
        if self.may_tell("shortage", "shortage", text, local=local):
            why = self.os_error(number, "").args[1]
            far = "the first time" if times == 1 else f"{times} times so far"
            tell("shortage", "%s (%s): %s", text, far, why, local=local)

    def addresses_of(self, dispatcher: Any) -> Any:
        """Return the address of the listeners of a handler; a list of several; None
        without a listener, or when the core cannot be asked."""
        return only(self._addresses(dispatcher))

    def _addresses(self, dispatcher: Any = None) -> list[Any]:
        """List the addresses of all listeners, or of those of one handler."""
        if self.c is None or self.thread != get_ident():
            return []
        found = []
        for id, (service, _) in list(self.listening.items()):
            if dispatcher in (None, self.services[service].dispatcher):
                found.append(self.listener_address(id))
        return [one for one in found if one is not None]

    def _warn_of_limit(self, id: int, name: str, count: int) -> None:
        """Warn that a listener has max_connections, or a peer of it max_per_peer."""
        if self.notices.counts((name, id), count):
            return
        service, limits = self.listening.get(id, (0, {}))
        local = self.listener_address(id)
        handler = self.services[service].handler_name
        text = f"{name}, {limits.get(name, 0)}, is reached, {LIMITED[name]}"
        about = {"local": local, "handler": handler}
        if not self.may_tell((name, id), "limit", text, count=count, **about):
            return
        if name == "max_per_peer":
            peer = self._refused_peer()
            text += f" (%s; refused so far: {self.counts.refused_per_peer})"
            tell("limit", text, peer and peer[0], peer=peer, **about)
        else:
            tell("limit", text, **about)

    def _warn_of_header(self, count: int) -> None:
        """Warn that peers were refused by a listener with `proxy`."""
        names = ffi.new("pmx_address[2]")
        if lib.pmx_refused_header(self.c, names):
            return
        peer, local = from_core(names[0]), from_core(names[1])
        why = UNPROXIED.get(int(self.counts.proxy_error), "no PROXY header")
        options = {"count": count, "local": local}
        if not self.may_tell(("proxy", local, why), "proxy", why, **options):
            return
        text = "%s (%s at %s; refused so far: %d)"
        shown = format_address(peer), format_address(local)
        more = int(self.counts.proxy_refused)
        tell("proxy", text, why, *shown, more, peer=peer, local=local)

    def _refused_peer(self) -> Any:
        """Return the address of the last peer that had max_per_peer."""
        name = ffi.new("pmx_address *")
        error = lib.pmx_refused_peer(self.c, name)
        return None if error else from_core(name)

    def look_at_time(self, took: float, what: str) -> None:
        """Warn of a call that took longer than `slow_after`."""
        most = self.slow_after
        if most is None or took <= most:
            return
        what += " (or a hook, or a coroutine that went on)"
        if self.may_tell(("slow", what), "slow", f"{what} was slow"):
            text = (
                "%s took %.3f s, and nobody was served meanwhile (slow_handler is %g s)"
            )
            tell("slow", text, what, took, most)

    def may_tell(self, key: Hashable, event: str, text: str, **options: Any) -> bool:
        """True if an event is to be told now and not only counted: see `Notices`."""
        timers = self.timers if self.c is not None else None
        return self.notices.is_due(timers, key, event, text, **options)

    def describe(self) -> str:
        """Describe the mux, for its repr and for logging."""
        with self.lock:  # another thread may be closing the engine
            if self.c is None:
                return f"<Mux {self.name}, closed>"
            return f"<Mux {self.name}, {self.counts.connections} connections>"
