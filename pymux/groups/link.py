"""The connection of a mux to the broker of a backplane: its life, and what waits.

    away ──▶ opening ──▶ resting ──▶ up
      ▲__________________________________│  the connection has ended

A link dials, opens its protocol, subscribes. While it is not `up`, messages wait. A
link that was away rests for PAUSE seconds before it sends them: when a broker comes
back, the other workers may take so long to redial, and what is sent before they have
subscribed again is lost to them.

When the link is up, each group tells its last number and asks the others for theirs.
So what was lost meanwhile becomes known although nobody sends more. The others answer
together after a moment, since many may ask at once.
"""

from __future__ import annotations

import contextlib
import enum
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from ..engine.engine import Engine
from ..engine.notices import tell
from ..engine.owner import FORKED
from ..engine.structs import endpoints_to, policy_of
from ..engine.timers import Timer
from ..handlers.all import service_to_dial
from ..handlers.threads import WORKERS
from ..objects.connection import Connection
from ..values.addresses import is_numeric
from ..values.errors import ConnectionClosed
from .backplane import Backplane, BadTalk, Talk
from .stamps import ASK, MESSAGE, TELL

if TYPE_CHECKING:
    from .group import Group

__all__ = ["Link", "link_of"]

FIRST_DELAY = 0.02  # seconds before the first attempt to dial again
PAUSE = 1.0  # seconds: the longest delay, and how long a link rests
OPEN_TIMEOUT = 5.0  # seconds until the broker has answered everything
BEAT = 5.0  # seconds between two pings; a broker that is silent in two is away
MOMENT = 0.05  # seconds in which questions are answered together


class State(enum.Enum):
    """How far the connection is."""

    AWAY = enum.auto()
    OPENING = enum.auto()
    RESTING = enum.auto()
    UP = enum.auto()


