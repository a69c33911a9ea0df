"""The state of each service: the connections of one handler."""

from __future__ import annotations

from typing import Any, Protocol

from ..values.framing import Fixed, Framing, Raw, check_reply, longest_reply
from .log import LARGE_PIECE, Delimiter

__all__ = ["Dispatcher", "ServiceState"]

UNLIMITED = 2**63


class Dispatcher(Protocol):
    """Dispatches the batches of a service to its handler."""

    min_messages: int
    delay_ns: int
    name: str | None  # of the handler

    def messages(self, batch: Any) -> None:
        """Dispatch a batch of messages alone."""

    def __call__(self, batch: Any) -> None:
        """Dispatch a batch with news, and perhaps with messages."""


class ServiceState:
    """One service of an engine. Service 0 is that of `harvest`, or of a server.

    Attributes:
        number: the core's number of the service.
        dispatcher: gets the batches; None if the caller of `harvest` gets them.
        lines: the delimiter of all replies, None if framings differ.
        other: some connections send in another framing than they receive.
        longest: a longer reply may not fit its connection's framing.
        reply_limit: the same; -1 while some connections only receive, so that every
            reply is looked at.
        high_water: no connection has a lower one.
        large: a longer reply is checked, or handed over by itself.
        leave_gaps: keep delimiters between messages: see `Batch`.
        gap: the delimiter that the core keeps.
        told: the last (min_messages, delay_ns, leave_gaps) given to the core.
        dialled: the number of outgoing connections, until their end is dispatched.
        kept: the service is never given to another handler.
    """

    dialled: int
    dispatcher: Dispatcher | None
    kept: bool
    leave_gaps: bool
    number: int

    __slots__ = (
        "_framings",
        "_gaps",
        "_only",
        "_received",
        "_receivers",
        "dialled",
        "dispatcher",
        "gap",
        "high_water",
        "kept",
        "large",
        "leave_gaps",
        "lines",
        "longest",
        "number",
        "other",
        "reply_limit",
        "told",
    )

    def __init__(self, number: int, dispatcher: Dispatcher | None = None) -> None:
        self.number = number
        self.dispatcher = dispatcher
        self.dialled = 0
        self.kept = False
        self.lines: Delimiter | None = None
        self.longest: int = UNLIMITED
        self.reply_limit: int = UNLIMITED
        self.high_water: int = UNLIMITED
        self.large: int = LARGE_PIECE
        self.leave_gaps = True
        self.gap: bytes | None = None
        self.told: tuple[int, int, bool] | None = None
        self.other: bool = False
        self._gaps: Delimiter | None = None  # of what all connections receive
        self._received: Framing | None = None
        self._only: Framing | None = None
        self._framings = 0
        self._receivers = False

    @property
    def handler_name(self) -> str | None:
        """The name of the service's handler, for the log."""
        return None if self.dispatcher is None else self.dispatcher.name

    def note_framings(self, received: Framing | None, sent: Framing | None) -> None:
        """Prepare the service for connections with these framings."""
        received = received or Raw()
        sent = sent or received
        if not self._framings:
            self._gaps, self._received = Delimiter.of(received), received
            self.lines = self._gaps if sent == received else Delimiter.of(sent)
            self._only = sent
        else:
            if received != self._received:
                self._gaps = self._received = None
            if sent != self._only:
                self.lines = self._only = None
        self._framings += 1
        self.other = self.other or sent != received
        self.longest = min(self.longest, longest_reply(sent))
        self._set_limits()

    def note_receivers(self, some: bool) -> None:
        """Note whether some of the connections only receive."""
        self._receivers = some
        self._set_limits()

    def _set_limits(self) -> None:
        self.reply_limit = -1 if self._receivers else self.longest
        self.large = min(LARGE_PIECE, self.reply_limit)

    def fit(self, replies: list[Any]) -> bool:
        """True if every reply is small and fits every framing in use."""
        if self.reply_limit >= UNLIMITED:
            return len(replies[0]) <= LARGE_PIECE
        only = self._only
        if self._receivers:
            return False
        if isinstance(only, Fixed):
            return set(map(len, replies)) == {only.size}
        return max(map(len, replies)) <= self.large

    def check_sizes(self, sizes: set[int]) -> bool:
        """True if replies of these sizes fit every framing in use, unless connections
        have switched; False if the connections must be asked.

        Raises:
            ValueError: a size does not fit the framing that all connections share.
        """
        if not sizes or max(sizes) <= self.reply_limit:
            return True
        if self._only is None or self._receivers:
            return False
        for size in sizes:
            check_reply(self._only, size)
        return True

    @property
    def is_mixed(self) -> bool:
        """Whether replies cut as the messages are have to be checked."""
        return self.other or self._receivers

    def wants(self, minimum: int, delay_ns: int) -> tuple[int, int, bool]:
        """Return the settings for the core: (min_messages, delay_ns, leave_gaps)."""
        leave = self.leave_gaps and self._gaps is not None
        self.gap = self._gaps.delimiter if leave and self._gaps else None
        return minimum, delay_ns, leave
