"""How the connections of an engine are stopped."""

from __future__ import annotations

from typing import Any

from .._core import ffi, lib
from .arena import Arenas
from .connections import Connections, Objects
from .owner import BUSY, busy

__all__ = ["QUIET", "WHOLE", "Stops"]

WHOLE, QUIET = lib.PMX_END_WHOLE, lib.PMX_END_QUIET


class Stops(Connections):
    """The fifth layer of an engine: the ends that a stop brings.

    Attributes:
        stopped: ids of connections whose input a stop ended; None before a stop.
    """

    def __init__(self, c: Any, arenas: Arenas, objects: Objects) -> None:
        super().__init__(c, arenas, objects)
        self.stopped: set[int] | None = None

    def is_stopping(self, id: int) -> bool:
        """True if a stop has ended the input of a connection."""
        if self.stopped is None or id in self.stopped:
            return self.stopped is not None
        if self.c is None:
            return False
        self.check()
        return bool(lib.pmx_stopping(self.c, id) == 1)

    def keep_stopping(self, id: int) -> None:
        """Before the core forgets a connection, note if a stop ended its input."""
        if self.stopped is not None and lib.pmx_stopping(self.c, id) == 1:
            self.stopped.add(id)

    def retire(self) -> None:
        """Accept the backlog, close the listeners; connections go on."""
        if self.c is not None and lib.pmx_retire(self.c) == BUSY:
            raise busy()

    def accepted(self) -> list[int]:
        """Return the ids of the accepted connections."""
        count, room = lib.pmx_accepted(self.c, ffi.NULL, 0), 0
        while count > room:
            room = count
            ids = ffi.new("uint64_t[]", room)
            count = lib.pmx_accepted(self.c, ids, room)
        return list(ids[0:count]) if count > 0 else []

    def not_open(self, ids: list[int]) -> list[int]:
        """Return those connections that were not reported as opened yet."""
        return self._end_inputs(ids, lib.PMX_END_ASK)

    def end_inputs(self, ids: list[int], when: int) -> list[int]:
        """End the input of connections behind what has arrived, as a stop does.

        Args:
            when: `WHOLE`: where no part of a frame has come; `QUIET`: and no output
                is queued.

        Returns:
            Those for which it is too early. Others may have ended.
        """
        if self.stopped is None:
            self.stopped = set()
        if ids:
            self.submit()
        return self._end_inputs(ids, when)

    def _end_inputs(self, ids: list[int], when: int) -> list[int]:
        if not ids or self.c is None:
            return []
        some = ffi.new("uint64_t[]", ids)
        count = lib.pmx_end_inputs(self.c, some, len(ids), when)
        return list(some[0:count]) if count >= 0 else ids

    def drain(self) -> None:
        """Accept the backlog, close the listeners, end every input."""
        if self.stopped is None:
            self.stopped = set()
        lib.pmx_drain(self.c)

    def reset_all(self, number: int) -> None:
        """Reset every connection that is left, and report it with this errno."""
        self.submit()
        lib.pmx_reset_all(self.c, number)

    def close_outgoing(self) -> None:
        """Close the outgoing connections, which no accepted connection needs now."""
        for conn in self.table:
            if conn is not None and not conn.closed:
                conn.close()
        self.submit()

    def has_ends(self) -> bool:
        """True if the core has the end of a connection to report."""
        return bool(lib.pmx_next_timeout(self.c) == 0)
