"""The object form has a method for each step in a connection's life."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine.os_errors import aborted
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import begin_rows, call_for_each, row_count
from ..objects.status import is_closed, mark_closed
from ..values.errors import FATAL
from .base import Dispatcher, OnError
from .marks import mark_of

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["METHODS", "ObjectDispatcher"]

METHODS = {  # each with its arguments
    "opened": "conn",
    "received": "conn, data",
    "blocked": "conn",
    "drained": "conn",
    "closed": "conn, error",
}


class ObjectDispatcher(Dispatcher):
    """Calls an object's `opened`, `received`, `blocked`, `drained` and `closed`."""

    delay_ns: int
    min_messages: int

    takes_outgoing = True

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        methods = {name: getattr(handler, name, None) for name in METHODS}
        self.opened: Any = methods["opened"]
        self.received: Any = methods["received"]
        self.blocked: Any = methods["blocked"]
        self.drained: Any = methods["drained"]
        self.closed: Any = methods["closed"]
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

    def call(self, conn: Connection, method: Callable[..., Any], *args: Any) -> None:
        """Call a method that returns no answer."""
        try:
            method(*args)
        except BaseException as error:
            self.failed(conn, error)
