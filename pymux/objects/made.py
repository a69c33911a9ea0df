"""The objects of a mux, as its engine has them made and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .batch import Batch
from .connection import Connection
from .status import answer, fail, keep_names, mark_closed

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Made"]


class Made:
    """What `engine.Objects` asks for, with the classes of plain muxes."""

    connection: type[Connection] = Connection
    batch: type[Batch] = Batch

    def forget(self, engine: Engine, batch: Batch) -> None:
        """A batch is over: the connections that it reports as closed are gone."""
        for conn, _ in batch.closed:
            mark_closed(conn)
            engine.forget(conn)
            if batch.closed:
                engine.release_service(batch._service, len(batch.closed))

    def answer(self, conn: Any, data: bytes) -> None:
        """Log what a handler returned."""
        answer(conn, data)

    def fail(self, conn: Any, error: BaseException | None) -> None:
        """Have the connection end."""
        fail(conn, error if error is not None else ConnectionError("no message"))

    def leave(self, engine: Engine, conn: Any) -> None:
        """The core is about to close: keep what is asked for later."""
        keep_names(conn)
        engine.keep_stopping(conn.id)

    def end(self, conn: Any) -> None:
        """The core has closed, or is a parent's."""
        mark_closed(conn)
