"""Listening sockets of a mux."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from ..engine.structs import endpoints, from_core, policy
from ..values.addresses import format_address
from ..values.errors import no_copy

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..values.endpoint import Settings

__all__ = ["Listener", "listen_on_all"]


class Listener:
    """A listening socket of a mux, made by `Mux.listen`.

    Attributes:
        address: (host, port) with the port that was bound, or the path.

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
        self._mux = engine.mux()  # a listener keeps its mux alive
        self._id = id
        self.address: Any = address

    def __repr__(self) -> str:
        return f"<Listener {format_address(self.address)}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1 once the listener has closed.

        It stays the mux's, and is for options of the socket: do not accept from it or
        close it.
        """
        return self._engine.socket_of(self._id) if self._id else -1

    def close(self) -> None:
        """Stop listening. Accepted connections stay open.

        A second call does nothing; nor does a call after the mux has closed.
        """
        if not self._id or self._engine.is_over():
            return
        self._engine.check()
        self._engine.unlisten(self._id)
        self._id = 0


def listen_on_all(
    engine: Engine, places: list[tuple[Settings, int, bool]]
) -> list[Listener]:
    """Listen on every address, or on none if one fails.

    Args:
        places: for each address its settings, the number of the service that gets
            the connections, and whether they are half-open.

    Raises:
        OSError: an address cannot be bound; the error names the address.
    """
    made: list[Listener] = []
    try:
        for settings, service, half_open in places:
            _listen(engine, settings, service, half_open, made)
    except BaseException:  # a signal handler's, too
        for listener in made:
            listener.close()
        raise
    return made


def _listen(
    engine: Engine,
    settings: Settings,
    service: int,
    half_open: bool,
    made: list[Listener],
) -> None:
    """Listen on one address, and append the listener in the same step."""
    where, keep = settings.address, None
    if not isinstance(where, socket.socket):
        where, _, keep = endpoints(where, listen=True)
    rules = policy(settings.framings, settings.limits, half_open=half_open)
    rules.service = service
    engine.listen(
        lambda id, name: made.append(Listener(engine, id, from_core(name))),
        where,
        rules,
        settings.framings,
        backlog=settings.backlog,
        reuse_port=settings.reuse_port,
        mode=settings.mode,
        shown=str(settings),
    )
    del keep  # the core has read this memory
