"""Neighbours that accept for slots whose worker does not."""

from __future__ import annotations

from ..engine.notices import tell
from .process import Process
from .scales import Scales
from .slot import Slot, let_listen

__all__ = ["cover_slots", "covers_no_more", "uncover"]


def cover_slots(slots: list[Slot], scales: Scales) -> None:
    """Let neighbours listen for slots whose worker does not, and only there."""
    helpers = [slot.worker for slot in slots if slot.accepts and slot.worker]
    for slot in slots:
        if not slot.needs_cover:
            uncover(slot)
        elif slot.cover not in helpers and helpers:
            uncover(slot)
            covers = [one.cover for one in slots]
            slot.cover = min(helpers, key=covers.count)
            let_listen(slot.cover, slot, slot.socks)
            scales.let_read(slot.cover, slot.number)
            tell("worker", "%s accepts for slot %d too", slot.cover, slot.number)


def uncover(slot: Slot) -> None:
    """Let the neighbour listen on the slot's sockets no more."""
    if slot.cover is not None:
        slot.cover.send("unlisten", slot.number)
        slot.cover = None


def covers_no_more(process: Process, slots: list[Slot]) -> None:
    """Note that a worker has closed its listeners."""
    for slot in slots:
        if slot.cover is process:
            slot.cover = None
