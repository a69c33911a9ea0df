"""A listening socket, as users hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..values.addresses import format_address
from ..values.errors import no_copy

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Listener"]


class Listener:
    """A listening socket of a mux, made by `Mux.listen`.

    Attributes:
        address: (host, port) with the port that was really bound, or the path.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     listener.address[0]
    ...     listener.close()
    '127.0.0.1'
    """

    __slots__ = ("__weakref__", "_engine", "_id", "_mux", "address")

    def __init__(self, engine: Engine, id: int, address: Any) -> None:
        self._engine = engine
        self._mux = engine.mux()  # a mux lives as long as its listeners are held
        self._id = id
        self.address: Any = address

    def __repr__(self) -> str:
        return f"<Listener {format_address(self.address)}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def close(self) -> None:
        """Stop listening; its connections live on.

        A second call does nothing, nor does one after the mux has closed.
        """
        if not self._id or self._engine.is_over():
            return
        self._engine.check()
        self._engine.unlisten(self._id)
        self._id = 0
