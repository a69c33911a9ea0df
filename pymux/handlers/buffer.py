"""What a coroutine handler has been brought and has not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..engine.ops import HOLD, KEPT, RELEASE, TAKEN
from ..objects.status import buffer_of, engine_of, is_closed
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..objects.connection import Connection

__all__ = ["ReceiveBuffer", "TaskBuffer"]

UNSIZED = 4096  # bytes that a message counts whose size is not known
ROW_COST = 64  # bytes that a message not taken counts beside its length
EAGER = 64  # awaits that are satisfied at once, then the mux has a turn


class ReceiveBuffer:
    """One connection's messages, and what has become of it.

    Who waits for them, and how, is the matter of those who derive from it.
    """

    __slots__ = (
        "_water",
        "conn",
        "eager",
        "engine",
        "held",
        "inbox",
        "inbox_size",
        "kept",
        "lost",
        "over",
        "sized",
        "waiting",
    )

    def __init__(self, conn: Connection) -> None:
        self.conn: Connection = conn
        self.engine: Engine = engine_of(conn)
        self.inbox: deque[bytes] | None = None
        self.inbox_size: int = 0  # what of it counts: not while all is being taken
        self.held: bool = False
        self.kept: bool = False  # the core was told that there are messages
        self.over: bool = False  # no more messages come
        self.lost: BaseException | None = None  # why, where it was lost
        self.sized: bool = not self.engine.splits(conn.id)  # messages are bytes
        self.waiting: Any = None  # what a task waits in, or a dialled buffer
        self.eager: int = 0  # awaits satisfied at once since it gave a turn
        self._water: tuple[int, int] | None = None  # high and low, once asked for

    @property
    def high_water(self) -> int:
        """The connection's own, asked for once."""
        if self._water is None:
            self._water = self.engine.water_of(self.conn.id)
        return 0 if self._water is None else self._water[0]

    def untaken(self) -> list[bytes]:
        """The messages that have not been taken."""
        return list(self.inbox or ())

    def give_back(self) -> None:
        """Those messages are the core's again."""
        self.inbox, self.inbox_size = None, 0
        if self.kept:
            self.tell_taken()
        if self.held:
            self.held = False
            self.engine.log.op(self.conn.id | RELEASE)

    def shut(self) -> None:
        """The connection was closed here: no further message reaches a handler."""
        self.over = True
        self.inbox = None

    def keep(self, messages: Iterable[bytes]) -> None:
        """Hold messages until the coroutine asks; reading pauses over high
        water."""
        inbox = self.inbox
        if inbox is None:  # a collection may run here, and close this connection
            inbox = self.inbox = deque()
        if self.sized:
            for data in messages:
                inbox.append(data)
                self.inbox_size += len(data) + ROW_COST
        else:
            before = len(inbox)
            inbox.extend(messages)
            self.inbox_size += (len(inbox) - before) * (UNSIZED + ROW_COST)
        if not self.held and self.inbox_size > self.high_water:
            self.held = True
            self.engine.log.op(self.conn.id | HOLD)

    def tell_kept(self) -> None:
        """Messages wait to be taken: the core is told, once.

        So the peer's clock stands, and what is sent is answers, until the
        last of them is taken and answered.
        """
        if not self.kept:
            self.kept = True
            self.engine.log.op(self.conn.id | KEPT)

    def tell_taken(self) -> None:
        """The last one of several messages was taken."""
        self.kept = False
        self.engine.log.op(self.conn.id | TAKEN)

    def take(self) -> bytes | None:
        """The next message; what the end is, where there are none."""
        inbox = self.inbox
        if inbox:
            data = inbox.popleft()
            if inbox:
                if not self.kept:
                    self.tell_kept()
            else:
                self.inbox = None
                if self.kept:
                    self.tell_taken()
            if self.inbox_size:  # it was kept
                size = len(data) if self.sized else UNSIZED
                self.inbox_size -= size + ROW_COST
                if self.held and self._water and self.inbox_size <= self._water[1]:
                    self.held = False
                    self.engine.log.op(self.conn.id | RELEASE)
            return data
        if self.lost is not None or is_closed(self.conn):
            raise self.closed_error()
        return None

    def too_eager(self) -> bool:
        """An await is about to be satisfied at once: whether the mux is to have
        a turn first. A loop of such awaits would never let it have one."""
        self.eager += 1
        if self.eager <= EAGER:
            return False
        self.eager = 0
        return True

    def note_end(self, error: BaseException | None, gone: bool) -> None:
        """No more messages come; where the connection is gone, why."""
        self.over = True
        if gone and error is not None and self.lost is None:
            self.lost = error

    def closed_error(self) -> ConnectionClosed:
        """What recv and drain raise once the connection is lost."""
        lost = self.lost
        number = getattr(lost, "errno", None)
        text = f"{self.conn!r}: {lost}" if lost else f"{self.conn!r} is closed"
        args = (number, text) if number is not None else (text,)
        error = ConnectionClosed(*args, connection=self.conn)
        error.__cause__ = lost
        return error


class TaskBuffer(ReceiveBuffer):
    """A connection's messages for a coroutine that the mux steps.

    Attributes:
        task: the `Task` of the coroutine.
    """

    __slots__ = ()

    task: Any

    def is_awaited(self, what: str) -> bool:
        """Whether the coroutine waits for this of this connection."""
        raise NotImplementedError

    def deliver(self, data: bytes) -> None:
        """A message came."""
        if self.is_awaited("recv"):
            self.task.resume(data)
        else:
            self.keep((data,))
            self.tell_kept()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Several came. A coroutine that waits finds them all, and only what it
        leaves counts as input not taken."""
        if not self.is_awaited("recv"):
            self.keep(messages)
            self.tell_kept()
            return
        first, *rest = messages
        if rest:
            self.inbox = deque(rest)
        self.task.resume(first)
        if self.inbox and buffer_of(self.conn) is self:
            rest, self.inbox = list(self.inbox), None
            self.keep(rest)
            self.tell_kept()
        elif self.kept:
            self.tell_taken()

    def is_at_work(self) -> bool:
        """Whether the coroutine does not wait for what the peer does."""
        return not self.is_awaited("recv") and not self.is_awaited("drain")

    def drained(self) -> None:
        """Output fell under low water."""
        if self.is_awaited("drain"):
            self.task.resume(None)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """The stream has ended (error None), or the connection is lost."""
        self.note_end(error, gone)
        if self.is_awaited("recv"):
            if self.lost is not None or is_closed(self.conn):
                self.task.throw(self.closed_error())
            else:
                self.task.resume(None)
        elif gone and self.is_awaited("drain"):
            self.task.throw(self.closed_error())
