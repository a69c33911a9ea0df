"""The function form: called once a message."""

from __future__ import annotations

from ..objects.batch import Batch
from ..objects.rows import call_for_each, has_news, row_count
from .base import Dispatcher

__all__ = ["FunctionDispatcher"]


class FunctionDispatcher(Dispatcher):
    """`def handler(conn, data)`, once a message."""

    def __call__(self, batch: Batch) -> None:
        """Call it for each message; what it returns is sent when it returns."""
        if row_count(batch):
            call_for_each(batch, self.handler, self.failed)
        if has_news(batch):
            self.failed_to_connect(batch)
