"""Connections of sockets and pipes that the program has already, or that have left
another mux."""

from __future__ import annotations

import errno
import socket
import sys
from typing import IO, Any

from ..engine.given import GivenPipe
from ..engine.state import IDLE
from ..engine.structs import policy
from ..objects.base import MuxBase, engine_of
from ..objects.connection import Connection
from ..objects.handler import Handler
from ..objects.status import only_receives
from ..values.checks import misplaced
from ..values.detached import Detached
from ..values.framing import Framing, Framings, check_framing, check_reply_framing
from ..values.limits import Limits
from ..values.tls import SSLContext, is_served
from .all import service_to_dial
from .moving import put_in, refusal_of, take_out, tell_taken

__all__ = ["Adopts"]

A_SOCKET = "a connected stream socket, TCP or Unix,"
A_PIPE = "the end of a pipe as a binary file"
UNFIT = {errno.EBADF, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK, errno.EPROTOTYPE}


class Adopts(MuxBase):
    """The part of `Mux` that takes over connections, and hands them on."""

    __slots__ = ()

    def detach(self, conn: Connection) -> Detached | None:
        """Take a connection out of this mux, with its socket open, for another mux.

        Call it between harvests, when the last batch is dealt with. What was sent to
        the connection before moves along if the kernel has not taken it, and so does
        what has arrived and was not delivered. From then on the connection is `closed`,
        without a report; `send` raises ConnectionClosed.

        A connection stays while something of it is to be reported or answered; it may
        be asked again after the next harvest. It stays for good if its end is on the
        way, if it is outgoing, over TLS, or a pipe, if its framing is a `Splitter` or
        (after `set_framing`) a `Scanner`, or if a coroutine handler has it. With a
        handler of another form it stays if its `state` is set, unless the handler is an
        object with `taken`; an object with `opened` needs `taken` too. If the object
        has `leaving`, that is asked: None keeps the connection for now, bytes are the
        state that `taken` gets.

        Args:
            conn: a connection of this mux.

        Returns:
            What `adopt` takes, in any process; None if the connection stays.

        Raises:
            ValueError: the connection belongs to another mux.
            RuntimeError: inside a handler or timer, or in another thread.
        """
        engine = engine_of(self)
        engine.check()
        if conn.mux is not self:
            raise ValueError(f"{conn!r} belongs to another mux")
        if engine.state is not IDLE:
            raise RuntimeError("detach() cannot be called in a handler or timer")
        out = take_out(engine, conn)
        return out if isinstance(out, Detached) else None

    def adopt(
        self,
        fileobj: socket.socket | IO[bytes] | Detached,
        *,
        framing: Framing | None = None,
        reply_framing: Framing | None = None,
        ssl: SSLContext | None = None,
        limits: Limits | None = None,
        handler: Handler | None = None,
        server_hostname: str | None = None,
        require_close_notify: bool = True,
        half_open: bool = False,
    ) -> Connection:
        """Make a connection of a connected socket, a pipe's end or a `Detached`.

        A harvest reports it in `Batch.opened`, or in `Batch.closed` with the error. It
        counts as an outgoing connection: in `Stats.connected`, and when a server stops.

        Over TLS it opens when the handshake is done, of which the bytes that have
        arrived already are the beginning. A client that does not get through the
        handshake is in `Batch.closed` and `Stats.tls_failed`, and in the log at DEBUG.

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

                Or a `Detached`: the connection goes on where it was. It is not reported
                in `opened`; a handler with `taken(conn, state)` is told by that, now.
                It is no outgoing connection, and counts in `Stats.moved_in`. If its
                peer has gone meanwhile, a harvest delivers what had arrived, and
                reports the end in `closed`.
            framing: None is `Raw()`.
            reply_framing: the framing of what is sent, as for `connect`.
            ssl: of a socket: an `ssl.SSLContext`, for TLS, whose protocol says of which
                side it is: ``PROTOCOL_TLS_SERVER`` if the peer is a client,
                ``PROTOCOL_TLS_CLIENT`` if it is a server. None is plain text.
            limits: None is `Limits()`; `max_connections` and `max_per_peer` do not
                apply. `max_handshakes` bounds the clients that were adopted with the
                same context and have not shaken hands.
            handler: gets the connection, as for `connect`.
            server_hostname: with ``PROTOCOL_TLS_CLIENT``: the name that the server's
                certificate is to have, and that is sent by SNI; needed where the
                context checks names.
            require_close_notify: as for `Endpoint`.
            half_open: as for `listen`.

        Returns:
            The connection; output sent before the connection opens is queued.

        Raises:
            TypeError: a text file, a descriptor, an `ssl.SSLSocket`, anything else; an
                `ssl` that is no context.
            OSError: it is closed, not connected, no stream socket; a file that is no
                pipe, as a terminal; a pipe that does not take what its file's buffer
                holds, or a client beyond `max_handshakes` (BlockingIOError).
            RuntimeError: as for `connect`.
            ValueError: the handler cannot take a `Detached`: it is a coroutine, or an
                object with `opened` and without `taken`, or has no use for its state.
                Or TLS for a pipe or a `Detached`; a context that may be of either
                side; a `server_hostname` that is lacking, or that nothing checks.
            BackendUnavailable: TLS, and PYMUX_TLS is "adopt", which is impossible here.
        """
        engine = engine_of(self)
        engine.check()
        serves = is_served(ssl, server_hostname, require_close_notify)
        if isinstance(fileobj, Detached):
            if ssl is not None:
                why = "a Detached goes on as it was, without TLS"
                raise misplaced("ssl", ssl, why)
            return self._take(
                fileobj, (framing, reply_framing), limits, handler, half_open
            )
        given = _given(fileobj)
        if ssl is not None and isinstance(given, GivenPipe):
            why = f"fileobj is the end of a pipe; {A_SOCKET} is needed"
            raise misplaced("ssl", ssl, why)
        check_framing(framing)
        check_reply_framing(reply_framing)
        framings = framing, reply_framing
        rules = policy(
            framings, limits, half_open=half_open, tls_lax=not require_close_notify
        )
        if ssl is not None:
            rules.tls = engine.use_tls().outgoing(ssl, server_hostname, serves)
            if serves:
                engine.use_tls().check_handshakes(rules.tls, rules.max_handshakes)
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

    def _take(
        self,
        detached: Detached,
        framings: Framings,
        limits: Limits | None,
        handler: Handler | None,
        half_open: bool,
    ) -> Connection:
        """Make a connection of what was detached."""
        engine = engine_of(self)
        if detached.fileno() < 0:
            raise ValueError(f"{detached!r} has no socket any more")
        check_framing(framings[0])
        check_reply_framing(framings[1])
        rules = policy(framings, limits, half_open=half_open)
        number, half_open = service_to_dial(engine, handler, half_open, "adopt")
        rules.half_open, rules.service = half_open, number
        why = refusal_of(engine, number, detached.state)
        if why is not None:
            raise ValueError(f"{why}: {detached!r} cannot be adopted")
        state = detached.state
        conn = put_in(engine, detached, 0, number, rules, framings)
        tell_taken(engine, number, conn, state)
        return conn


def _given(fileobj: Any) -> socket.socket | GivenPipe:
    """Return what can be adopted; TypeError or OSError if this cannot."""
    if not isinstance(fileobj, socket.socket):
        return GivenPipe(fileobj, f"{A_SOCKET}, or {A_PIPE} is needed")
    loaded = sys.modules.get("ssl")
    if loaded is not None and isinstance(fileobj, loaded.SSLSocket):
        raise TypeError(
            f"fileobj is {fileobj!r}, over which pymux would speak plain text; "
            f"{A_SOCKET} that ssl has not wrapped is needed, and its context as ssl="
        )
    return fileobj
