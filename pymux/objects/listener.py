"""Listening sockets of a mux."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from ..engine.structs import endpoints, from_core, policy_of
from ..values.addresses import format_address, is_localhost
from ..values.errors import no_copy
from ..values.tls import SSLContext, check_new_context

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..values.endpoint import Settings

__all__ = ["Listener", "id_of", "listen_on_all"]


class Listener:
    """A listening socket of a mux, made by `Mux.listen`.

    Attributes:
        address: (host, port) with the port that was bound, or the path; the first
            of `addresses`.
        addresses: all addresses that were bound: of "localhost" both 127.0.0.1 and
            ::1, if the machine has IPv6, else one.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     listener.address[0]
    ...     listener.close()
    '127.0.0.1'
    """

    __slots__ = (
        "__weakref__",
        "_beside",
        "_engine",
        "_id",
        "_mux",
        "_ssl",
        "_tls",
        "address",
        "addresses",
    )

    def __init__(
        self,
        engine: Engine,
        id: int,
        address: Any,
        ssl: SSLContext | None = None,
        tls: int = 0,
    ) -> None:
        self._engine = engine
        self._mux = engine.mux()  # a listener keeps its mux alive
        self._id = id
        self._beside = 0  # the core's listener for the other family of "localhost"
        self._ssl = ssl
        self._tls = tls  # the number of the context in the engine
        self.address: Any = address
        self.addresses: list[Any] = [address]

    def _now_beside(self, id: int) -> None:
        self._beside = id

    def __repr__(self) -> str:
        return f"<Listener {format_address(self.address)}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    @property
    def ssl(self) -> SSLContext | None:
        """The `ssl.SSLContext` of new connections; None on a plain listener.

        Set it to renew a certificate. Connections that are open keep the context that
        they began with. Any thread may set it.

        Raises:
            TypeError: (set) no `ssl.SSLContext`.
            ValueError: (set) a context for a client, or the listener is a plain one.
        """
        return self._ssl

    @ssl.setter
    def ssl(self, context: SSLContext) -> None:
        check_new_context(context)
        if self._ssl is None:
            raise ValueError(
                f"ssl is set, and {self} is plain text; listen with ssl= for TLS"
            )
        tls = self._engine.tls
        if tls is not None:  # the mux is open
            tls.reload(self._tls, context)
        self._ssl = context

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
        if self._beside:
            self._engine.unlisten(self._beside)
            self._beside = 0
        self._engine.unlisten(self._id)
        self._id = 0


def id_of(listener: Listener) -> int:
    """Return the core's id of a listener; 0 once it has closed."""
    return listener._id


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


# How often "localhost" looks for a port that is free in both families.
TRIES = 20

# What listening in a family fails with on a machine that lacks the family.
NO_FAMILY = errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT


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
    rules = policy_of(engine, settings, listen=True, half_open=half_open)
    rules.service = service
    for left in range(TRIES - 1, -1, -1):
        engine.listen(
            lambda id, name: made.append(
                Listener(engine, id, from_core(name), settings.ssl, rules.tls)
            ),
            where,
            rules,
            settings.framings,
            backlog=settings.backlog,
            reuse_port=settings.reuse_port,
            mode=settings.mode,
            shown=str(settings),
        )
        if not _is_localhost(settings.address):
            break
        error = _listen_on_ipv6(engine, made[-1], settings)
        if not error or error in NO_FAMILY:
            break
        if error != errno.EADDRINUSE or settings.address[1] or not left:
            raise engine.os_error(error, str(settings))
        made[-1].close()  # the system has chosen a port that IPv6 has in use
        del made[-1]
    del keep  # the core has read this memory


def _is_localhost(address: Any) -> bool:
    return isinstance(address, tuple) and is_localhost(address[0])


def _listen_on_ipv6(engine: Engine, listener: Listener, settings: Settings) -> int:
    """Listen on the same port of ::1; return 0 or an errno."""
    where, _, _keep = endpoints(("::1", listener.address[1]), listen=True)
    error = engine.listen_beside(
        listener._now_beside,
        listener._id,
        where,
        backlog=settings.backlog,
        reuse_port=settings.reuse_port,
    )
    if not error:
        listener.addresses.append(("::1", listener.address[1]))
    return error
