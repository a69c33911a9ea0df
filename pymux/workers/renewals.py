"""The order in which slots get new workers: one slot at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .slot import Slot

__all__ = ["Renewals"]


class Renewals:
    """What is to be renewed: every slot, by a roll, and single ones.

    Attributes:
        now: the slot whose new worker is starting.
    """

    def __init__(self) -> None:
        self.now: Slot | None = None
        self._roll: deque[Slot] = deque()
        self._single: deque[Slot] = deque()
        self._again = False  # a roll was asked for during a roll

    @property
    def at_work(self) -> bool:
        """Whether a slot is being renewed, or is to be."""
        return self.now is not None or bool(self._roll or self._single or self._again)

    def roll(self) -> bool:
        """Ask for a roll; False if it comes after the one that has begun."""
        begun = self._again or self.now is not None or bool(self._roll)
        self._again = True
        return not begun

    def add(self, slot: Slot) -> bool:
        """Ask for a single slot; False if that is asked for or done already."""
        if slot is self.now or slot in self._single:
            return False
        self._single.append(slot)
        return True

    def next(self, slots: Iterable[Slot], may: Callable[[Slot], bool]) -> Slot | None:
        """Return the slot that is to be renewed now, which `now` is then.

        Args:
            slots: those of a roll that begins.
            may: tells whether a slot can be renewed. The others wait for their turn.
        """
        if self.now is not None:
            return None
        if self._again and not self._roll:
            self._again = False
            self._roll.extend(slots)
        for slot in (*self._roll, *self._single):
            if not slot.wanted:
                self._drop(slot)
            elif may(slot):
                self._drop(slot)
                self.now = slot
                return slot
        return None

    def _drop(self, slot: Slot) -> None:
        for queue in self._roll, self._single:
            if slot in queue:
                queue.remove(slot)

    def stop_roll(self) -> None:
        """End the roll. One that was asked for meanwhile begins; single ones stay."""
        self.now = None
        self._roll.clear()

    def clear(self) -> None:
        """Renew nothing more."""
        self._roll.clear()
        self._single.clear()
        self._again = False
