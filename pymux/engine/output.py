"""What is sent: which sizes fit, what is logged, and when the core takes it."""

from __future__ import annotations

from typing import Any

from .._core import ffi, lib
from ..values.framing import Framing, Splitter, check_reply
from .log import LARGE_PIECE, SHARED, Log
from .owner import BUSY, Owned, busy
from .services import UNLIMITED, ServiceState
from .state import DISPATCHING, IDLE, IN_CORE, TurnState
from .structs import framing_of

__all__ = ["LARGE_PIECE", "SUBMIT_OVER", "Output", "to_bytes"]

UNLET = 2**64 - 1  # what `pmx_queued` returns where another thread is inside
SUBMIT_OVER = 4194304  # bytes of large pieces in the log before the core takes it
SUBMIT_PIECES = 8192  # pieces in the log before the core takes it


def to_bytes(data: Any) -> bytes:
    """The bytes of a bytes-like object as they are now.

    Raises:
        TypeError: it is a str, or not bytes-like.
    """
    if type(data) is bytes:  # a subclass is copied: the log asks for the type
        return data
    if isinstance(data, str):
        raise TypeError(
            f"a str cannot be sent; bytes-like data is needed, encode it: {data[:40]!r}"
        )
    try:
        with memoryview(data) as view:  # released now: PyPy would do so some time
            return bytes(view)
    except TypeError:
        raise TypeError(
            f"a {type(data).__name__} cannot be sent; bytes-like data is needed"
        ) from None


class Output(Owned):
    """The second layer of an engine: the log, and what may go into it.

    Attributes:
        log: what was done since the last turn.
        services: by number.
        large: a longer piece goes through `send_large`, whichever service's.
        reply_limit: a longer piece may not fit its framing.
        switched: new framings of connections, by id: all that the core has not been
            told of, and perhaps older ones.
    """

    turn: Any
    turns: int

    def __init__(self) -> None:
        super().__init__()
        self.state: TurnState = IDLE
        self.log = Log()
        self.large: int = LARGE_PIECE
        self.reply_limit: int = UNLIMITED
        self.switched: dict[int, Framing] = {}
        self.services = [ServiceState(0)]
        self.stale = True  # whether the core is to be configured anew
        self.changed: set[int] = set()  # services that it is to be told of then
        self.handed_over = -1  # the turn in which the log last grew too long

    def note_framing(self, service: int, framing: Framing | None) -> None:
        """Connections with this framing may come to a service."""
        state = self.services[service]
        state.note_framing(framing)
        if isinstance(framing, Splitter):
            self.note_splitter(framing)
        self.changed.add(service)
        self.stale = True
        self.reply_limit = min(self.reply_limit, state.reply_limit)
        self.large = min(self.large, state.large)

    def note_splitter(self, framing: Splitter) -> None:
        """Connections with a parser may come."""
        raise NotImplementedError

    def check_reply(self, id: int, size: int) -> None:
        """Check that a message fits its connection's framing.

        Raises:
            ValueError: it does not.
        """
        if size <= self.reply_limit:
            return
        if id in self.switched:  # the core may not know of it yet
            check_reply(self.switched[id], size)
            return
        rules = ffi.new("pmx_policy *")
        error = lib.pmx_policy_of(self.c, id, rules)
        if error == BUSY:
            raise busy()
        if not error:
            check_reply(framing_of(rules.framing), size)

    def send_large(self, id: int, data: bytes) -> None:
        """Log a piece that may not fit its framing, or that may fill the log.

        The log stays bounded inside a handler too.

        Raises:
            ValueError: its framing cannot carry it; nothing is logged.
        """
        self.check_reply(id, len(data))
        self.log.settle()
        self.log.entries += (id, data)
        if len(data) > LARGE_PIECE:
            self._count_large(len(data))

    def send_shared(self, ids: list[int], data: bytes) -> None:
        """Log one message for many connections, which share a copy of it.

        Raises:
            ValueError: one of their framings cannot carry it; nothing is logged.
        """
        if len(data) > self.reply_limit:
            for id in ids:
                self.check_reply(id, len(data))
        if ids:
            whose = ffi.new("uint64_t[]", ids)
            self.log.special((SHARED | len(ids), whose, b"", data, None))
            self._count_large(len(data))

    def _count_large(self, size: int) -> None:
        self.log.large += size
        if self.log.large > SUBMIT_OVER:
            self.hand_over_log()

    def queued(self, id: int) -> int:
        """Bytes of a connection that the kernel has not taken, and in the log."""
        if self.c is None:
            return 0
        self.check()
        queued = int(lib.pmx_queued(self.c, id))
        if queued == UNLET:
            raise busy()
        return queued + self.log.queued(id)

    def hand_over_log(self) -> None:
        """The log has grown long inside a handler: the core takes it now.

        A coroutine that drains waits for the next turn then, since the mux only
        learns in a turn what became of the peer.
        """
        self.handed_over = self.turns
        self.submit()

    def submit(self) -> None:
        """Hand the log to the core, which sends what the kernel takes."""
        if self.state is IN_CORE:
            return  # a signal's handler calls: the harvest is taking the log
        log = self.log
        log.settle()
        entries = log.entries
        count = log.ready_to_submit() if self.state is DISPATCHING else len(entries)
        if not count:
            return
        _keep = log.lay_out_blocks(self.turn, count)
        taken = True
        try:
            if lib.pmx_submit(self.turn) == BUSY:
                taken = False
                raise busy()
        finally:  # nothing is called here: a signal's handler may raise in a call
            if taken:
                del entries[:count]
                log.large = log.seen = 0
                if not entries:
                    log.specials = 0
