"""Output: check sizes, log messages, and hand the log to the core."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from io import UnsupportedOperation
from threading import get_ident
from typing import Any

from .._core import ffi, lib
from ..values.framing import Framing, Framings, Splitter, check_reply
from .log import LARGE_PIECE, SHARED, Log
from .owner import BUSY, Owned, busy
from .services import UNLIMITED, ServiceState
from .state import DISPATCHING, IDLE, IN_CORE, TurnState
from .structs import reply_framing_of

__all__ = ["LARGE_PIECE", "SUBMIT_OVER", "Output", "to_bytes"]

UNLET = 2**64 - 1  # the result of `pmx_queued` while another thread is inside
SUBMIT_OVER = 4194304  # bytes of large pieces before the core takes the log
FEW = 8  # so many copies of a small message cost less than a list of its connections
SUBMIT_ENTRIES = 16384  # entries of the log before the core takes it


def to_bytes(data: Any) -> bytes:
    """Copy the bytes of a bytes-like object.

    Raises:
        TypeError: `data` is a str, was not awaited, or is not bytes-like.
    """
    if type(data) is bytes:  # a subclass is copied: the log compares types
        return data
    if isinstance(data, str):
        raise TypeError(
            f"a str cannot be sent; bytes-like data is needed, encode it: {data[:40]!r}"
        )
    try:
        with memoryview(data) as view:  # PyPy would release the view late
            return bytes(view)
    except TypeError:
        if isinstance(data, Awaitable):
            raise _not_awaited(data) from None
        raise TypeError(
            f"an object of type {type(data).__name__} cannot be sent; bytes-like data "
            "is needed"
        ) from None


def _not_awaited(data: Awaitable[Any]) -> TypeError:
    """Return the error of sending what nobody has awaited."""
    if isinstance(data, Coroutine):
        data.close()  # else Python warns too
    kind = type(data).__name__
    return TypeError(
        f"an object of type {kind} cannot be sent: await it before, in a coroutine "
        "handler, as in conn.send(await conn.recv())"
    )


class Output(Owned):
    """The second layer of an engine: the log, and the checks before it.

    Attributes:
        counts: the core's figures, as they are now.
        log: messages and operations since the last turn.
        services: by number.
        large: a longer piece of any service goes through `send_large`.
        reply_limit: a longer piece may not fit its framing.
        switched: new framings of connections, by id: all that the core has not been
            told of, and perhaps older ones.
        receivers: ids of connections that only receive: read ends of pipes.
    """

    counts: Any
    handed_over: int
    log: Log
    services: list[ServiceState]
    stale: bool

    turn: Any

    def __init__(self) -> None:
        super().__init__()
        self.state: TurnState = IDLE
        self.log = Log()
        self.large: int = LARGE_PIECE
        self.reply_limit: int = UNLIMITED
        self.switched: dict[int, Framing] = {}
        self.receivers: set[int] = set()
        self.services = [ServiceState(0)]
        self.stale = True  # the core must be configured before the next turn
        self.changed: set[int] = set()  # services that must be configured
        self.handed_over = -1  # the turn in which the log last grew too long

    def note_framings(self, service: int, framings: Framings) -> None:
        """Prepare a service for connections with these framings."""
        state = self.services[service]
        state.note_framings(*framings)
        if isinstance(framings[0], Splitter):
            self.note_splitter(framings[0])
        self.changed.add(service)
        self.stale = True
        self.reply_limit = min(self.reply_limit, state.longest)
        self.large = min(self.large, state.longest)

    def note_splitter(self, framing: Splitter) -> None:
        """Prepare for connections with this parser."""
        raise NotImplementedError

    @property
    def turns(self) -> int:
        """Return the number of turns that the core has begun."""
        raise NotImplementedError

    def check_reply(self, id: int, size: int) -> None:
        """Check that a message fits its connection's framing.

        Raises:
            ValueError: the message does not fit.
            io.UnsupportedOperation: the connection only receives.
        """
        if id in self.receivers:
            raise UnsupportedOperation(
                "a reply is for the read end of a pipe, which only receives; a row of "
                "such a connection takes None, or a mask that leaves it out"
            )
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
            check_reply(reply_framing_of(rules), size)

    def send_large(self, id: int, data: bytes) -> None:
        """Log a piece that may not fit its framing, or that may fill the log.

        The log stays bounded inside a handler too.

        Raises:
            ValueError: the framing cannot carry the piece; nothing is logged.
        """
        self.check_reply(id, len(data))
        self.log.settle()
        self.log.entries += (id, data)
        if len(data) > LARGE_PIECE:
            self._count_large(len(data))

    def send_shared(self, ids: Any, count: int, data: bytes) -> None:
        """Log one message for many connections, which share one copy.

        Args:
            ids: at least `count` ids, in memory of the core's or as a list.

        Raises:
            ValueError: a framing cannot carry the message; nothing is logged.
        """
        if len(data) > self.reply_limit:
            for k in range(count):
                self.check_reply(ids[k], len(data))
        if count:
            if isinstance(ids, list):
                ids = ffi.new("uint64_t[]", ids)
            self.log.special((SHARED | count, ids, b"", data, None))
            self._count_large(len(data))

    def send_to_all(self, ids: list[int], messages: list[bytes]) -> None:
        """Log messages, each for the same connections.

        Raises:
            ValueError: a framing cannot carry a message; those before it are logged.
        """
        few = len(ids) <= FEW
        shared = None if few else ffi.new("uint64_t[]", ids)
        for data in messages:
            if few and len(data) <= self.large:
                if self.log.pending:
                    self.log.merge()
                entries = self.log.entries
                for id in ids:
                    entries += (id, data)
                if len(entries) > SUBMIT_ENTRIES:
                    self.hand_over_log()
            else:
                self.send_shared(ids if shared is None else shared, len(ids), data)

    def _count_large(self, size: int) -> None:
        self.log.large += size
        if self.log.large > SUBMIT_OVER:
            self.hand_over_log()

    def pass_over(self, ids: list[int], most: int) -> tuple[Any, int]:
        """Choose connections with at most `most` bytes queued.

        Bytes in the log count. Where these decide, the log is handed over first: a
        reader is slow if the kernel does not take its bytes.

        Returns:
            The ids as an array of the core's, chosen ones first; how many these are.
        """
        found = ffi.new("uint64_t[]", ids)
        log = self.log
        log.settle()
        chosen = self._pass_over(found, len(ids), most)
        logged = log.bound()
        if logged and (
            logged > most or self._pass_over(found, chosen, most - logged) < chosen
        ):
            self.hand_over_log()
            chosen = self._pass_over(found, len(ids), most)
            if log.entries:  # held back by a close
                sure = [id for id in found[0:chosen] if self.queued(id) <= most]
                found, chosen = ffi.new("uint64_t[]", sure), len(sure)
        return found, chosen

    def _pass_over(self, ids: Any, count: int, most: int) -> int:
        number = int(lib.pmx_pass_over(self.c, ids, count, most))
        if number < 0:
            raise busy()
        return number

    def queued(self, id: int) -> int:
        """Return the bytes of a connection in the log and in the core."""
        if self.c is None:
            return 0
        if self.thread != get_ident():
            self.check()
        queued = 0
        if self.counts.queued:  # of all connections: a look costs less than the call
            queued = int(lib.pmx_queued(self.c, id))
            if queued == UNLET:
                raise busy()
        log = self.log
        if log.entries or log.pending:
            queued += log.queued(id)
        return queued

    def hand_over_log(self) -> None:
        """Hand over a log that has grown long inside a handler.

        A coroutine that drains then waits for the next turn: the mux only notices
        the loss of the peer in a turn.
        """
        self.handed_over = self.turns
        self.submit()

    def submit(self) -> None:
        """Hand the log to the core, which sends what the kernel takes."""
        if self.state is IN_CORE:
            return  # a signal handler calls while the harvest hands over the log
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
        finally:  # no calls here: a signal handler may raise in any call
            if taken:
                del entries[:count]
                log.large = log.seen = log.bounded = 0
                if not entries:
                    log.specials = 0
