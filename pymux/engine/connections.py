"""The connections of an engine, and their services."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from .._core import ffi, lib
from ..values.errors import BackendUnavailable
from ..values.framing import Framings, Raw, Splitter
from .arena import Arenas
from .backends import select_limit
from .given import GivenPipe, adopt_socket, listen_on
from .ops import ABORT, SWITCH
from .os_errors import error_from, meaning
from .owed import Debts
from .owner import BUSY, busy
from .rooms import Rooms
from .services import Dispatcher, ServiceState
from .splitting import Splitting
from .structs import fill_framing, from_core
from .turn import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tls import Tls

__all__ = ["Connections", "Objects"]


class Objects(Protocol):
    """Makes and ends the users' objects of an engine."""

    @property
    def connection(self) -> Callable[[Any, int], Any]:
        """Make the object of a connection: (engine, id)."""

    @property
    def batch(self) -> Callable[[Any, Any, int, bytes | None, bool, int], Any]:
        """Make a batch of `engine.serving`: (engine, arena, rows, gap, news, number).

        `news` is true if the turn has more than messages.
        """

    def forget(self, engine: Any, batch: Any) -> None:
        """Forget the connections that a batch with news reported as closed."""

    def answer(self, conn: Any, data: bytes) -> None:
        """Log what a handler returned, even if the handler closed `conn`."""

    def fail(self, conn: Any, error: BaseException | None) -> None:
        """End a connection; `error` is the cause."""

    def leave(self, engine: Any, conn: Any) -> None:
        """Before the core closes, keep what `conn` tells after its end."""

    def end(self, conn: Any) -> None:
        """Mark `conn` closed: the core has closed, or belongs to a parent process."""


