"""What systemd is told of a server with workers; workers themselves say nothing."""

from __future__ import annotations

import time

from ..systemd import notify, reloading, watchdog_period
from .slots import Slots

__all__ = ["ServiceManager"]


class ServiceManager:
    """Tells the service manager, if there is one, each new state of the server.

    Args:
        where: the addresses, for the status.

    Attributes:
        next_time: when `tick` has to say that the supervisor goes round; None where
            the unit does not ask for that.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._said = ""
        self._reloads = False  # a reload was asked for since the last tick
        self._period = watchdog_period()
        self.next_time: float | None = None if self._period is None else 0.0

    def reload(self) -> None:
        """A SIGHUP has come. `tick` says so, even if it changes nothing: the service
        manager waits for a word that is later than its signal."""
        self._reloads = True

    def tick(self, slots: Slots, grace: bool) -> None:
        """Say what is new."""
        if self._period is not None:
            now = time.monotonic()
            if self.next_time is not None and self.next_time <= now:
                notify("WATCHDOG=1")
                self.next_time = now + self._period
        state = "serving"
        if slots.error is not None or (slots.first and not slots.stopping):
            state = ""
        elif slots.stopping or grace:
            state = "stopping"
        elif slots.rolling:
            state = "reloading"
        count = sum(slot.worker is not None for slot in slots.all)
        if self._reloads and state in ("serving", "reloading"):
            self._reloads = False
            if not self._said:  # the service has just started
                self._say("serving", count)
            self._say("reloading", count)
        if state != self._said:
            self._say(state, count)

    def _say(self, state: str, count: int) -> None:
        self._said = state
        if state == "stopping":
            notify("STOPPING=1", f"STATUS=finishing the connections at {self._where}")
        elif state == "reloading":
            reloading(f"replacing the workers at {self._where}")
        elif state:
            notify("READY=1", f"STATUS={count} workers serve at {self._where}")
