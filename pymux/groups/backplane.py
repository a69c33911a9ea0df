"""What both brokers have in common: the settings, and what a protocol is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..values.checks import set_fields, whole
from ..values.endpoint import Connectable, Settings, connect_settings
from ..values.limits import Limits
from ..values.tls import SSLContext

if TYPE_CHECKING:
    from .group import Group

__all__ = ["Backplane", "BadTalk", "Link", "Talk"]

KEEP = 1000  # messages that wait for a broker
KEEP_BYTES = 1 << 20
# A burst of messages must not keep the answers of the broker from being read.
LIMITS = Limits(high_water=8 << 20, low_water=2 << 20, max_output=16 << 20)


class BadTalk(Exception):
    """The broker has said what its protocol does not have, or has refused us."""


class Link(Protocol):
    """What a protocol tells of."""

    groups: dict[bytes, Group]

    def say(self, data: bytes) -> None:
        """Send bytes to the broker."""

    def in_force(self) -> None:
        """The broker has answered everything that was said when it opened."""

    def confirmed(self, subject: bytes) -> None:
        """The broker has answered that it subscribes a subject."""

    def refused(self, text: str) -> None:
        """The broker has refused something, and perhaps ends the connection."""


class Talk(Protocol):
    """The protocol of one connection to a broker."""

    max_payload: int

    def open(self) -> None:
        """The connection has opened."""

    def feed(self, data: bytes) -> None:
        """Take bytes of the broker.

        Raises:
            BadTalk: they are not of the protocol.
        """

    def subscribe(self, subject: bytes) -> None:
        """Subscribe, unless the connection has not come so far as to subscribe all."""

    def unsubscribe(self, subject: bytes) -> None:
        """End a subscription."""

    def publish(self, subject: bytes, stamp: bytes, data: bytes) -> None:
        """Publish a message."""

    def ping(self) -> None:
        """Make the broker say something."""


@dataclass(frozen=True)
class Backplane:
    """A broker, and what a worker does while the broker is away.

    Groups whose backplanes are equal share one connection of their mux.
    """

    address: Connectable
    ssl: SSLContext | bool | None = None
    limits: Limits | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    keep: int = KEEP
    keep_bytes: int = KEEP_BYTES

    _max_payload: ClassVar[int]  # before a broker has told another limit

    def __init__(
        self,
        address: Connectable,
        *,
        ssl: SSLContext | bool | None = None,
        limits: Limits | None = None,
        user: str | None = None,
        password: str | None = None,
        keep: int = KEEP,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        for name, value in (("user", user), ("password", password)):
            if value is not None and not isinstance(value, str):
                kind = type(value).__name__  # a password is not shown
                raise TypeError(f"{name} is of type {kind}; a str or None is needed")
        if user is not None and password is None:
            raise ValueError(f"user is {user!r} and password is None; give both")
        set_fields(
            self,
            address=address,
            ssl=ssl,
            limits=limits,
            user=user,
            password=password,
            keep=whole("keep", keep, 0, 2**31 - 1),
            keep_bytes=whole("keep_bytes", keep_bytes, 0, 2**62),
        )
        self._settings()

    def _settings(self) -> Settings:
        """Return how to connect.

        Raises:
            TypeError, ValueError: an argument is wrong or does not apply.
        """
        return connect_settings(
            self.address,
            ssl=self.ssl,
            limits=LIMITS if self.limits is None else self.limits,
            refuse=("handler", "framing", "reply_framing"),
        )

    def _talk(self, link: Link) -> Talk:
        """Return the protocol of a new connection."""
        raise NotImplementedError
