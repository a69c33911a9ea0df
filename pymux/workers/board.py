"""The figures of all workers, which no worker is asked for: see `pymux.figures`."""

from __future__ import annotations

from typing import Any

from ..engine.notices import tell
from ..figures.pages import PageNumber, Pages, create
from ..values.stats import Stats

__all__ = ["Board"]


class Board:
    """The file of pages in which the workers count, if there can be one.

    Args:
        slots: how many workers there are at first.

    Attributes:
        pages: the file; None if it cannot be made, which ends no server.
    """

    def __init__(self, slots: int) -> None:
        self.pages: Pages | None = None
        self._numbers: dict[int, PageNumber] = {}  # by the worker's process
        self._ends: dict[int, int] = {}
        self._backend = ""
        try:
            self.pages = create(slots=slots)
        except OSError as error:
            tell("figures", "no figures for other processes: %s", error)
        else:
            tell("figures", "the figures are in %s", self.pages.path)

    def page(self, slot: int) -> PageNumber | None:
        """Return a page for a new worker of a slot; None if there is none."""
        if self.pages is None:
            return None
        try:
            return self.pages.slot(slot)
        except OSError as error:
            tell("figures", "worker %d counts for itself: %s", slot, error)
            return None

    def owns(self, pid: int, number: PageNumber | None) -> None:
        """Note which process counts in a page."""
        if number is not None:
            self._numbers[pid] = number

    def bury(self, pid: int, backend: str, ends: dict[int, int]) -> None:
        """A worker has ended: keep its counters, and how its connections ended."""
        self._backend = backend or self._backend
        for number, count in ends.items():
            self._ends[number] = self._ends.get(number, 0) + count
        page = self._numbers.pop(pid, None)
        if page is not None and self.pages is not None:
            self.pages.bury(page)

    def slots(self) -> list[dict[str, Any]]:
        """Return the figures of each slot."""
        return [] if self.pages is None else self.pages.read()

    def look(self) -> tuple[dict[int, dict[str, Any]], set[int]]:
        """Return what each worker's page says of its process, by its number; and the
        slots where peers wait, since a worker has `max_connections` or so."""
        slots = self.slots()
        pages = {int(one["pid"]): one for slot in slots for one in slot["processes"]}
        full = {int(slot["worker"]) for slot in slots if slot["listeners_full"]}
        return pages, full

    def sleeps(self) -> None:
        """Have each worker send a byte when its next turn ends: see `Engine.wakes`."""
        if self.pages is not None:
            self.pages.mark("asleep")

    def total(self) -> Stats:
        """Return the figures of all workers, also of those that have ended."""
        stats = Stats(self._backend)
        for slot in self.slots():
            for name in Stats.__dataclass_fields__:
                if isinstance(slot.get(name), int):
                    setattr(stats, name, getattr(stats, name) + slot[name])
        stats.ends = dict(self._ends)
        return stats

    def close(self) -> None:
        """Remove the file."""
        if self.pages is not None:
            self.pages.close()
            self.pages = None
