"""`serve` runs a server in this thread until a signal ends the server."""

from __future__ import annotations

from typing import Literal

from .handlers.base import OnError
from .objects.handler import Handler
from .server.base import ARENA_SIZE, DEFAULT_ADDRESS, MAX_MESSAGES
from .server.server import Server, run_until_signal
from .values.endpoint import Listenable, Listenables
from .values.framing import Framing
from .values.limits import Limits
from .values.stats import Stats
from .values.tls import SSLContext

__all__ = ["serve"]


def serve(
    handler: Handler | None,
    address: Listenable | Listenables = DEFAULT_ADDRESS,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | None = None,
    limits: Limits | None = None,
    require_close_notify: bool = True,
    backend: str | None = None,
    backlog: int | None = None,
    reuse_port: bool = False,
    mode: int = 0o600,
    drain_timeout: float = 5.0,
    spin: float | Literal["auto"] = 0.0,
    arena_size: int = ARENA_SIZE,
    max_messages: int = MAX_MESSAGES,
    slow_handler: float | None = None,
    on_error: OnError | None = None,
) -> Stats:
    """Serve in this thread until SIGINT or SIGTERM, then drain.

    `serve` prints nothing. A second signal resets the remaining connections at once,
    and a third raises KeyboardInterrupt in a handler that does not return. A signal
    that the process ignored before stays ignored.

    Args:
        handler: one of the four forms; None if every endpoint has its own handler.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these.
        framing: how streams are cut into messages; None is `Raw()`.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext` with a certificate, for TLS on each address that has
            no context of its own; None is plain text.
        limits: limits of each connection; None is `Limits()`.
        require_close_notify: False takes an end of the stream without TLS'
            close_notify, which may be a cut, for an ordinary end.
        backend: a name of `backends()`; None takes the best that works.
        backlog: how many connections may wait to be accepted; None is 4096.
        reuse_port: let several processes listen on one port.
        mode: permissions of a Unix socket's file.
        drain_timeout: seconds that connections have to finish after the signal.
        spin: seconds to poll before blocking, or ``"auto"``.
        arena_size: the most bytes that one batch holds. Messages that gather wait in
            this memory; a larger message comes alone.
        max_messages: the most messages that one batch holds.
        slow_handler: seconds; a handler that takes longer for a batch is warned of in
            the log. None measures nothing.
        on_error: called with (connection or None, exception) when a handler
            raises; None logs the exception.

    Returns:
        The final `Stats`.

    Raises:
        OSError: the server cannot listen on the address.
        TypeError, ValueError: an argument is wrong; `Server` says which handlers are.
        KeyboardInterrupt, SystemExit: raised by a handler, or in a handler.

    >>> serve(lambda conn, data: data.upper())  # doctest: +SKIP
    """
    server = Server(
        handler,
        address,
        framing=framing,
        reply_framing=reply_framing,
        ssl=ssl,
        limits=limits,
        require_close_notify=require_close_notify,
        backend=backend,
        backlog=backlog,
        reuse_port=reuse_port,
        mode=mode,
        drain_timeout=drain_timeout,
        spin=spin,
        arena_size=arena_size,
        max_messages=max_messages,
        slow_handler=slow_handler,
        on_error=on_error,
    )
    return run_until_signal(server)
