"""Who has which part of every `max_connections`.

A worker that has its part accepts for others that have fewer connections: see
csrc/balance.c. It looks for those when it is full, and not again by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .process import Process
from .slot import Slot
from .sockets import Place

__all__ = ["pass_on", "share"]


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


def pass_on(
    slots: list[Slot], places: list[Place], loads: Sequence[int], full: Collection[int]
) -> None:
    """Let workers that are full look whether others have places now.

    Args:
        loads: how many connections the worker of each slot has; empty if unknown.
        full: the numbers of the slots whose workers are full.
    """
    known = {
        slot.number: loads[slot.number]
        for slot in slots
        if slot.accepts and slot.number < len(loads)
    }
    for number in known.keys() & full:
        worker = slots[number].worker
        if worker is not None and known[number] > min(known.values()):
            share([worker], slots, places)
