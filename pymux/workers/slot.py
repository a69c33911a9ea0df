"""A slot: the place of one worker, with sockets of its own."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable

from .channel import MOST_DESCRIPTORS
from .process import Process

__all__ = ["SETTLED", "Slot", "let_listen"]

SETTLED = 5.0  # seconds of life after which a failure is not one of a series
SLOWEST_RETRY = 10.0  # seconds


class Slot:
    """The place of one worker.

    Attributes:
        number: its number, from 0.
        socks: (number of the address, socket) of the slot's own sockets.
        worker: the process that serves.
        heir: the process that is starting.
        cover: the neighbour that listens on the slot's sockets.
        wanted: False after SIGTTOU; then a neighbour covers the slot.
        failures: deaths in a series.
        renewals: in a series that did not help: the new worker did not start, or needs
            too much memory itself.
        calm_until: when its worker may be replaced again for its memory.
        retry: when to start again; None: no such time.
        old_at: when the worker is too old; None: never.
    """

    def __init__(self, number: int, socks: list[tuple[int, socket.socket]]) -> None:
        self.number = number
        self.socks = socks
        self.worker: Process | None = None
        self.heir: Process | None = None
        self.cover: Process | None = None
        self.wanted = True
        self.listening = False
        self.failures: int = 0
        self.renewals: int = 0
        self.calm_until: float = 0.0
        self.retry: float | None = None
        self.old_at: float | None = None

    def try_again(self) -> str:
        """Set the time of the next start; return what is said of that."""
        delay = _pause(self.failures)
        self.failures += 1
        self.retry = time.monotonic() + delay
        return f"a new one starts in {delay:.1f} s" if delay else "a new one starts"

    def grow_old(self, max_age: float | None) -> None:
        """Set the time at which the worker is too old: more or less a tenth."""
        if max_age is not None:
            self.old_at = time.monotonic() + max_age * random.uniform(0.9, 1.1)

    def calm_down(self) -> None:
        """A renewal did not help: the next one for memory comes later and later."""
        self.renewals += 1
        self.calm_until = time.monotonic() + _pause(self.renewals)

    @property
    def accepts(self) -> bool:
        """Whether the slot's worker accepts connections."""
        one = self.worker
        return self.listening and one is not None and not (one.stopped or one.stuck)

    @property
    def needs_cover(self) -> bool:
        """Whether nobody accepts from the slot's own sockets."""
        return bool(self.socks) and self.listening and not self.accepts


def _pause(failures: int) -> float:
    """Return the seconds to wait after so many failures: 0, 0.1, 0.2, 0.4 ... 10."""
    return min(SLOWEST_RETRY, 0.1 * 2.0 ** min(failures - 1, 9)) if failures else 0.0


def let_listen(
    process: Process, slot: Slot, socks: Iterable[tuple[int, socket.socket]]
) -> None:
    """Let a worker listen on sockets of a slot, for the numbers of their addresses."""
    rest = list(socks)
    while rest:
        part, rest = rest[:MOST_DESCRIPTORS], rest[MOST_DESCRIPTORS:]
        numbers = [number for number, _ in part]
        only = [sock for _, sock in part]
        process.send("listen", slot.number, numbers, socks=only)
