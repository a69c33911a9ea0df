"""`serve` runs a server in this thread until a signal ends the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from .handlers.base import OnError
from .objects.handler import Handler
from .server.base import ARENA_SIZE, DEFAULT_ADDRESS, MAX_MESSAGES
from .server.drain import check_linger
from .server.server import Server, run_until_signal
from .values.endpoint import Listenable, Listenables
from .values.framing import Framing
from .values.limits import Limits
from .values.proxy import Proxy
from .values.stats import Stats
from .values.tls import SSLContext
from .values.workers import Workers
from .workers.serve import serve_with_workers

__all__ = ["serve"]


def serve(
    handler: Handler | str | None,
    address: Listenable | Listenables = DEFAULT_ADDRESS,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | Callable[[], SSLContext] | str | None = None,
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
    on_error: OnError | str | None = None,
    workers: int | Literal["auto"] | Workers | None = None,
    linger: float | None = None,
    proxy: Proxy | None = None,
) -> Stats:
    """Serve in this thread until SIGINT or SIGTERM, then drain.

    With `workers`, this process starts that many new interpreters, which serve
    together, and replaces the ones that end. SIGHUP replaces all of them by new ones,
    with the code as it is then, one after another; docs/workers.md tells what each
    signal does. This process calls no code of the user's then. The handler must be a
    function or class with a name, or a string like ``"app:handler"``; a script is run
    again in each worker, with another `__name__`.

    `serve` prints nothing. With `linger`, SIGTERM lets the connections end one by one
    first, as in `Server.stop`; SIGINT drains at once. A second signal resets the
    remaining connections at once, and a third raises KeyboardInterrupt in a handler
    that does not return. A signal that the process ignored before stays ignored.

    Args:
        handler: one of the four forms; None if every endpoint has its own handler.
            With `workers` also ``"module:name"``.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these.
        framing: how streams are cut into messages; None is `Raw()`.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext` with a certificate, for TLS on each address that has
            no context of its own; None is plain text. With `workers` a function that
            makes the context, or its ``"module:name"``: each worker makes its own, so
            that SIGHUP loads new certificates.
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
            raises; None logs the exception. With `workers` it needs a name, as the
            handler does.
        workers: how many processes serve; ``"auto"`` is one for each CPU that this
            process may use. `Workers` says more of them. None: this process serves.
        linger: seconds after SIGTERM in which connections end one by one, before the
            others are drained; None is 0, and 20 with `workers`.
        proxy: the balancers, a `Proxy`, that say of whom each connection is; None: no
            PROXY header is taken.

    Returns:
        The final `Stats`; those of all workers, added.

    Raises:
        OSError: the server cannot listen on the address; `workers` on Windows.
        TypeError, ValueError: an argument is wrong; `Server` says which handlers are.
        RuntimeError: `workers` outside the main thread, or in a worker; or a worker
            could not start when the server did.
        KeyboardInterrupt, SystemExit: raised by a handler, or in a handler.

    >>> serve(lambda conn, data: data.upper())  # doctest: +SKIP
    """
    if linger is not None:
        check_linger(linger)
    options: dict[str, Any] = {
        "framing": framing,
        "reply_framing": reply_framing,
        "limits": limits,
        "require_close_notify": require_close_notify,
        "backend": backend,
        "backlog": backlog,
        "reuse_port": reuse_port,
        "mode": mode,
        "drain_timeout": drain_timeout,
        "spin": spin,
        "arena_size": arena_size,
        "max_messages": max_messages,
        "slow_handler": slow_handler,
        "proxy": proxy,
    }
    if workers is not None:
        return serve_with_workers(
            handler,
            address,
            workers,
            linger=linger,
            ssl=ssl,
            on_error=on_error,
            **options,
        )
    given: Any = {"ssl": ssl, "on_error": on_error}
    one: Any = handler  # `Server` refuses what only workers take
    server = Server(one, address, **given, **options)
    return run_until_signal(server, linger=linger or 0.0)
