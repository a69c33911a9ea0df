"""What the groups of connections have to do with an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Rooms"]


class Ends(Protocol):
    """What ends with an engine."""

    def end(self, engine: Any) -> None:
        """The engine closes."""


class Rooms:
    """Connections that are in groups, and the groups' connections to brokers.

    Attributes:
        calls: what to call with the id of a connection when it has ended, by that id.
        stays: ids of these connections. They may not move to another process, unless
            their handler takes them there.
        links: what the end of the engine ends too, by any key.
    """

    __slots__ = ("calls", "links", "stays")

    def __init__(self) -> None:
        self.calls: dict[int, list[Callable[[int], None]]] = {}
        self.stays: set[int] = set()
        self.links: dict[Any, Ends] = {}

    def enter(self, id: int, leave: Callable[[int], None]) -> None:
        """Have `leave` called when a connection has ended."""
        self.calls.setdefault(id, []).append(leave)
        self.stays.add(id)

    def leave(self, id: int, leave: Callable[[int], None]) -> None:
        """Take back an `enter`."""
        calls = self.calls.get(id, [])
        if leave in calls:
            calls.remove(leave)
        if not calls:
            self.calls.pop(id, None)
            self.stays.discard(id)

    def forget(self, id: int) -> None:
        """A connection has ended, or moves to another process."""
        for leave in self.calls.pop(id, ()):
            leave(id)
        self.stays.discard(id)

    def end(self, engine: Any, forked: bool) -> None:
        """The engine closes. In a forked child the groups may have other members."""
        links = list(self.links.values())
        self.links.clear()
        for link in links:
            link.end(engine)
        if not forked:
            for id in list(self.calls):
                self.forget(id)
