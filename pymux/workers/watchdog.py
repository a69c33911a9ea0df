"""Looks after workers: stuck handlers, memory.

While any worker is busy, their pages are read every LOOK seconds. When all are idle,
their pages say that the supervisor sleeps, and the first worker whose turn ends then
rings: it clears that word and sends a byte. The supervisor looks once more before it
sleeps. So a handler that began before the worker could see the word is seen by that
look, LOOK seconds later, and one that begins after has rung. A stopped or stuck worker
is covered by a neighbour after STUCK seconds, and aborted after `Workers.watchdog`.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ..engine.notices import tell
from ..values.posix import os
from ..values.workers import Workers
from .board import Board
from .process import Process
from .slot import SETTLED, Slot
from .slots import Slots

__all__ = ["Watchdog", "check_can_measure"]

LOOK = 0.5  # seconds between two looks
STUCK = 1.0  # seconds in a handler after which a neighbour accepts
DUMP = 2.0  # seconds that an aborted worker has to write its stack
PROC = Path("/proc")


def check_can_measure(workers: Workers) -> None:
    """Raise OSError for `max_memory` where the system does not tell it."""
    if workers.max_memory is not None and not (PROC / "self/statm").exists():
        raise OSError(f"max_memory needs /proc, which {sys.platform} does not have")


class Watchdog:
    """Looks after the workers of some slots.

    Args:
        selector: the supervisor's; its data are functions to call with the events.

    Attributes:
        next_look: when to look; None while every worker is idle.
        bell: to this socket a worker sends a byte to wake the supervisor.
    """

    def __init__(
        self, workers: Workers, slots: Slots, board: Board, selector: Any
    ) -> None:
        self._workers = workers
        self._slots = slots
        self._board = board
        self._will_sleep = False  # unless the next look finds a busy worker
        self._has_warned = False
        self.next_look: float | None = time.monotonic() + LOOK
        self._rung, bell = socket.socketpair()
        self.bell: socket.socket = bell
        for sock in self._rung, bell:
            sock.setblocking(False)
        selector.register(self._rung, selectors.EVENT_READ, self._hear)

    def close(self) -> None:
        """Close the bell."""
        self._rung.close()
        self.bell.close()

    def _hear(self, events: int) -> None:
        """A worker has rung."""
        with contextlib.suppress(BlockingIOError):
            self._rung.recv(4096)
        self.wake()

    def wake(self) -> None:
        """A worker has become busy, or there are others: look soon."""
        self._will_sleep = False
        if self.next_look is None:
            self.next_look = time.monotonic() + LOOK

    def tick(self) -> None:
        """Look, if it is time."""
        if self.next_look is None or self.next_look > time.monotonic():
            return
        self.next_look = time.monotonic() + LOOK
        pages, full = self._board.look()
        if full:
            self._slots.pass_on(full)
        ready = [one for one in self._slots.processes.values() if one.ready]
        idle = not self._slots.first
        for process in ready:
            page = pages.get(process.pid)
            if page is None:
                continue
            busy = float(page["in_handler"])
            self._judge(process, busy)
            if busy or page["since_turn"] < 2 * LOOK or process.large:
                idle = False
        idle = idle and len(ready) == len(self._slots.processes)
        if not idle or not all(process.wakes for process in ready):
            self._will_sleep = False
        elif self._will_sleep:
            self.next_look = None
        else:
            self._will_sleep = True
            self._board.sleeps()

    def _judge(self, process: Process, busy: float) -> None:
        """Cover, abort or replace a worker that needs it."""
        stuck = busy > STUCK
        if stuck != process.stuck:
            process.stuck = stuck
            self._slots.cover()
        limit = self._workers.watchdog
        if limit is not None and busy > limit and not process.aborted:
            process.aborted = True
            text = "%s: its handler has run for %.1f s; it is aborted"
            tell("worker_died", text, process, busy)
            process.kill(signal.SIGABRT)
            process.by = time.monotonic() + DUMP
        most = self._workers.max_memory
        slot = self._slots.all[process.slot]
        if most is not None and slot.worker is process:
            self._judge_memory(process, slot, most)

    def _judge_memory(self, process: Process, slot: Slot, most: int) -> None:
        """Replace a worker that has too much memory; later and later if a new one has
        too much at once, since that does not help."""
        size = _resident(process.pid)
        if size <= most:
            return
        if not process.large:
            process.large = True
            if process.age >= SETTLED:
                slot.renewals, slot.calm_until = 0, 0.0
            else:
                slot.calm_down()
                self._warn(process, size, most)
        if slot.calm_until <= time.monotonic():
            self._slots.renew(slot, f"it has {size} bytes of memory")

    def _warn(self, process: Process, size: int, most: int) -> None:
        """Say once that new workers have too much memory."""
        if not self._has_warned:
            self._has_warned = True
            text = (
                "%s has %d bytes of memory %.1f s after its start, and max_memory is "
                "%d; workers are replaced for their memory less and less often"
            )
            tell("worker_failed", text, process, size, process.age, most)


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 if it is gone."""
    try:
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * int(os.sysconf("SC_PAGE_SIZE"))