class Connections(Turns):
    """The fourth layer of an engine: connections, listeners, services.

    Attributes:
        name: the backend's.
        objects: makes the users' objects.
        table: connections, by slot.
        buffers: the `ReceiveBuffer` of each connection, by slot; may be shorter.
        causes: exceptions that ended connections, by id.
        opening: ids of outgoing and adopted connections that have not opened yet.
        listening: the service number and the limits of listeners, by id.
        stays: ids of connections that must not move to another mux, unless their
            handler has `taken`: members of a group.
        serving: the service of the last batch.
        debts: answers that are owed to connections, once there have been any.
        rooms: the groups that connections are in; whose members `stays` names.
        unused: numbers of services that may have no connection left.
    """

    name: str
    serving: ServiceState
    stale: bool
    tls: Tls | None

    def __init__(self, c: Any, arenas: Arenas, objects: Objects) -> None:
        super().__init__(c, arenas)
        self.name = str(ffi.string(lib.pmx_name(c)).decode())
        self.objects = objects
        self.log.answer_one = objects.answer
        self.table: list[Any] = []
        self.buffers: list[Any] = []
        self.causes: dict[int, BaseException] = {}
        self.opening: set[int] = set()
        self.listening: dict[int, tuple[int, dict[str, int]]] = {}
        self.serving = self.services[0]
        self.unused: list[int] = []
        self.splitting: Splitting | None = None
        self.debts: Debts | None = None
        self.rooms: Rooms = Rooms()
        self.stays: set[int] = self.rooms.stays

    def listen(
        self,
        make: Callable[[int, Any], Any],
        where: Any,
        policy: Any,
        framings: Framings,
        *,
        backlog: int,
        reuse_port: bool,
        mode: int,
        shown: str,
    ) -> Any:
        """Listen; return what `make` makes of the id and the core's address.

        If `make` raises, or a signal handler before it, the listener is closed.
        """
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
            self.note_policy(policy, framings)
            name = ffi.new("pmx_address *")
            if lib.pmx_listener_address(self.c, id_[0], name) == BUSY:
                raise busy()
            self.listening[id_[0]] = (
                policy.service,
                {
                    "max_connections": policy.max_connections,
                    "max_per_peer": policy.max_per_peer,
                    "max_handshakes": policy.max_handshakes,
                },
            )
            return make(id_[0], name)
        except BaseException:  # of a signal handler, too
            if id_[0]:
                lib.pmx_unlisten(self.c, id_[0])
                self.listening.pop(id_[0], None)
            raise

    def listen_beside(
        self,
        make: Callable[[int], Any],
        id: int,
        where: Any,
        *,
        backlog: int,
        reuse_port: bool,
    ) -> int:
        """Listen on another address with the policy of a listener.

        `make` gets the new id. Returns 0, or an errno; then `make` was not called.
        """
        id_ = ffi.new("uint64_t *")
        try:
            error = lib.pmx_listen_beside(self.c, where, id, backlog, reuse_port, id_)
            if error < 0:
                return int(-error)
            self.listening[id_[0]] = self.listening[id]
            make(id_[0])
            return 0
        except BaseException:  # of a signal handler
            if id_[0]:
                lib.pmx_unlisten(self.c, id_[0])
                self.listening.pop(id_[0], None)
            raise

    def trust(self, networks: list[tuple[int, int, bytes]]) -> int:
        """Return the core's number of networks: (family, bits, address) each."""
        c = ffi.new("pmx_network[]", len(networks))
        for one, (family, bits, ip) in zip(c, networks):
            one.family, one.bits = family, bits
            ffi.buffer(one.ip)[: len(ip)] = ip
        number = int(lib.pmx_trust(self.c, c, len(networks)))
        if number < 0:
            raise self.os_error(-number, "the networks of proxy")
        return number

    def note_policy(self, policy: Any, framings: Framings) -> None:
        """Prepare a service for connections with this policy and these framings."""
        service = self.services[policy.service]
        service.high_water = min(service.high_water, policy.high_water)
        self.note_framings(policy.service, framings)

    def unlisten(self, id: int) -> None:
        """Close a listener."""
        if lib.pmx_unlisten(self.c, id) == BUSY:
            raise busy()
        self.listening.pop(id, None)

    def set_most(self, id: int, most: int) -> None:
        """Let a listener that has `max_connections` have so many from now on."""
        if lib.pmx_set_most(self.c, id, most) == BUSY:
            raise busy()
        self.listening[id][1]["max_connections"] = most

    def listener_address(self, id: int) -> Any:
        """Return the address of a listener, or None if it has closed."""
        name = ffi.new("pmx_address *")
        error = lib.pmx_listener_address(self.c, id, name)
        return None if error else from_core(name)

    def dial(self, found: Any, policy: Any, framings: Framings, shown: str) -> Any:
        """Connect to resolved addresses; return the connection."""
        where, count, _keep = found
        return self._begin(
            lambda id_: lib.pmx_connect(self.c, where, count, policy, id_),
            policy,
            framings,
            shown,
        )

    def adopt(
        self, given: socket.socket | GivenPipe, policy: Any, framings: Framings
    ) -> Any:
        """Make a connection of what the core then owns."""

        def begin(id_: Any) -> int:
            if given.fileno() in self.watches:
                text = "the mux watches this descriptor already; close the watch first"
                raise FileExistsError(errno.EEXIST, text, repr(given))
            if isinstance(given, GivenPipe):
                return given.adopt(self.c, self.log, policy, id_)
            return adopt_socket(self.c, given, policy, id_)

        return self._begin(begin, policy, framings, repr(given))

    def only_receives(self, id: int, policy: Any) -> None:
        """Prepare for the read end of a pipe: an answer to it is an error."""
        self.receivers.add(id)
        self.services[policy.service].note_receivers(True)

    def _begin(
        self, begin: Callable[[Any], int], policy: Any, framings: Framings, shown: str
    ) -> Any:
        """Return the connection that `begin` begins, which writes its id."""
        self.check()
        id_ = ffi.new("uint64_t *")
        service = self.services[policy.service]
        service.dialled += 1
        try:
            error = begin(id_)
            if error < 0:
                raise self.os_error(-error, shown)
            self.note_policy(policy, framings)
            self.opening.add(id_[0])
            if policy.tls:
                self.use_tls().dialled(id_[0], policy)
            return self.connection(id_[0])
        except BaseException:  # of a signal handler, too
            if id_[0]:
                self.log.op(id_[0] | ABORT)
            else:
                self.release_service(service, 1)
            raise

    def os_error(self, number: int, shown: str) -> Exception:
        """Return the error of a call that concerns an address."""
        if number == -BUSY:
            return busy()
        if number == errno.ENOSPC and self.name == "select":
            return BackendUnavailable(number, select_limit())
        return OSError(number, meaning(number), shown)

    def error_of(self, row: Any, number: int) -> OSError:
        """Return the error of a connection's end.

        Args:
            row: of `closed`.
            number: the errno, which may be another than the row's.
        """
        if self.tls is not None and number == row.error and row.id in self.tls.kept:
            error = self.tls.error_of(row)
        else:
            error = error_from(number)
        if row.id in self.causes:
            error.__cause__ = self.causes[row.id]
        return error

    def is_not_made(self, row: Any) -> bool:
        """Whether a connection that never opened is to be reported as one that could
        not be made: not an adopted client, of which the log tells as of one that was
        accepted."""
        if self.tls is None or row.id not in self.tls.served:
            return True
        self.tls.tell(row)
        return False

    def connection(self, id: int) -> Any:
        """Return the object of a connection, made when its id is first seen."""
        slot, table = id & 0xFFFFFFFF, self.table
        try:
            conn = table[slot]
        except IndexError:
            table += [None] * (slot + 1 - len(table))
            conn = None
        if conn is None or conn.id != id:
            conn = table[slot] = self.objects.connection(self, id)
        return conn

    def all_buffers(self) -> list[Any]:
        """Return `buffers`, extended to every slot."""
        missing = len(self.table) - len(self.buffers)
        if missing > 0:
            self.buffers += [None] * missing
        return self.buffers

    def water_of(self, id: int) -> tuple[int, int] | None:
        """Return (high water, low water) of a connection, or None if it has ended."""
        rules = ffi.new("pmx_policy *")
        if lib.pmx_policy_of(self.c, id, rules) < 0:
            return None
        return rules.high_water, rules.low_water

    def policy_of(self, id: int) -> Any:
        """Return the `pmx_policy` of a connection, or None if it has ended."""
        rules = ffi.new("pmx_policy *")
        return None if lib.pmx_policy_of(self.c, id, rules) < 0 else rules

    def switch(self, id: int, rules: Any, framing: Any, unread: bytes) -> None:
        """Log a switch of a connection to another framing, in both directions.

        The core reads `unread` before the rest of the connection's input.
        """
        rules.framing = rules.replies = ffi.new("pmx_framing *")[0]
        fill_framing(rules.framing, framing)
        self.note_framings(rules.service, (framing, None))
        if not self.log.entries:
            self.switched.clear()
        self.switched[id] = framing or Raw()
        if self.splitting is not None:
            self.splitting.forget(id)
        self.log.entries += (id | SWITCH, bytes(ffi.buffer(rules)) + unread)

    def dispatcher_of(self, id: int) -> Dispatcher | None:
        """Return the dispatcher of a connection of the table; the core is open."""
        rules = ffi.new("pmx_policy *")
        if lib.pmx_policy_of(self.c, id, rules) < 0:
            return self.serving.dispatcher  # the last batch reports its end
        service: ServiceState = self.services[rules.service]
        return service.dispatcher

    def socket_of(self, id: int) -> int:
        """Return the descriptor of a connection or listener; -1: it has none."""
        if self.c is None:
            return -1
        self.check()
        number = int(lib.pmx_socket(self.c, id))
        if number == BUSY:
            raise busy()
        return max(number, -1)

    def credentials_of(self, id: int) -> tuple[int | None, int, int] | None:
        """Return the (pid, uid, gid) of a connection's peer; None if unknown."""
        if self.c is None:
            return None
        self.check()
        told = ffi.new("int64_t[3]")
        error = lib.pmx_credentials(self.c, id, told)
        if error == BUSY:
            raise busy()
        if error in (-errno.ENOTSUP, -errno.ENOENT):
            return None
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return (None if told[0] < 0 else told[0]), told[1], told[2]

    def has_more(self, id: int) -> bool:
        """True if a connection's input has arrived and was not reported yet."""
        return bool(lib.pmx_pending(self.c, id))

    def is_lost(self, id: int) -> bool:
        """True if a connection has ended in the core, reported or not."""
        c = self.c
        return c is not None and bool(lib.pmx_unacknowledged(c, id) == -errno.ENOENT)

    def unacknowledged(self, id: int) -> int | None:
        """Return the bytes that the peer has not acknowledged; None if unknown."""
        number = lib.pmx_unacknowledged(self.c, id)
        return None if number == -errno.ENOTSUP else max(0, int(number))

    def undelivered(self, id: int) -> int:
        """Return the bytes not acknowledged; if unknown, not taken by the kernel."""
        number = self.unacknowledged(id)
        return int(lib.pmx_queued(self.c, id)) if number is None else number

    def forget(self, conns: list[Any]) -> None:
        """Free the slots of connections whose ends have been reported."""
        table, buffers = self.table, self.buffers
        known = len(buffers)
        for conn in conns:
            slot = conn.id & 0xFFFFFFFF
            if table[slot] is conn:
                table[slot] = None
                if slot < known:
                    buffers[slot] = None
        if (
            self.causes
            or self.opening
            or self.receivers
            or self.rooms.calls
            or self.splitting is not None
            or self.debts is not None
            or self.tls is not None
        ):
            self._forget_rare([conn.id for conn in conns])

    def _forget_rare(self, ids: list[int]) -> None:
        """Forget what few connections have."""
        self.opening.difference_update(ids)
        if self.receivers:
            self.receivers.difference_update(ids)
            if not self.receivers:
                for service in self.services:
                    service.note_receivers(False)
        for id in ids:
            self.causes.pop(id, None)
            self.rooms.forget(id)
            if self.splitting is not None:
                self.splitting.forget(id)
            if self.debts is not None:
                self.debts.forget(id)
            if self.tls is not None:
                self.tls.forget(id)

    def note_splitter(self, framing: Splitter) -> None:
        if self.splitting is None:
            self.splitting = Splitting(self)
        self.splitting.note(framing)

    def splits(self, id: int) -> bool:
        """True if a connection's messages come from a parser, so may be any object."""
        return self.splitting is not None and self.splitting.splits(id)

    def use_tls(self) -> Tls:
        """Return what gives connections their TLS objects, made at the first use.

        Raises:
            BackendUnavailable: this Python has no `ssl`; or PYMUX_TLS is "adopt", and
                adoption is impossible.
            ValueError: PYMUX_TLS has another value than is accepted.
        """
        if self.tls is None:
            self.tls = self._new_tls()
        return self.tls

    def _new_tls(self) -> Tls:
        raise NotImplementedError

    # --- services -------------------------------------------------------------

    def add_service(self, dispatcher: Dispatcher) -> int:
        """Add a service with a dispatcher; return its number."""
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
        """Count connections of a service that are gone."""
        service.dialled -= count
        if service.number and service.dialled <= 0 and not service.kept:
            self.unused.append(service.number)
