"""A server gives connections that it has accepted to workers that have fewer.

The core decides: see csrc/balance.c. Each slot of a server with workers has an inbox,
a Unix socket that keeps messages apart, which lives as long as the slot. Whoever
listens for the slot reads the inbox too, as the inbox is one more backlog: what is in
it when a worker dies or is stopped goes to the next worker, or to the neighbour that
covers the slot. So does what a worker has taken out of it and had no place for. An
inbox that is full or gone takes nothing, and the connection stays.

While the code is replaced, workers of two versions of pymux give to each other. A
message of a version that its reader does not know goes back to the slot of its giver.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine import balancing
from ..engine.notices import tell
from ..objects.base import engine_of
from ..values.posix import sockets
from .base import plan_of

if TYPE_CHECKING:
    from ..mux import Mux
    from .server import Server

__all__ = ["Balance"]

# Version, slot of the giver, number of the address; the peer's name follows. Messages
# of all versions begin with the first two.
HEAD = struct.Struct("=III")
VERSION = 1  # of messages
LARGEST = 512  # bytes of a message
READ = 1
MOST = 64  # messages that are read at once: others are to be served too
PAUSE = 0.05  # seconds until an inbox is read again, for want of descriptors
a_descriptor: Callable[[int], int] = os.dup
CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
ROOM = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0  # a descriptor


def _put(outbox: socket.socket, data: bytes, fd: int) -> bool:
    """Send a message and a descriptor; False if they are not on their way."""
    found = [(socket.SOL_SOCKET, sockets.SCM_RIGHTS, array.array("i", [fd]))]
    try:
        sockets.socket.sendmsg(outbox, [data], found)
    except OSError:  # full; or too many descriptors are on their way
        return False
    return True


class Balance:
    """What a worker gives to others, and gets from them. The mux's thread calls.

    Args:
        server: it is bound.
        seats: a file of as many seats as there may be slots, which this object owns.
        own: the slot of this worker.
    """

    def __init__(self, server: Server, seats: socket.socket | int, own: int) -> None:
        self._plan = plan_of(server)
        self._mux: Mux = self._plan.mux
        self._engine = engine_of(self._mux)
        self._seats = seats if isinstance(seats, int) else seats.detach()
        self._own = own
        self._outboxes: dict[int, socket.socket] = {}
        self._inboxes: dict[int, tuple[socket.socket, Any]] = {}
        self._held: list[tuple[int, bytes, int]] = []  # the worker has no place now
        self._engine.on_given = self._give

    # --- giving ---------------------------------------------------------------

    def reach(self, slot: int, outbox: socket.socket) -> None:
        """Give to a slot, too, which has this inbox.

        Raises:
            OSError: the seats cannot be used.
        """
        before = self._outboxes.get(slot)
        if before is not None:
            before.close()
        self._outboxes[slot] = outbox
        self._give()
        if self._seats >= 0:
            count = max(self._own, *self._outboxes) + 1
            balancing.balance(self._engine, self._seats, count, self._own)

    def end(self) -> None:
        """Keep what is accepted from now on, and leave the inboxes to others."""
        for slot in list(self._inboxes):
            self.close(slot)
        self._give()
        with contextlib.suppress(OSError):
            balancing.balance(self._engine, -1)
        if self._seats >= 0:
            os.close(self._seats)
            self._seats = -1
        for outbox in self._outboxes.values():
            outbox.close()
        self._outboxes.clear()

    def _give(self) -> None:
        """Send what the core has for others."""
        while (gift := balancing.next_gift(self._engine)) is not None:
            balancing.gave(self._engine, self._send(gift))

    def _send(self, gift: balancing.Gift) -> bool:
        outbox = self._outboxes.get(gift.seat)
        number = self._plan.numbers.get(gift.listener)
        if outbox is None or number is None:
            return False
        data = HEAD.pack(VERSION, self._own, number) + gift.peer
        if len(data) > LARGEST:
            return False
        return _put(outbox, data, gift.fd)

    # --- getting --------------------------------------------------------------

    def open(self, slot: int, inbox: socket.socket) -> None:
        """Read the inbox of a slot that this worker listens for."""
        self.close(slot)
        watch = self._mux.watch(inbox, READ, lambda *_: self._read(slot))
        self._inboxes[slot] = inbox, watch

    def close(self, slot: int) -> None:
        """Leave the inbox to others."""
        inbox, watch = self._inboxes.pop(slot, (None, None))
        if watch is not None:
            watch.close()
        if inbox is not None:
            inbox.close()
        for one in [one for one in self._held if one[0] == slot]:
            self._held.remove(one)
            self._put_back(*one)

    def _put_back(self, slot: int, data: bytes, fd: int) -> None:
        """Put a connection that has no place here into the slot's inbox again, or into
        another one if that is full; it ends if all are."""
        others = [outbox for key, outbox in self._outboxes.items() if key != slot]
        for outbox in [self._outboxes.get(slot), *others]:
            if outbox is not None and _put(outbox, data, fd):
                break
        os.close(fd)

    def take_all(self) -> None:
        """Accept what is in the inboxes: the server stops, and nobody else will."""
        for slot in list(self._inboxes):
            while self._read(slot):
                pass

    def _read(self, slot: int) -> bool:
        """Take in what has come; True if there may be more."""
        inbox = self._inboxes[slot][0]
        for _ in range(MOST):
            try:
                # A descriptor that finds no room would be closed on arrival.
                os.close(a_descriptor(inbox.fileno()))
            except OSError as error:
                self._wait_for_room(slot, error)
                return False
            try:
                data, rights, _, _ = sockets.socket.recvmsg(
                    inbox,
                    LARGEST,
                    sockets.CMSG_SPACE(array.array("i").itemsize),
                    CLOEXEC,
                )
            except OSError:
                return False
            if not data:  # the supervisor and all workers but this one are gone
                self.close(slot)
                return False
            fds = array.array("i")
            for _, _, part in rights:
                fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
            fd = fds[0] if fds else -1
            try:
                self._admit(slot, data, fd)
            except BlockingIOError:  # by the limits
                self._held.append((slot, data, fd))
                self._wait_for_room(slot, None)
                return False
        return True

    def _wait_for_room(self, slot: int, error: OSError | None) -> None:
        """Leave what has come in the inbox for a while."""
        text = "connections that other workers gave wait: %s"
        if error and self._engine.may_tell("inbox", "shortage", text % error):
            tell("shortage", text, error)
        inbox, watch = self._inboxes[slot]
        if watch is not None:
            watch.close()
        self._inboxes[slot] = inbox, None
        self._engine.call_later(PAUSE, self._go_on, slot, inbox)

    def _go_on(self, slot: int, inbox: socket.socket) -> None:
        if self._inboxes.get(slot) == (inbox, None):
            for one in [one for one in self._held if one[0] == slot]:
                try:
                    self._admit(*one)
                except BlockingIOError:
                    self._engine.call_later(PAUSE, self._go_on, slot, inbox)
                    return
                self._held.remove(one)
            watch = self._mux.watch(inbox, READ, lambda *_: self._read(slot))
            self._inboxes[slot] = inbox, watch

    def _admit(self, slot: int, data: bytes, fd: int) -> None:
        try:
            version, giver, number = HEAD.unpack_from(data)
            if version != VERSION:
                self._pass_back(slot, giver, data, fd)
                return
            listener = self._plan.listener_at(number)
            balancing.admit(self._engine, fd, listener, data[HEAD.size :], slot)
        except BlockingIOError:
            raise
        except (OSError, OverflowError, struct.error):
            if fd >= 0:
                os.close(fd)

    def _pass_back(self, slot: int, giver: int, data: bytes, fd: int) -> None:
        """Give a message that only its giver understands to the giver's slot. The seat
        of this slot keeps the count of what comes, so that it is given less."""
        if fd >= 0:
            if giver != slot and giver in self._outboxes:
                _put(self._outboxes[giver], data, fd)
            os.close(fd)
