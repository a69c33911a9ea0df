"""What the dispatchers of coroutines have in common: messages go through buffers."""

from __future__ import annotations

from ..engine.ops import WAITS
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import asked_about, for_each_buffer
from ..objects.status import buffer_of
from .base import Dispatcher

__all__ = ["BufferedDispatcher"]


class BufferedDispatcher(Dispatcher):
    """Gives messages and news to the buffers of their connections."""

    half_open = True

    def messages(self, batch: Batch) -> None:
        """Give each message to the buffer of its connection, which steps a coroutine
        that waits for the message."""
        for_each_buffer(batch)

    def tell_waits(self, conn: Connection) -> None:
        """Tell the core that a task waits for messages and has answered all others."""
        self.engine.log.op(conn.id | WAITS)

    def news(self, batch: Batch) -> None:
        """Tell the buffers of connections that were drained or whose peer has ended
        its stream, and tell the core which tasks wait."""
        for conn in batch.drained:
            if (buffer := buffer_of(conn)) is not None:
                buffer.drained()
        for conn in batch.ended:
            if (buffer := buffer_of(conn)) is not None:
                buffer.end(None, False)
        for conn in asked_about(batch):
            buffer = buffer_of(conn)
            if buffer is not None and not buffer.is_at_work():
                self.tell_waits(conn)
