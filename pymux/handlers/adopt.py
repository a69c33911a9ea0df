"""Connections of sockets that somebody else has connected."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

from ..engine.structs import policy
from ..objects.base import MuxBase, engine_of
from ..objects.connection import Connection
from ..objects.handler import Handler
from ..values.framing import Framing, check_framing, check_reply_framing
from ..values.limits import Limits
from .all import service_to_dial

__all__ = ["Adopts"]

NEEDED = "a connected stream socket, TCP or Unix, is needed"
UNFIT = {errno.EBADF, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK, errno.EPROTOTYPE}


class Adopts(MuxBase):
    """The part of `Mux` that takes over connected sockets."""

    __slots__ = ()

    def adopt(
        self,
        sock: socket.socket,
        *,
        framing: Framing | None = None,
        reply_framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Handler | None = None,
        half_open: bool = False,
    ) -> Connection:
        """Make a connection of a socket that is connected already.

        A harvest reports it in `Batch.opened`, or in `Batch.closed` with the error. It
        counts as an outgoing connection: in `Stats.connected`, and when a server stops.

        Args:
            sock: a TCP or Unix stream socket, one of `socket.socketpair()` too. If the
                call succeeds, the mux owns the descriptor, which becomes non-blocking,
                and `sock` is detached: its own methods and `close()` have no effect on
                the connection. If the call fails, `sock` stays the caller's. What was
                read from `sock` before does not reach the connection.
            framing: None is `Raw()`.
            reply_framing: the framing of what is sent, as for `connect`.
            limits: None is `Limits()`; `max_connections` does not apply.
            handler: gets the connection, as for `connect`.
            half_open: as for `listen`.

        Returns:
            The connection; output sent before the connection opens is queued.

        Raises:
            TypeError: `sock` is no plain socket, as an `ssl.SSLSocket`.
            OSError: `sock` is closed, not connected, or no stream socket.
            RuntimeError: as for `connect`.
        """
        engine = engine_of(self)
        engine.check()
        _check_plain(sock)
        check_framing(framing)
        check_reply_framing(reply_framing)
        framings = framing, reply_framing
        rules = policy(framings, limits, half_open=half_open)
        number, half_open = service_to_dial(engine, handler, half_open, "adopt")
        rules.half_open, rules.service = half_open, number
        try:
            conn: Connection = engine.adopt(sock, rules, framings)
        except OSError as error:
            if error.errno not in UNFIT:
                raise
            why = f"{error.strerror}; {NEEDED}"
            raise OSError(error.errno, why, error.filename) from None
        return conn


def _check_plain(sock: Any) -> None:
    """Raise TypeError for what is no socket, or not a plain one."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock is {sock!r}; {NEEDED}")
    loaded = sys.modules.get("ssl")
    if loaded is not None and isinstance(sock, loaded.SSLSocket):
        raise TypeError(
            f"sock is {sock!r}, over which pymux would speak plain text; {NEEDED}"
        )