class Link:
    """One mux's connection to a broker, which it dials again when it is lost.

    The link is the connection's handler.

    Attributes:
        groups: those that are subscribed, by subject.
    """

    def __init__(self, engine: Engine, backplane: Backplane) -> None:
        service_to_dial(engine, self, False)  # raises where the mux has no handlers
        self.groups: dict[bytes, Group] = {}
        self._engine = engine
        self._backplane = backplane
        self._settings = backplane._settings()
        self._senders: weakref.WeakSet[Group] = weakref.WeakSet()
        self._kept: deque[tuple[Group, int, bytes]] = deque()
        self._kept_bytes = 0
        self._asked: set[bytes] = set()  # groups whose numbers others want to know
        self._state = State.AWAY
        self._conn: Connection | None = None
        self._talk: Talk | None = None
        self._max_payload = backplane._max_payload
        self._timer: Timer | None = None
        self._delay = FIRST_DELAY
        self._was_away = False  # since it was up
        self._heard = False  # since the last beat
        self._silent = 0  # beats without a word
        self._why = ""  # what the broker, or the link, has said of the end
        self._dial()

    # --- called by groups -------------------------------------------------------

    def join(self, group: Group) -> None:
        """Subscribe a group.

        Raises:
            RuntimeError: another group has this name.
        """
        if self.groups.get(group._subject) is group:
            return
        self._check_name(group)
        self.groups[group._subject] = group
        self._senders.add(group)
        self._try("subscribe", group._subject)
        if self._state is State.UP:
            self._stamp(group, ASK)

    def part(self, group: Group) -> None:
        """End a group's subscription, since nobody here hears it."""
        if self.groups.get(group._subject) is not group:
            return
        del self.groups[group._subject]
        self._try("unsubscribe", group._subject)
        if self._state is State.UP and group._number:
            self._stamp(group, TELL)

    def check(self, group: Group, size: int) -> None:
        """Check a message that is to be sent.

        Raises:
            ValueError: the broker does not take a message of this size.
            RuntimeError: another group has this name.
        """
        if size > self._max_payload:
            raise ValueError(
                f"the message has {size} bytes; the broker at {self._settings} takes "
                f"at most {self._max_payload}"
            )
        self._check_name(group)

    def _check_name(self, group: Group) -> None:
        if self.groups.get(group._subject, group) is not group:
            raise RuntimeError(
                f"another Group {group.name!r} of this mux has this backplane; use one "
                "object for both"
            )

    def publish(self, group: Group, number: int, data: bytes) -> None:
        """Send a message to the broker, or let it wait."""
        if number == 1:
            self._senders.add(group)
        if self._state is State.UP and self._talk is not None:
            stamp = group._own + MESSAGE + b"%d" % number
            try:
                self._talk.publish(group._subject, stamp, data)
                return
            except ConnectionClosed:  # its end is about to be told
                pass
        self._keep(group, number, data)

    def answer(self, group: Group) -> None:
        """Tell the number of a group's last message in a moment."""
        if self._state is State.UP:
            if not self._asked:
                self._engine.call_later(MOMENT, self._answer)
            self._asked.add(group._subject)

    # --- what waits -------------------------------------------------------------

    def _keep(self, group: Group, number: int, data: bytes) -> None:
        kept = self._kept
        kept.append((group, number, data))
        self._kept_bytes += len(data)
        backplane = self._backplane
        while len(kept) > backplane.keep or self._kept_bytes > backplane.keep_bytes:
            self._drop(*self._unkeep(), "too many wait")

    def _unkeep(self) -> tuple[Group, int, bytes]:
        group, number, data = self._kept.popleft()
        self._kept_bytes -= len(data)
        return group, number, data

    def _drop(self, group: Group, number: int, data: bytes, why: str) -> None:
        group.dropped += 1
        self._engine.counts.backplane_dropped += 1
        text = f"a message for the broker at {self._settings} was dropped: {why}"
        if self._engine.may_tell(("dropped", id(self)), "broker", text):
            tell("broker", "%s", text)

    # --- dialling ---------------------------------------------------------------

    def _dial(self) -> None:
        """Connect. A name is resolved in a thread."""
        engine = self._engine
        self._timer = None
        if engine.is_over():
            return
        self._state, self._why = State.OPENING, ""
        if is_numeric(self._settings.address):
            self._connect(self._resolve())
        else:
            WORKERS.submit(self._resolve_apart)

    def _resolve(self) -> Any:
        try:
            return endpoints_to(self._settings)
        except OSError as error:
            return error

    def _resolve_apart(self) -> None:
        found = self._resolve()
        with contextlib.suppress(RuntimeError):  # the mux is closed
            self._engine.call_threadsafe(self._connect, found)

    def _connect(self, found: Any) -> None:
        engine, settings = self._engine, self._settings
        try:
            if isinstance(found, OSError):
                raise found
            rules = policy_of(engine, settings, half_open=False, timeout=OPEN_TIMEOUT)
            rules.service, _ = service_to_dial(engine, self, False)
            shown = str(settings)
            self._conn = engine.dial(found, rules, settings.framings, shown)
        except OSError as error:
            self._lost(str(error))

    def _set_timer(self, delay: float, fn: Any) -> None:
        """Have one call later, instead of the one before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._engine.call_later(delay, fn)

    # --- the handler of the connection --------------------------------------------

    def opened(self, conn: Connection) -> None:
        """The connection has opened: begin the protocol."""
        if conn is not self._conn:
            return
        self._talk = self._backplane._talk(self)
        self._set_timer(OPEN_TIMEOUT, self._is_late)
        self._talk.open()

    def received(self, conn: Connection, data: bytes) -> None:
        """Take what the broker has sent."""
        if conn is not self._conn or self._talk is None:
            return
        self._heard = True
        try:
            self._talk.feed(data)
        except BadTalk as error:
            self._give_up(str(error))
        self._max_payload = self._talk.max_payload

    def closed(self, conn: Connection, error: OSError | None) -> None:
        """The connection has ended: dial again."""
        if conn is not self._conn:
            return
        engine = self._engine
        if engine.is_over():
            self._cease()
            return
        if engine.stopped is not None and error is None and not self._why:
            self._cease()  # a server's stop has closed it, behind all others
            return
        why = self._why or ("the broker has closed it" if error is None else str(error))
        self._lost(why)

    def _is_late(self) -> None:
        self._give_up(f"the broker has not answered within {OPEN_TIMEOUT:g} s")

    def _give_up(self, why: str) -> None:
        if self._conn is not None:
            self._why = why
            self._conn.abort()

    def _lost(self, why: str) -> None:
        was_up = self._state is State.UP
        self._cease()
        self._was_away = True
        text = f"the broker at {self._settings} is away"
        if self._engine.may_tell(("away", id(self)), "broker", text):
            lost = "the connection" if was_up else "connecting"
            tell("broker", "%s (%s has failed: %s)", text, lost, why)
        self._timer = self._engine.call_later(self._delay, self._dial)
        self._delay = min(PAUSE, 2 * self._delay)

    def _cease(self) -> None:
        self._state, self._conn, self._talk = State.AWAY, None, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for group in self.groups.values():
            group._confirmed = False

    # --- called by the protocol -------------------------------------------------

    def say(self, data: bytes) -> None:
        """Send bytes to the broker."""
        if self._conn is not None:
            self._conn.send(data)

    def in_force(self) -> None:
        """The broker has subscribed every group."""
        if self._state is not State.OPENING:
            return
        self._delay = FIRST_DELAY
        self._state = State.RESTING
        if self._was_away:
            self._set_timer(PAUSE, self._go_up)
        else:
            self._go_up()

    def confirmed(self, subject: bytes) -> None:
        """The broker has subscribed a group."""
        group = self.groups.get(subject)
        if group is not None:
            group._confirmed = True

    def refused(self, text: str) -> None:
        """Tell the operator of an error of the broker."""
        self._why = f"the broker has said: {text}"
        about = f"the broker at {self._settings} has refused something"
        if self._engine.may_tell(("refused", id(self), text), "broker", about):
            tell("broker", "%s: %s", about, text)

    # --- while it is up ---------------------------------------------------------

    def _go_up(self) -> None:
        """Send what has waited, then tell the numbers and ask for those of others."""
        conn, talk, kept = self._conn, self._talk, self._kept
        if conn is None or talk is None:
            return
        self._state = State.UP
        self._was_away = False
        self._why = ""
        waited = len(kept)
        while kept and not conn.closed:
            group, number, data = self._unkeep()
            if len(data) > talk.max_payload:
                self._drop(group, number, data, "it is too long for the broker")
            else:
                self.publish(group, number, data)
        for group in list(self._senders):
            if self.groups.get(group._subject) is group:
                self._stamp(group, ASK)
            elif group._number:
                self._stamp(group, TELL)
        text = "joined the broker at %s with %d groups; %d messages had waited"
        tell("joined", text, self._settings, len(self.groups), waited)
        self._heard, self._silent = True, 0
        self._beat()

    def _beat(self) -> None:
        """Look whether the broker is there, and have it say something."""
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        self._set_timer(BEAT, self._beat)
        if self._silent == 2:
            self._give_up(f"the broker was silent for {2 * BEAT:g} s")
        else:
            self._try("ping")

    def _answer(self) -> None:
        asked, self._asked = self._asked, set()
        for subject in asked:
            group = self.groups.get(subject)
            if group is not None and self._state is State.UP:
                self._stamp(group, TELL)

    def _stamp(self, group: Group, kind: bytes) -> None:
        """Tell the number of a group's last message."""
        stamp = group._own + kind + b"%d" % group._number
        self._try("publish", group._subject, stamp, b"")

    def _try(self, call: str, *args: Any) -> None:
        """Call the protocol, unless the end of the connection is about to be told."""
        if self._talk is not None:
            with contextlib.suppress(ConnectionClosed):
                getattr(self._talk, call)(*args)

    # --- called by the engine ---------------------------------------------------

    def end(self, engine: Engine) -> None:
        """The mux closes: what waits is lost."""
        waited = len(self._kept)
        while self._kept:
            group, _, _ = self._unkeep()
            group.dropped += 1
        if waited and self._engine.thread != FORKED:
            text = "%d messages for the broker at %s are lost, since the mux closes"
            tell("broker", text, waited, self._settings)
        self._cease()
        groups = list(self.groups.values())
        self.groups.clear()
        for group in (*groups, *self._senders):
            group._end(engine)


def link_of(engine: Engine, backplane: Backplane) -> Link:
    """Return the link of a mux to a broker, and make it at the first call.

    Raises:
        RuntimeError: the mux serves asyncio tasks alone.
    """
    found = engine.rooms.links.get(backplane)
    if isinstance(found, Link):
        return found
    link = engine.rooms.links[backplane] = Link(engine, backplane)
    return link
