"""The object form has a method for each step in a connection's life."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine.os_errors import aborted
from ..engine.output import to_bytes
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import begin_rows, call_for_each, row_count
from ..objects.status import is_closed, mark_closed
from ..values.detached import MOST_SAVED
from ..values.errors import FATAL
from .base import LATER, STAYS, Dispatcher, Leaving, OnError
from .marks import mark_of

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["METHODS", "ObjectDispatcher"]

METHODS = {  # each with its arguments
    "opened": "conn",
    "received": "conn, data",
    "blocked": "conn",
    "drained": "conn",
    "draining": "conn",
    "closed": "conn, error",
    "leaving": "conn",
    "taken": "conn, state",
}


class ObjectDispatcher(Dispatcher):
    """Calls an object's `opened`, `received`, `blocked`, `drained`, `draining` and
    `closed`."""

    delay_ns: int
    min_messages: int
    asks: bool

    takes_outgoing = True

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        methods = {name: getattr(handler, name, None) for name in METHODS}
        self.opened: Any = methods["opened"]
        self.received: Any = methods["received"]
        self.blocked: Any = methods["blocked"]
        self.drained: Any = methods["drained"]
        self.draining: Any = methods["draining"]
        self.closed: Any = methods["closed"]
        self.leave: Any = methods["leaving"]
        self.take: Any = methods["taken"]
        self.asks = bool(self.leave or self.take)
        mark = mark_of(self.received)
        self.whole: bool = mark is not None
        self.batch: Batch | None = None  # being dispatched now
        self.ends: Iterator[Any] = iter(())  # (connection, error) left for `closed`
        self.left: list[Connection] = []  # connections that a close of the mux ended
        if mark:
            self.min_messages, self.delay_ns = mark

    def __call__(self, batch: Batch) -> None:
        """Dispatch one batch."""
        if self.closed and batch.closed:
            self.batch, self.ends = batch, iter(batch.closed)
        if self.opened and batch.opened:
            if not self.whole and row_count(batch):
                begin_rows(batch)
            for conn in batch.opened:
                self.call(conn, self.opened, conn)
        if row_count(batch):
            self.messages(batch)
        if self.blocked and batch.blocked:
            self.tell(batch.blocked, self.blocked)
        if self.drained and batch.drained:
            self.tell(batch.drained, self.drained)
        if self.closed:
            for conn, error in self.ends:
                self.call(conn, self.closed, conn, error)
        else:
            self.failed_to_connect(batch)
        self.batch = None

    def tell(self, conns: list[Connection], method: Callable[..., Any]) -> None:
        """Call a method with each connection that is not closed."""
        for conn in conns:
            if not is_closed(conn):
                self.call(conn, method, conn)

    def messages(self, batch: Batch) -> None:
        """Call `received` for each message, or with the whole batch."""
        if not self.received:
            return
        if self.whole:
            self.call_with_batch(batch, self.received)
        else:
            call_for_each(batch, self.received, self.failed)

    @property
    def says_goodbye(self) -> bool:
        """Return True if the object has `draining`."""
        return self.draining is not None

    def say_draining(self, conns: list[Connection]) -> None:
        """Call `draining` with each connection that is not closed."""
        self.tell(conns, self.draining)

    def told(self) -> set[Connection]:
        """Return the connections that the present batch reports as closed."""
        return {conn for conn, _ in self.batch.closed} if self.batch else set()

    def bereave(self) -> None:
        """Keep the connections that the close ends, so that `closed` gets them."""
        if self.closed:
            engine, told = self.engine, self.told()
            for conn in engine.table:
                if conn is None or conn in told:
                    continue
                if engine.dispatcher_of(conn.id) is self:
                    self.left.append(conn)

    def wind_up(self, cause: BaseException | None) -> None:
        """Call `closed` for every connection that is left when the server ends.
        Connections of an interrupted dispatch come first. A KeyboardInterrupt that
        `closed` raises is raised again after the last call."""
        if not self.closed:
            return
        told = self.told()
        self.bereave()
        left, self.left = self.left, []
        raised: list[BaseException] = []
        for conn, end in [*self.ends, *((conn, None) for conn in left)]:
            if conn in told:
                error = end
            else:
                mark_closed(conn)
                error = aborted(self.engine.causes.get(conn.id, cause))
            try:
                self.call(conn, self.closed, conn, error)
            except FATAL as fatal:
                raised.append(fatal)
        self.batch = None
        if raised and cause is None:
            raise raised[0]

    # --- moving -----------------------------------------------------------

    def leaving(self, conn: Connection) -> bytes | Leaving | None:
        """Ask the handler's `leaving`. Without `taken` a connection stays that another
        object would greet again, or that would lose its state."""
        if not self.take and (self.opened or self.leaves_nothing(conn)):
            return STAYS
        if not self.leave:
            return None
        try:
            state = self.leave(conn)
            if state is None:
                return LATER
            state = to_bytes(state)
        except BaseException as error:
            self.failed(conn, error)
            return STAYS
        if len(state) > MOST_SAVED:
            size = f"{len(state)} bytes; at most {MOST_SAVED} are accepted"
            self.report(conn, ValueError(f"leaving returned {size}"))
            return STAYS
        if state and not self.take:
            return STAYS
        return state if self.take else None

    def refuses(self, state: bytes | None) -> str | None:
        """Take a connection if the handler has `taken`, or nothing to tell it."""
        if self.take:
            return None
        if self.opened:
            return f"the handler {self.name} has opened(conn), not taken(conn, state)"
        return self.needs_no_state(state)

    def taken(self, conn: Connection, state: bytes | None) -> None:
        """Call `taken`."""
        if self.take:
            self.call(conn, self.take, conn, state)

    def lost(self, conn: Connection, error: OSError) -> None:
        """Call `closed`."""
        if self.closed:
            self.call(conn, self.closed, conn, error)

    # --- calling ----------------------------------------------------------

    def call(self, conn: Connection, method: Callable[..., Any], *args: Any) -> None:
        """Call a method that returns no answer."""
        try:
            method(*args)
        except BaseException as error:
            self.failed(conn, error)
