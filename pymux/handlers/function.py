"""The function form is called once for each message."""

from __future__ import annotations

from ..objects.batch import Batch
from ..objects.rows import call_for_each
from .base import Dispatcher

__all__ = ["FunctionDispatcher"]


class FunctionDispatcher(Dispatcher):
    """Calls `def handler(conn, data)` for each message."""

    def messages(self, batch: Batch) -> None:
        """Call the handler for each message; send its result before the next call."""
        call_for_each(batch, self.handler, self.failed)
