"""Makes and ends the objects of a mux for its engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .batch import Batch
from .connection import Connection
from .status import CLOSED, answer, fail, keep_names, mark_closed

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Made"]


class Made:
    """Implements `engine.Objects` with the classes of plain muxes."""

    connection: type[Connection] = Connection
    batch: type[Batch] = Batch

    def forget(self, engine: Engine, batch: Batch) -> None:
        """Forget the connections that a batch reported as closed."""
        gone = [conn for conn, _ in batch.closed]
        if not gone:
            return
        for conn in gone:
            conn._status = CLOSED
        engine.forget(gone)
        engine.release_service(batch._service, len(gone))

    def answer(self, conn: Any, data: bytes) -> None:
        """Log what a handler returned."""
        answer(conn, data)

    def fail(self, conn: Any, error: BaseException | None) -> None:
        """End the connection; `error` is the cause."""
        fail(conn, error if error is not None else ConnectionError("no message"))

    def leave(self, engine: Engine, conn: Any) -> None:
        """Before the core closes, keep the addresses and `stopping`."""
        keep_names(conn)
        engine.keep_stopping(conn.id)

    def end(self, conn: Any) -> None:
        """Mark the connection closed."""
        mark_closed(conn)
