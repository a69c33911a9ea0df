"""The mux: many connections, harvested together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from .engine import clock
from .engine.engine import Engine
from .engine.output import to_bytes
from .engine.structs import endpoints_to, policy_of
from .engine.timers import NS
from .handlers.adopt import Adopts
from .handlers.all import service_to_dial, service_to_listen
from .objects.base import engine_of, join
from .objects.batch import Batch
from .objects.connection import Connection
from .objects.handler import Handler
from .objects.listener import Listener, listen_on_all
from .objects.made import Made
from .objects.status import targets
from .values.checks import (
    check_batch,
    check_min_messages,
    check_spin,
    seconds,
    whole,
)
from .values.endpoint import (
    Connectable,
    Listenable,
    Listenables,
    ListenOptions,
    connect_settings,
    listen_settings,
)
from .values.framing import Framing
from .values.limits import Limits
from .values.proxy import Proxy, header_for
from .values.tls import SSLContext

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Mux"]

OBJECTS = Made()


class Mux(Adopts):
    """Many connections, harvested together.

    A mux belongs to this process and to the thread of its first harvest. In any
    other thread or process every call but `wakeup` and `call_threadsafe` raises
    RuntimeError.

    Args:
        backend: a name of `backends()`; None takes the environment's
            ``PYMUX_BACKEND``, else the best that works.
        arena_size: the most bytes that one batch holds; a larger message comes alone.
        max_messages: the most messages that one batch holds.
        spin: seconds to poll before blocking, ``"auto"`` to adapt.

    Raises:
        ValueError: the backend is unknown, or a size is out of range.
        BackendUnavailable: this machine lacks the backend.

    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     conn = mux.connect(listener.address)
    ...     len(mux.harvest(0))
    0
    """

    __slots__ = ()

    def __init__(
        self,
        backend: str | None = None,
        *,
        arena_size: int = 262144,
        max_messages: int = 4096,
        spin: float | Literal["auto"] = 0.0,
    ) -> None:
        arena_size, max_messages = check_batch(arena_size, max_messages)
        make = partial(
            Engine,
            OBJECTS,
            backend,
            arena_size=arena_size,
            max_messages=max_messages,
            spin_ns=check_spin(spin),
        )
        join(self, make)

    # --- connections ----------------------------------------------------

    @overload
    def listen(
        self,
        address: Listenable,
        *,
        handler: Handler | None = None,
        half_open: bool = False,
        **options: Unpack[ListenOptions],
    ) -> Listener: ...

    @overload
    def listen(
        self,
        address: Listenables,
        *,
        handler: Handler | None = None,
        half_open: bool = False,
        **options: Unpack[ListenOptions],
    ) -> list[Listener]: ...

    def listen(
        self,
        address: Listenable | Listenables,
        *,
        framing: Framing | None = None,
        reply_framing: Framing | None = None,
        ssl: SSLContext | None = None,
        limits: Limits | None = None,
        handler: Handler | None = None,
        require_close_notify: bool = True,
        backlog: int | None = None,
        reuse_port: bool = False,
        half_open: bool = False,
        mode: int = 0o600,
        proxy: Proxy | None = None,
    ) -> Listener | list[Listener]:
        """Listen on an address; accepted connections show up in `Batch.opened`.

        Args:
            address: (host, port), the path of a Unix socket, a URL, an `Endpoint`
                or a listening `socket.socket`, which is duplicated; or a list of
                these. Port 0 picks a port; "" is every IPv4 interface, "::" both
                protocols. "localhost" is 127.0.0.1 and ::1 on the same port, with
                one listener and `max_connections` for both.
            framing: of every connection; None is `Raw()`.
            reply_framing: as for `Endpoint`; a Scanner or Splitter is refused.
            ssl: an `ssl.SSLContext` with a certificate, for TLS; None is plain text.
            limits: of every connection; None is `Limits()`.
            handler: gets the connections, in any of the four forms, when `harvest`
                is called; None leaves them to the caller of `harvest`, or to the
                server's handler. If it has `started(mux)`, the next harvest calls
                that; if it has `stopping(mux)`, `close` or the server's stop does.
            require_close_notify: as for `Endpoint`.
            backlog: how many connections may wait to be accepted; None is 4096.
            reuse_port: let several processes listen on one port.
            half_open: report the peer's end of stream in `Batch.ended` and leave the
                connection open for sending. False with a handler: its form decides.
            mode: permissions of a Unix socket's file.
            proxy: the balancers, a `Proxy`, that say of whom each connection is.

        Returns:
            The listener; for a list, the listeners in the same order.

        Raises:
            ValueError, TypeError: an argument is wrong or does not apply.
            OSError: an address is in use, not permitted, or not this machine's. The
                error names the address, and `listen` listens on none of the list.
        """
        engine = engine_of(self)
        engine.check()
        all_settings = listen_settings(
            address,
            framing=framing,
            reply_framing=reply_framing,
            ssl=ssl,
            limits=limits,
            handler=handler,
            require_close_notify=require_close_notify,
            backlog=backlog,
            reuse_port=reuse_port,
            mode=mode,
            proxy=proxy,
        )
        places = [
            (settings, *service_to_listen(engine, settings.handler, half_open))
            for settings in all_settings
        ]
        is_list = isinstance(address, list)
        made = listen_on_all(engine, places)
        if engine.handlers is not None:
            engine.handlers.begin(number for _, number, _ in places)
        # A signal handler may raise in any call, which would lose the listeners.
        return made if is_list else made[0]

    def connect(
        self,
        address: Connectable,
        *,
        framing: Framing | None = None,
        reply_framing: Framing | None = None,
        ssl: SSLContext | bool | None = None,
        limits: Limits | None = None,
        handler: Handler | None = None,
        server_hostname: str | None = None,
        require_close_notify: bool = True,
        half_open: bool = False,
        timeout: float | None = None,
        proxy: Connection | tuple[Any, Any] | None = None,
    ) -> Connection:
        """Connect, without waiting.

        A harvest reports the connection in `Batch.opened`, or in `Batch.closed`
        with the error. `connect` blocks while it resolves a name. The addresses of a
        name are tried in order, each a quarter of a second after the one before or
        once that has failed; the first that answers is the connection's (RFC 8305).

        Args:
            address: (host, port), the path of a Unix socket, a URL or an `Endpoint`.
            framing: None is `Raw()`.
            reply_framing: the framing of what is sent, as for `listen`.
            ssl: as for `Endpoint`; None is plain text.
            limits: None is `Limits()`.
            handler: gets the connection, in any of the four forms. If several calls
                get one handler object, their connections share batches; keep a
                connection's state in `Connection.state`. None leaves the connection
                to the caller of `harvest`; in an object or batch handler, to that
                handler; in a timer of a server, to the server's handler.
            server_hostname: as for `Endpoint`.
            require_close_notify: as for `Endpoint`.
            half_open: as for `listen`.
            timeout: seconds that connecting, with TLS, may take; None is the OS' own.
            proxy: a connection, or (peer, local), of which a PROXY header tells first.

        Returns:
            The connection; output sent before the connection opens is queued.

        Raises:
            ValueError, TypeError: an argument is wrong or does not apply.
            OSError: the name does not resolve, or the process has no free descriptor.
            RuntimeError: no handler is given in a function or coroutine handler.
        """
        engine = engine_of(self)
        engine.check()
        settings = connect_settings(
            address,
            framing=framing,
            reply_framing=reply_framing,
            ssl=ssl,
            limits=limits,
            handler=handler,
            server_hostname=server_hostname,
            require_close_notify=require_close_notify,
            refuse=(),
        )
        header = header_for(proxy)
        number, half_open = service_to_dial(engine, settings.handler, half_open)
        rules = policy_of(engine, settings, half_open=half_open, timeout=timeout)
        rules.service = number
        found = endpoints_to(settings, header)
        conn: Connection = engine.dial(found, rules, settings.framings, str(settings))
        return conn

    def send_many(
        self,
        conns: Iterable[Connection],
        data: Buffer,
        *,
        skip_over: int | None = None,
    ) -> int:
        """Send one message to many connections.

        Connections with slow peers share one copy of the message.

        Args:
            conns: connections of this mux; those that no longer take output
                are skipped.
            data: bytes-like; later changes to it do not change the message.
            skip_over: connections with more queued bytes than this are skipped too:
                those whose peers read too slowly. 0 skips every connection that has
                not sent all. Whatever was sent since the last harvest and decides
                this is first offered to the kernel, as in the next harvest. None
                skips none.

        Returns:
            How many connections took the message. The others are found by
            `Connection.queued`, or by `Batch.blocked` and `Batch.drained`.

        Raises:
            TypeError: data is not bytes-like; a str must be encoded.
            ValueError: a connection belongs to another mux, or its framing
                cannot carry the message, or skip_over is negative; nothing is sent.
        """
        engine = engine_of(self)
        engine.check()
        data = to_bytes(data)
        if skip_over is not None:
            skip_over = whole("skip_over", skip_over, 0, 2**63 - 1)
        ids = targets(self, conns)
        if skip_over is None:
            engine.send_shared(ids, len(ids), data)
            return len(ids)
        chosen, count = engine.pass_over(ids, skip_over)
        engine.send_shared(chosen, count, data)
        return count

    # --- harvesting -------------------------------------------------------

    def harvest(
        self,
        timeout: float | None = None,
        *,
        min_messages: int = 1,
        max_delay: float = 0.0,
    ) -> Batch:
        """Send queued output, wait, and receive everything that is ready.

        Returns when there is anything to report, at the timeout, at a `wakeup`,
        after running a due timer or threadsafe call, and after a handler that was
        given to `listen` or `connect`. The batch may be empty. A signal does not end
        the harvest unless its handler raises; then the next harvest returns the
        received messages.

        Args:
            timeout: seconds; 0 does not wait, None waits for ever.
            min_messages: once a message has come, wait for this number of messages.
            max_delay: seconds to wait for `min_messages` at most.

        Returns:
            A `Batch`, valid until the next harvest.

        Raises:
            RuntimeError: the call is inside a handler or timer, in another thread
                than the first harvest, after `close()`, or in a forked child.
            ValueError: the timeout is negative.
        """
        deadline = None
        if timeout is not None:
            deadline = clock.now() + seconds("timeout", timeout) / NS
        delay = 0
        if type(min_messages) is not int or min_messages != 1:
            min_messages = check_min_messages(min_messages)
        if type(max_delay) is not float or max_delay:
            delay = max(seconds("max_delay", max_delay), 0)
        engine = engine_of(self)
        batch: Batch
        if engine.handlers is None:
            batch = engine.harvest(deadline, min_messages, delay)
        else:
            with engine.handlers.serving():
                batch = engine.harvest_and_dispatch(deadline, min_messages, delay)
        engine.received = False
        return batch
