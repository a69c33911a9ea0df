"""A slot: the place of one worker, with sockets of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from .channel import MOST_DESCRIPTORS
from .process import Process

__all__ = ["Slot", "let_listen"]


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
        self.failures = 0
        self.retry: float | None = None
        self.old_at: float | None = None

    @property
    def accepts(self) -> bool:
        """Whether the slot's worker accepts connections."""
        one = self.worker
        return self.listening and one is not None and not (one.stopped or one.stuck)

    @property
    def needs_cover(self) -> bool:
        """Whether nobody accepts from the slot's own sockets."""
        return bool(self.socks) and self.listening and not self.accepts


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
