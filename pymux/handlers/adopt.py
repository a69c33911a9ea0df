"""Connections of sockets and pipes that the program has already."""

from __future__ import annotations

import errno
import socket
import sys
from typing import IO, Any

from ..engine.given import GivenPipe
from ..engine.structs import policy
from ..objects.base import MuxBase, engine_of
from ..objects.connection import Connection
from ..objects.handler import Handler
from ..objects.status import only_receives
from ..values.framing import Framing, check_framing, check_reply_framing
from ..values.limits import Limits
from .all import service_to_dial

__all__ = ["Adopts"]

A_SOCKET = "a connected stream socket, TCP or Unix,"
A_PIPE = "the end of a pipe as a binary file"
UNFIT = {errno.EBADF, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK, errno.EPROTOTYPE}


class Adopts(MuxBase):
    """The part of `Mux` that takes over connected sockets and the ends of pipes."""

    __slots__ = ()

    def adopt(
        self,
        fileobj: socket.socket | IO[bytes],
        *,
        framing: Framing | None = None,
        reply_framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Handler | None = None,
        half_open: bool = False,
    ) -> Connection:
        """Make a connection of a connected socket, or of one end of a pipe.

        A harvest reports it in `Batch.opened`, or in `Batch.closed` with the error. It
        counts as an outgoing connection: in `Stats.connected`, and when a server stops.

        The read end of a pipe only receives: `send`, and a handler that answers, raise
        `io.UnsupportedOperation`. It ends when every writer has closed the pipe. The
        write end only sends: `recv` returns None at once, `close` and `send_eof` flush
        and then close, and the loss of the reader is ECONNRESET. Both have the address
        "". Neither works on Windows, whose select takes sockets alone.

        Args:
            fileobj: what becomes the mux's. If the call fails, it stays the caller's,
                unchanged.

                A TCP or Unix stream socket, one of `socket.socketpair()` too, which is
                detached: its own methods and `close()` have no effect on the
                connection. What was read from it before does not reach the connection.

                Or one end of a pipe or FIFO as a binary file: `Popen.stdout` or
                `Popen.stdin`, what `os.fdopen(fd, "rb")` or ``open(path, "wb")``
                returns. It is closed, and the mux has a duplicate of its descriptor.
                What its buffer holds is the first input; what waits to be written is
                written before.

                Either becomes non-blocking, also for a process that shares it.
            framing: None is `Raw()`.
            reply_framing: the framing of what is sent, as for `connect`.
            limits: None is `Limits()`; `max_connections` does not apply.
            handler: gets the connection, as for `connect`.
            half_open: as for `listen`.

        Returns:
            The connection; output sent before the connection opens is queued.

        Raises:
            TypeError: a text file, a descriptor, an `ssl.SSLSocket`, anything else.
            OSError: it is closed, not connected, no stream socket; a file that is no
                pipe, as a terminal; a pipe that does not take what its file's buffer
                holds (BlockingIOError).
            RuntimeError: as for `connect`.
        """
        engine = engine_of(self)
        engine.check()
        given = _given(fileobj)
        check_framing(framing)
        check_reply_framing(reply_framing)
        framings = framing, reply_framing
        rules = policy(framings, limits, half_open=half_open)
        number, half_open = service_to_dial(engine, handler, half_open, "adopt")
        rules.half_open, rules.service = half_open, number
        try:
            conn: Connection = engine.adopt(given, rules, framings)
        except OSError as error:
            if error.errno not in UNFIT:
                raise
            needed = A_SOCKET if given is fileobj else A_PIPE
            why = f"{error.strerror}; {needed} is needed"
            raise OSError(error.errno, why, error.filename) from None
        if isinstance(given, GivenPipe) and not given.writes:
            only_receives(conn)
            engine.only_receives(conn.id, rules)
        return conn


def _given(fileobj: Any) -> socket.socket | GivenPipe:
    """Return what can be adopted; TypeError or OSError if this cannot."""
    if not isinstance(fileobj, socket.socket):
        return GivenPipe(fileobj, f"{A_SOCKET}, or {A_PIPE} is needed")
    loaded = sys.modules.get("ssl")
    if loaded is not None and isinstance(fileobj, loaded.SSLSocket):
        raise TypeError(
            f"fileobj is {fileobj!r}, over which pymux would speak plain text; "
            f"{A_SOCKET} is needed"
        )
    return fileobj
