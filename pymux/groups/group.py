"""A group: connections that get the same messages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..engine.engine import Engine
from ..engine.notices import tell
from ..engine.output import to_bytes
from ..engine.owner import FORKED
from ..mux import Mux
from ..objects.base import engine_of as engine_of_mux
from ..objects.connection import Connection
from ..objects.status import engine_of, open_ids, open_ones
from ..values.errors import FATAL, ConnectionClosed, no_copy
from .backplane import Backplane
from .link import link_of
from .stamps import ASK, MESSAGE, SENDER, new_sender

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .link import Link

__all__ = ["Group"]

PREFIX = "pymux."
LONGEST = 1024  # bytes of a subject
SENDERS = 4096  # whose numbers a group remembers


class Group:
    """Connections that get the same messages: a room of a chat, a topic.

    A connection leaves by itself when it ends. A group belongs to the mux of its first
    member, and to that mux's thread; once that mux has closed, a member may be of
    another. With a backplane, groups of the same name in other workers, on other
    machines too, are one group.

    Members here get what is sent here in program order. A message for other workers
    is sent at most once, and each worker's messages arrive in their order. `on_gap`
    tells of those that were lost: that a broker was away, or has cut off a worker that
    read too slowly. While the broker is away, members here still hear each other,
    and up to `keep` messages of the mux wait for the broker.

    Args:
        name: the same in every worker; at the broker it is the subject, or channel,
            ``pymux.`` and the name, with what is neither letter, digit, ``_``, ``-``
            nor ``~`` as %XX.
        backplane: a `Nats` or a `Redis`; None has members of one mux only.
        drop_slow: a member with more output queued than its `Limits.high_water` (or
            that of any other member, if that is less) is passed over, and counted in
            `skipped`. False: it gets the message too, and ends with `ENOBUFS` at
            `Limits.max_output`.
        on_gap: called as ``on_gap(group, lost)`` when `lost` messages of a worker have
            not reached this one. Those that follow have not been delivered yet.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Attributes:
        name: the name.
        skipped: deliveries that `drop_slow` has passed over.
        lost: messages that `on_gap` has told of.
        dropped: messages sent here that no other worker will get, since too many
            waited for the broker, or one was too long for it.

    >>> import pymux
    >>> lobby = pymux.Group("lobby")
    >>> class Chat:
    ...     def opened(self, conn):
    ...         lobby.add(conn)
    ...     def received(self, conn, data):
    ...         lobby.send(data)
    >>> with pymux.Server(Chat(), ("127.0.0.1", 0), framing=pymux.Lines()) as server:
    ...     with pymux.connect(server.address, framing=pymux.Lines()) as client:
    ...         client.send(b"hello")
    ...         client.recv()
    b'hello'
    """

    __slots__ = (
        "__weakref__",
        "_attached",
        "_backplane",
        "_confirmed",
        "_drop_slow",
        "_engine",
        "_high_water",
        "_link",
        "_members",
        "_number",
        "_on_gap",
        "_own",
        "_senders",
        "_subject",
        "dropped",
        "lost",
        "name",
        "skipped",
    )

    def __init__(
        self,
        name: str,
        backplane: Backplane | None = None,
        *,
        drop_slow: bool = False,
        on_gap: Callable[[Group, int], Any] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name is {name!r}; a str is needed")
        if not name:
            raise ValueError("name is ''; a str that is not empty is needed")
        if backplane is not None and not isinstance(backplane, Backplane):
            raise TypeError(
                f"backplane is {backplane!r}; a pymux.Nats, a pymux.Redis or None is "
                "needed"
            )
        if not isinstance(drop_slow, bool):
            raise TypeError(f"drop_slow is {drop_slow!r}; True or False is needed")
        if on_gap is not None and not callable(on_gap):
            raise TypeError(f"on_gap is {on_gap!r}; a callable or None is needed")
        subject = (PREFIX + quote(name, safe="").replace(".", "%2E")).encode()
        if len(subject) > LONGEST:
            raise ValueError(
                f"name is {name[:40]!r}...; as a subject it has {len(subject)} bytes, "
                f"and at most {LONGEST} are possible"
            )
        self.name: str = name
        self.skipped: int = 0
        self.lost: int = 0
        self.dropped: int = 0
        self._backplane = backplane
        self._drop_slow = drop_slow
        self._on_gap = on_gap
        self._subject = subject
        self._members: dict[int, Connection] = {}
        self._engine: Engine | None = None
        self._link: Link | None = None
        self._attached = False
        self._confirmed = False  # the broker has subscribed this group
        self._high_water = 0
        self._own = b""  # its name at other workers
        self._number = 0  # of the last message that was sent here
        self._senders: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Group {self.name!r}, {len(self)} members>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    # --- members ------------------------------------------------------------

    def attach(self, mux: Mux) -> None:
        """Belong to a mux before there is a member, in `started(mux)` say.

        So a worker that has no members here can send. The group then hears the other
        workers whether or not it has members.

        Args:
            mux: an open mux, of this thread.

        Raises:
            TypeError: `mux` is no mux.
            ValueError: the group belongs to another mux.
            RuntimeError: as for `add`.
        """
        if not isinstance(mux, Mux):
            raise TypeError(f"mux is {mux!r}; a pymux.Mux is needed")
        self._belong_to(engine_of_mux(mux))
        self._attached = True
        if self._link is not None:
            self._link.join(self)

    def add(self, conn: Connection) -> None:
        """Make a connection a member, until it ends or `discard` is called.

        A second call does nothing, nor does a call for a connection that is closed.
        With a backplane, the first member makes the mux subscribe; a member hears of
        other workers what they send once the broker has done so.

        Args:
            conn: a connection, open or not open yet.

        Raises:
            TypeError: `conn` is no connection.
            ValueError: the connection is of another mux than the other members.
            RuntimeError: outside the mux's thread; another group of this name has
                this backplane in this mux; or the mux serves asyncio tasks alone
                (`pymux.aio.connect`) and the group has a backplane.
        """
        if not isinstance(conn, Connection):
            raise TypeError(f"conn is {conn!r}; a pymux.Connection is needed")
        engine = engine_of(conn)
        if conn.closed:
            return
        self._belong_to(engine)
        if conn.id in self._members:
            return
        if self._drop_slow:
            water = engine.water_of(conn.id)
            if water is not None and (not self._members or water[0] < self._high_water):
                self._high_water = water[0]
        if self._link is not None:
            self._link.join(self)
        engine.rooms.enter(conn.id, self._forget)
        self._members[conn.id] = conn

    def discard(self, conn: Connection) -> None:
        """Take a connection out of the group, if it is a member.

        Args:
            conn: any connection.

        Raises:
            RuntimeError: outside the mux's thread.
        """
        if self._members.get(getattr(conn, "id", -1)) is not conn:
            return
        engine = engine_of(conn)
        engine.check()
        engine.rooms.leave(conn.id, self._forget)
        self._forget(conn.id)

    def __contains__(self, conn: object) -> bool:
        """Whether a connection is a member, and not closed."""
        found = self._members.get(getattr(conn, "id", -1))
        return found is not None and found is conn and not found.closed

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over the members here, as they are at the call.

        A member that is closed, or whose end is being reported, is none any more.
        """
        return iter(open_ones(self._members.values()))

    def __len__(self) -> int:
        """Return the number of members here."""
        return len(open_ones(self._members.values()))

    def __bool__(self) -> bool:
        """Return True, though there be no member."""
        return True

    @property
    def connected(self) -> bool:
        """Whether messages of other workers arrive: the broker has subscribed it.

        Always True without a backplane.
        """
        return self._backplane is None or self._confirmed

    # --- sending --------------------------------------------------------------

    def send(self, data: Buffer) -> int:
        """Send a message to every member, here and at other workers.

        The messages of a turn leave together, at its end. A sender that is a member
        gets its message too.

        Args:
            data: bytes-like; its bytes are copied now.

        Returns:
            How many members here got the message. After the mux has closed, 0.

        Raises:
            TypeError: `data` is not bytes-like; a str must be encoded.
            ValueError: the framing of a member here cannot carry the message, or it is
                longer than the broker takes; nothing is sent.
            RuntimeError: outside the mux's thread (there, call
                ``mux.call_threadsafe(group.send, data)``); or the group has a
                backplane and had no member yet: see `attach`.
        """
        engine = self._engine
        data = to_bytes(data)
        if engine is None or engine.is_over():
            if engine is None and self._backplane is not None:
                raise RuntimeError(
                    f"{self!r} had no member yet, so it has no mux to reach its "
                    "backplane over; call attach(mux) first, in started(mux) say"
                )
            self.dropped += self._backplane is not None
            return 0
        engine.check()
        link = self._link
        if link is not None:
            link.check(self, len(data))
        count = self._deliver(engine, [data])
        if link is not None:
            self._number += 1
            link.publish(self, self._number, data)
        return count

    def _deliver(self, engine: Engine, messages: list[bytes]) -> int:
        """Send messages to the members; return to how many the last one went."""
        ids = open_ids(self._members.values())
        if not ids:
            return 0
        if not self._drop_slow:
            engine.send_to_all(ids, messages)
            return len(ids)
        count = 0
        for data in messages:
            chosen, count = engine.pass_over(ids, self._high_water)
            engine.send_shared(chosen, count, data)
            self.skipped += len(ids) - count
        return count

    # --- called by the engine ---------------------------------------------------

    def _forget(self, id: int) -> None:
        """Forget a member, which has ended."""
        self._members.pop(id, None)
        link = self._link
        if link is not None and not self._members and not self._attached:
            link.part(self)
            self._senders.clear()
            self._confirmed = False

    def _end(self, engine: Engine | None) -> None:
        """The mux closes, and the members with it."""
        if engine is not self._engine:
            return  # a forked child, or a later server, has another
        self._members.clear()
        self._senders.clear()
        self._attached = self._confirmed = False
        self._link = None

    # --- called by the link -----------------------------------------------------

    def _take(self, messages: list[bytes]) -> None:
        """Deliver messages of other workers, then clear the list."""
        engine = self._engine
        if engine is None or engine.is_over():
            return
        if max(map(len, messages)) <= engine.reply_limit:
            self._deliver(engine, messages)
        else:
            for data in messages:
                self._deliver_if_fit(engine, data)
        messages.clear()

    def _deliver_if_fit(self, engine: Engine, data: bytes) -> None:
        """Deliver a message to those members whose framings can carry it."""
        try:
            self._deliver(engine, [data])
            return
        except ValueError as error:
            why = str(error)
        for conn in self:
            with contextlib.suppress(ValueError, ConnectionClosed):
                conn.send(data)
        text = f"a message for the group {self.name!r} does not fit some members"
        if engine.may_tell(("unfit", self._subject), "broker", text):
            tell("broker", "%s: %s", text, why)

    def _unusual(self, key: bytes, number: int) -> bool:
        """Take a stamp that is not the next one of its sender.

        Args:
            key: the stamp before the number.
            number: the number.

        Returns:
            Whether the message with the stamp is to be delivered.
        """
        kind, sender = key[-1:], key[:-1] + MESSAGE
        if sender[-SENDER - 1 : -1] == self._own:
            return False
        senders = self._senders
        last = senders.get(sender)
        if last is None or number > last:
            if last is None and len(senders) >= SENDERS:
                del senders[next(iter(senders))]
            senders[sender] = number
        if kind == ASK and self._link is not None:
            self._link.answer(self)
        if last is not None and number > last:
            self._tell_lost(number - last - (kind == MESSAGE))
        return kind == MESSAGE and (last is None or number > last)

    def _tell_lost(self, lost: int) -> None:
        if not lost:
            return
        self.lost += lost
        engine = self._engine
        if self._on_gap is None or engine is None:
            return
        try:
            self._on_gap(self, lost)
        except FATAL:
            raise
        except BaseException as error:
            if engine.on_callback_error is not None:
                engine.on_callback_error(error, f"on_gap of the group {self.name!r}")
            else:
                engine.call_threadsafe(_raise, error)

    # --- its mux ------------------------------------------------------------------

    def _belong_to(self, engine: Engine) -> None:
        """Belong to a mux, if the group has none or one that has closed."""
        engine.check()
        ours = self._engine
        if ours is engine:
            return
        if ours is not None and not ours.is_over() and ours.thread != FORKED:
            raise ValueError(f"{self!r} belongs to another mux")
        link = None
        if self._backplane is not None:
            link = link_of(engine, self._backplane)
        self._end(ours)
        self._own, self._number = new_sender(), 0
        self._engine, self._link = engine, link


def _raise(error: BaseException) -> None:
    raise error
