"""The batch form is called once in each harvest that has messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..objects.batch import Batch
from ..objects.connection import Connection
from .base import Dispatcher, Leaving, OnError
from .marks import mark_of

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["BatchDispatcher"]


class BatchDispatcher(Dispatcher):
    """Calls `@batched def handler(batch)` once in each harvest."""

    delay_ns: int
    min_messages: int

    takes_outgoing = True

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        super().__init__(engine, handler, on_error)
        mark = mark_of(handler)
        if mark is not None:
            self.min_messages, self.delay_ns = mark

    def messages(self, batch: Batch) -> None:
        """Call the handler."""
        self.call_with_batch(batch, self.handler)

    def leaving(self, conn: Connection) -> Leaving | None:
        """Let a connection go whose `state` is not in use."""
        return self.leaves_nothing(conn)

    def refuses(self, state: bytes | None) -> str | None:
        """Take every connection that has no state."""
        return self.needs_no_state(state)
