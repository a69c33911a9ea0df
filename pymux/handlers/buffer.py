"""Buffers for messages that a coroutine handler has not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..engine.arena import ROW_COST, UNSIZED
from ..engine.ops import HOLD, KEPT, RELEASE, TAKEN
from ..engine.os_errors import number_of
from ..objects.status import buffer_of, engine_of, is_closed
from ..values.errors import ConnectionClosed

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..objects.connection import Connection

__all__ = ["ReceiveBuffer", "TaskBuffer"]

EAGER = 64  # awaits that end at once before the mux gets a turn


class ReceiveBuffer:
    """One connection's untaken messages and its end.

    Subclasses decide how a task waits for messages.
    """

    __slots__ = (
        "_water",
        "conn",
        "eager",
        "engine",
        "held",
        "kept",
        "lost",
        "over",
        "sized",
        "untaken",
        "untaken_size",
        "waiting",
    )

    def __init__(self, conn: Connection) -> None:
        self.conn: Connection = conn
        self.engine: Engine = engine_of(conn)
        splitting = self.engine.splitting
        self.untaken: deque[bytes] | None = None
        self.untaken_size: int = 0  # bytes counted; 0 while a task takes a whole batch
        self.held: bool = False
        self.kept: bool = False  # the core knows of untaken messages
        self.over: bool = False  # no more messages come
        self.lost: BaseException | None = None  # the error that ended the connection
        self.sized: bool = splitting is None or not splitting.splits(conn.id)  # bytes
        self.waiting: Any = None  # a call's name, a `_Dial` or a dialled buffer
        self.eager: int = 0  # awaits that ended at once since the mux's last turn
        self._water: tuple[int, int] | None = None  # high and low, once asked for

    @property
    def high_water(self) -> int:
        """The connection's high water; the engine is asked once."""
        if self._water is None:
            self._water = self.engine.water_of(self.conn.id)
        return 0 if self._water is None else self._water[0]

    def list_untaken(self) -> list[bytes]:
        """List the untaken messages."""
        return list(self.untaken or ())

    def give_back(self) -> None:
        """Return the untaken messages to the core."""
        self.untaken, self.untaken_size = None, 0
        if self.kept:
            self.tell_taken()
        if self.held:
            self.held = False
            self.engine.log.op(self.conn.id | RELEASE)

    def shut(self) -> None:
        """Drop all messages: the handler has closed the connection."""
        self.over = True
        self.untaken = None

    def keep(self, messages: Iterable[bytes]) -> None:
        """Hold messages until the coroutine asks; pause reading over high water."""
        untaken = self.untaken
        if untaken is None:  # a collection may run here, and close this connection
            untaken = self.untaken = deque()
        if self.sized:
            for data in messages:
                untaken.append(data)
                self.untaken_size += len(data) + ROW_COST
        else:
            before = len(untaken)
            untaken.extend(messages)
            self.untaken_size += (len(untaken) - before) * (UNSIZED + ROW_COST)
        if not self.held and self.untaken_size > self.high_water:
            self.held = True
            self.engine.log.op(self.conn.id | HOLD)

    def tell_kept(self) -> None:
        """Tell the core once that messages wait to be taken.

        Until the last one is taken and answered, the core stops the peer's idle
        clock and counts output as answers.
        """
        if not self.kept:
            self.kept = True
            self.engine.log.op(self.conn.id | KEPT)

    def tell_taken(self) -> None:
        """Tell the core that the last waiting message was taken."""
        self.kept = False
        self.engine.log.op(self.conn.id | TAKEN)

    def take(self) -> bytes | None:
        """Take the next message. Without one, return None at the end of the stream;
        raise if the connection is lost."""
        untaken = self.untaken
        if untaken:
            data = untaken.popleft()
            if untaken:
                if not self.kept:
                    self.tell_kept()
            else:
                self.untaken = None
                if self.kept:
                    self.tell_taken()
            if self.untaken_size:  # the message was counted
                size = len(data) if self.sized else UNSIZED
                self.untaken_size -= size + ROW_COST
                if self.held and self._water and self.untaken_size <= self._water[1]:
                    self.held = False
                    self.engine.log.op(self.conn.id | RELEASE)
            return data
        if self.lost is not None or is_closed(self.conn):
            self.note_told()
            raise self.closed_error()
        return None

    def too_eager(self) -> bool:
        """Count an await that can end at once; True if the mux needs a turn first.
        A loop of such awaits would never give the mux a turn."""
        self.eager += 1
        if self.eager <= EAGER:
            return False
        self.eager = 0
        return True

    def note_end(self, error: BaseException | None, gone: bool) -> None:
        """Note that no more messages come, and the error if the connection is gone."""
        self.over = True
        if gone and error is not None and self.lost is None:
            self.lost = error

    def note_told(self) -> None:
        """Note that `ConnectionClosed` is raised in the coroutine that runs, if it is
        the connection's own."""

    def check_end(self) -> None:
        """Raise `ConnectionClosed` in the connection's own coroutine, unless the
        connection is open, or the coroutine was told of the end before."""
        ended = self.lost is not None or is_closed(self.conn)
        if ended and self not in self.engine.aware:
            self.engine.aware.add(self)
            raise self.closed_error()

    def ends_wait(self) -> bool:
        """Return True if the end of the connection is raised where the coroutine
        waits."""
        return False

    def closed_error(self) -> ConnectionClosed:
        """Make the error that recv and drain raise after the connection is lost."""
        lost = self.lost
        number = None if lost is None else number_of(lost)
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

    def is_awaited(self, call: str) -> bool:
        """Return True if the coroutine waits in the named call on this connection."""
        raise NotImplementedError

    def deliver(self, data: bytes) -> None:
        """Give a new message to the coroutine, or keep the message."""
        if self.is_awaited("recv"):
            self.task.resume(data)
        else:
            self.keep((data,))
            self.tell_kept()

    def deliver_all(self, messages: list[bytes]) -> None:
        """Give several new messages to the coroutine. Only messages that the
        coroutine leaves in the buffer count as untaken."""
        if not self.is_awaited("recv"):
            self.keep(messages)
            self.tell_kept()
            return
        first, *rest = messages
        if rest:
            self.untaken = deque(rest)
        self.task.resume(first)
        if self.untaken and buffer_of(self.conn) is self:
            rest, self.untaken = list(self.untaken), None
            self.keep(rest)
            self.tell_kept()
        elif self.kept:
            self.tell_taken()

    def is_at_work(self) -> bool:
        """Return True unless the coroutine waits for the peer."""
        return not self.is_awaited("recv") and not self.is_awaited("drain")

    def lend(self, task: Any) -> bool:
        """Let another coroutine of the same connection receive from here. True if it
        may, and is the buffer's `task` now."""
        return False

    def drained(self) -> None:
        """Resume the coroutines in `drain`: output fell under low water."""
        if self.is_awaited("drain"):
            self.task.resume(None)
        for guest in self.engine.guests.pop(self, ()):
            guest.wake(None)

    def end(self, error: BaseException | None, gone: bool) -> None:
        """Tell the coroutine that the stream has ended or the connection is gone."""
        self.note_end(error, gone)
        if self.is_awaited("recv"):
            if self.lost is not None or is_closed(self.conn):
                self.task.throw(self.closed_error())
            else:
                self.task.resume(None)
        elif gone and self.is_awaited("drain"):
            self.task.throw(self.closed_error())
        for guest in self.engine.guests.pop(self, ()) if gone else ():
            guest.wake(self.closed_error())
