"""The object form: methods that are called as connections live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine.os_errors import aborted
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import begin_rows, call_for_each, has_news, row_count
from ..objects.status import is_closed, mark_closed
from ..values.errors import FATAL
from .base import Dispatcher, OnError
from .marks import mark_of

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["METHODS", "ObjectDispatcher"]

METHODS = ("opened", "received", "drained", "closed")


class ObjectDispatcher(Dispatcher):
    """An object with `opened`, `received`, `drained`, `closed`."""

    takes_outgoing = True

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        methods = {name: getattr(handler, name, None) for name in METHODS}
        self.opened: Any = methods["opened"]
        self.received: Any = methods["received"]
        self.drained: Any = methods["drained"]
        self.closed: Any = methods["closed"]
        mark = mark_of(self.received)
        self.whole: bool = mark is not None
        self.batch: Batch | None = None  # the one that is dispatched now,
        self.ends: Iterator[Any] = iter(())  # and whom `closed` is yet to get of it
        self.left: list[Connection] = []  # those that the mux's close has ended
        if mark:
            self.min_messages, self.delay_ns = mark

    def __call__(self, batch: Batch) -> None:
        """Dispatch one batch."""
        if not has_news(batch):
            self.messages(batch)
            return
        if self.closed and batch.closed:
            self.batch, self.ends = batch, iter(batch.closed)
        if self.opened and batch.opened:
            if not self.whole and row_count(batch):
                begin_rows(batch)
            for conn in batch.opened:
                self.call(conn, self.opened, conn)
        self.messages(batch)
        if self.drained and batch.drained:
            for conn in batch.drained:
                if not is_closed(conn):
                    self.call(conn, self.drained, conn)
        if self.closed:
            for conn, error in self.ends:
                self.call(conn, self.closed, conn, error)
        else:
            self.failed_to_connect(batch)
        self.batch = None

    def messages(self, batch: Batch) -> None:
        """Call `received`, for each message or with the batch."""
        if not self.received or not row_count(batch):
            return
        if self.whole:
            self.call_with_batch(batch, self.received)
        else:
            call_for_each(batch, self.received, self.failed)

    def told(self) -> set[Connection]:
        """The connections that are reported by the batch being dispatched."""
        return {conn for conn, _ in self.batch.closed} if self.batch else set()

    def bereave(self) -> None:
        """Keep hold of the connections that the close ends: `closed` gets them."""
        if self.closed:
            engine, told = self.engine, self.told()
            for conn in engine.table:
                if conn is None or conn in told:
                    continue
                if engine.dispatcher_of(conn.id) is self:
                    self.left.append(conn)

    def wind_up(self, cause: BaseException | None) -> None:
        """Where an error or a close of the mux ends the server, `closed` still gets
        every connection: first those of the dispatch that was cut short, then the
        others. A KeyboardInterrupt that `closed` raises leaves when all are told."""
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
        """Call a method that answers nothing."""
        try:
            method(*args)
        except BaseException as error:
            self.failed(conn, error)
