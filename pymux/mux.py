"""The mux: many connections, harvested together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from .engine import clock
from .engine.engine import Engine
from .engine.output import to_bytes
from .engine.structs import endpoints, policy
from .engine.timers import NS
from .handlers.all import service_to_dial, service_to_listen
from .objects.base import MuxBase, engine_of, join
from .objects.batch import Batch
from .objects.connection import Connection
from .objects.listener import Listener, listen_on_all
from .objects.made import Made
from .objects.status import takes_output
from .values.checks import (
    check_min_messages,
    check_spin,
    seconds,
    whole,
)
from .values.endpoint import (
    Connectable,
    Listenable,
    Listenables,
    connect_settings,
    listen_settings,
)
from .values.framing import Framing
from .values.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Mux"]

OBJECTS = Made()


class Mux(MuxBase):
    """Many connections, harvested together.

    It belongs to this process and to the thread of its first harvest;
    elsewhere every call but `wakeup` and `call_threadsafe` raises
    RuntimeError.

    Args:
        backend: a name of `backends()`; None takes the environment's
            ``PYMUX_BACKEND``, else the best that works.
        arena_size: about how many bytes one harvest takes in.
        max_messages: how many messages one harvest takes in at most.
        spin: seconds to poll before blocking, ``"auto"`` to adapt.

    Raises:
        ValueError: a backend nobody knows, or a size out of range.
        BackendUnavailable: a backend that this machine lacks.

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
        make = partial(
            Engine,
            OBJECTS,
            backend,
            arena_size=whole("arena_size", arena_size, 1, 2**30),
            max_messages=whole("max_messages", max_messages, 1, 2**24),
            spin_ns=check_spin(spin),
        )
        join(self, make)

    # --- connections ----------------------------------------------------

    @overload
    def listen(  # type: ignore[overload-overlap]  # a str is a sequence too
        self,
        address: Listenable,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Any = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        half_open: bool = False,
        mode: int = 0o600,
    ) -> Listener: ...

    @overload
    def listen(
        self,
        address: Listenables,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Any = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        half_open: bool = False,
        mode: int = 0o600,
    ) -> list[Listener]: ...

    def listen(
        self,
        address: Listenable | Listenables,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Any = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        half_open: bool = False,
        mode: int = 0o600,
    ) -> Listener | list[Listener]:
        """Listen on an address; its connections show up in `Batch.opened`.

        Args:
            address: (host, port), the path of a Unix socket, a URL, an `Endpoint`
                or a listening `socket.socket`, which is duplicated; or a list of
                these. Port 0 picks a port; "" is every IPv4 interface, "::" both
                protocols.
            framing: of every connection; None is `Raw()`.
            limits: of every connection; None is `Limits()`.
            handler: gets the connections, in any of the four forms, when `harvest`
                is called; None leaves them to the caller of `harvest`, or to the
                server's handler.
            backlog: how many may wait to be accepted; None is 4096. The OS
                caps it.
            reuse_port: let several processes listen on one port.
            half_open: report the peer's end of stream in `Batch.ended` and
                leave the connection open for sending. With a handler, its form
                decides that.
            mode: permissions of a Unix socket's file.

        Returns:
            The listener; for a list, the listeners in the same order.

        Raises:
            ValueError, TypeError: an argument that cannot be, or cannot apply.
            OSError: an address is in use, not permitted, not this machine's. The
                error names it, and no address of the list is listened on.
        """
        engine = engine_of(self)
        engine.check()
        asked = listen_settings(
            address,
            framing=framing,
            limits=limits,
            handler=handler,
            backlog=backlog,
            reuse_port=reuse_port,
            mode=mode,
        )
        places = [
            (one, *service_to_listen(engine, one.handler, half_open)) for one in asked
        ]
        is_list = isinstance(address, list)
        made = listen_on_all(engine, places)
        # No call comes between: a signal's handler would lose the listeners in it.
        return made if is_list else made[0]

    def connect(
        self,
        address: Connectable,
        *,
        framing: Framing | None = None,
        limits: Limits | None = None,
        handler: Any = None,
        half_open: bool = False,
        timeout: float | None = None,
    ) -> Connection:
        """Connect, without waiting.

        A harvest reports what became of it: in `Batch.opened`, or in
        `Batch.closed` with the error. A name is resolved here and now, which
        blocks; its addresses are tried in order.

        Args:
            address: (host, port), the path of a Unix socket, a URL or an
                `Endpoint`.
            framing: None is `Raw()`.
            limits: None is `Limits()`.
            handler: gets the connection, in any of the four forms. One object that
                is given to many calls has their connections in one batch; state of
                a connection belongs into its `state`. None leaves the connection
                to the caller of `harvest`; in an object or batch handler, to that
                handler; in a timer of a server, to the server's.
            half_open: as for `listen`.
            timeout: seconds it may take; None leaves it to the OS.

        Returns:
            The connection; what is sent before it opens is queued.

        Raises:
            ValueError, TypeError: an argument that cannot be, or cannot apply.
            OSError: the name does not resolve, or no descriptor can be had.
            RuntimeError: no handler is given in a function or coroutine handler,
                which could not tell the connection from those that it serves.
        """
        engine = engine_of(self)
        engine.check()
        asked = connect_settings(
            address, framing=framing, limits=limits, handler=handler, refuse=()
        )
        number, half_open = service_to_dial(engine, asked.handler, half_open)
        rules = policy(
            asked.framing, asked.limits, half_open=half_open, timeout=timeout
        )
        rules.service = number
        found = endpoints(asked.address, listen=False)
        conn: Connection = engine.dial(found, rules, asked.framing, str(asked))
        return conn

    def send_many(self, conns: Iterable[Connection], data: Buffer) -> int:
        """Send one message to many connections.

        Slow readers share one copy of it.

        Args:
            conns: connections of this mux; those that no longer take output
                are passed over.
            data: bytes-like; what it holds now is sent.

        Returns:
            How many took it.

        Raises:
            TypeError: for what is not bytes-like; a str must be encoded.
            ValueError: a connection of another mux, or one whose framing
                cannot carry it; nothing is sent.
        """
        engine = engine_of(self)
        engine.check()
        data = to_bytes(data)
        ids = []
        for conn in conns:
            if conn.mux is not self:
                raise ValueError(f"{conn!r} belongs to another mux")
            if takes_output(conn):
                ids.append(conn.id)
        engine.send_shared(ids, data)
        return len(ids)

    # --- harvesting -------------------------------------------------------

    def harvest(
        self,
        timeout: float | None = None,
        *,
        min_messages: int = 1,
        max_delay: float = 0.0,
    ) -> Batch:
        """Send what is queued, wait, and take in everything that is ready.

        Returns when there is anything to report, at the timeout, at a
        `wakeup`, after running a due timer or threadsafe call, and after a
        handler that was given to `listen` or `connect`; then the batch may be
        empty. A signal whose handler does not raise does not end it; if one
        raises, the next harvest returns what was received.

        Args:
            timeout: seconds; 0 does not wait, None waits for ever.
            min_messages: once there is a message, wait for so many,
            max_delay: but at most so many seconds.

        Returns:
            A `Batch`, valid until the next harvest.

        Raises:
            RuntimeError: inside a handler or timer, in another thread than
                the first harvest's, after `close()`, in a forked child.
            ValueError: a negative timeout.
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
