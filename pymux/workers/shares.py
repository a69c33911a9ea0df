"""Who has which part of every `max_connections`."""

from __future__ import annotations

from collections.abc import Iterable

from .process import Process
from .slot import Slot
from .sockets import Place

__all__ = ["share"]


def share(processes: Iterable[Process], slots: list[Slot], places: list[Place]) -> None:
    """Tell workers among how many each `max_connections` is shared.

    Sockets that are one for all are shared by the workers. Where each slot has a
    socket of its own, a slot that is covered keeps its part, which the neighbour has
    beside its own.
    """
    wanted = sum(slot.wanted for slot in slots)
    parts = [wanted if place.shared else len(slots) for place in places]
    for process in processes:
        if process.ready:
            process.send("share", parts)
