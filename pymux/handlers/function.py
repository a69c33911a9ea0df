"""The function form is called once for each message."""

from __future__ import annotations

from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import call_for_each
from .base import Dispatcher, Leaving

__all__ = ["FunctionDispatcher"]


class FunctionDispatcher(Dispatcher):
    """Calls `def handler(conn, data)` for each message."""

    def messages(self, batch: Batch) -> None:
        """Call the handler for each message; send its result before the next call."""
        call_for_each(batch, self.handler, self.failed)

    def leaving(self, conn: Connection) -> Leaving | None:
        """Let a connection go whose `state` is not in use."""
        return self.leaves_nothing(conn)

    def refuses(self, state: bytes | None) -> str | None:
        """Take every connection that has no state."""
        return self.needs_no_state(state)
