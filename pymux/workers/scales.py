"""Where workers see how many connections the others have, and the slots' inboxes.

The supervisor makes both, since both outlive a worker: see `pymux.server.balance`.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys

from ..engine.balancing import OPEN, SEAT, clear, here
from ..engine.notices import tell
from ..values.posix import sockets
from .process import Process
from .slot import Slot

__all__ = ["Scales"]

MOST_SLOTS = 1024


class Scales:
    """The memory that says who has how many connections, and an inbox for each slot.

    Where these cannot be had, each worker keeps what it accepts.
    """

    def __init__(self) -> None:
        self._file: socket.socket | int = -1
        self._map: mmap.mmap | None = None
        self._inboxes: list[tuple[socket.socket, socket.socket]] = []
        if sys.platform != "linux":
            return  # elsewhere an inbox was not tried
        try:
            self._file = os.memfd_create("pymux-seats")
            os.ftruncate(self._file, MOST_SLOTS * SEAT)
            self._map = mmap.mmap(self._file, MOST_SLOTS * SEAT)
        except OSError as error:
            tell("figures", "connections are not spread evenly: %s", error)

    def add(self) -> None:
        """Make the inbox of the next slot.

        Raises:
            OSError: there is no descriptor left.
        """
        if self._map is not None and len(self._inboxes) < MOST_SLOTS:
            pair = socket.socketpair(sockets.AF_UNIX, socket.SOCK_SEQPACKET)
            for sock in pair:
                sock.setblocking(False)
            self._inboxes.append(pair)

    def introduce(self, new: Process, serving: list[Process | None]) -> None:
        """Let a worker that serves now give to others, and these to it."""
        if self._map is None or new.slot >= len(self._inboxes):
            return
        new.send("seat", new.slot, socks=[_Descriptor(self._file)])  # type: ignore
        for slot, (_, outbox) in enumerate(self._inboxes):
            new.send("reach", slot, socks=[outbox])
        for other in serving:
            if other is not None and other is not new:
                other.send("reach", new.slot, socks=[self._inboxes[new.slot][1]])

    def let_read(self, process: Process, slot: int) -> None:
        """Let a process that listens for a slot read the slot's inbox."""
        if slot < len(self._inboxes):
            process.send("inbox", slot, socks=[self._inboxes[slot][0]])

    def loads(self) -> list[int]:
        """Return how many connections the worker of each slot has; [] if unknown."""
        if self._map is None:
            return []
        with memoryview(self._map) as seats:
            return here(seats, len(self._inboxes))

    def show(self, slots: list[Slot], stopping: bool = False) -> None:
        """Say which slots' workers accept connections."""
        seats = self._map
        if seats is None:
            return
        for slot in slots[:MOST_SLOTS]:
            begin = slot.number * SEAT + OPEN
            value = int(slot.accepts and not stopping).to_bytes(4, sys.byteorder)
            if seats[begin : begin + 4] != value:
                seats[begin : begin + 4] = value

    def ended(self, process: Process) -> None:
        """A worker has ended. If it has died, then perhaps with connections in hand:
        how many are on their way is not known any more, and counts again from 0."""
        if process.status and self._map is not None:
            with memoryview(self._map) as seats:
                for slot in range(len(self._inboxes)):
                    clear(seats, slot)

    def close(self) -> None:
        """Let go of the memory and the inboxes."""
        for pair in self._inboxes:
            for sock in pair:
                sock.close()
        self._inboxes.clear()
        if self._map is not None:
            self._map.close()
            self._map = None
            os.close(self._file)  # type: ignore[arg-type]


class _Descriptor:
    """A descriptor to send."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number
