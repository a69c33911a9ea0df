"""The parts of a server that do not depend on its loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, Unpack

from ..engine.backends import choose
from ..engine.engine import Engine
from ..engine.locks import RLock
from ..engine.owner import FORKED
from ..figures.pages import Page
from ..handlers.all import Handlers
from ..handlers.base import OnError
from ..mux import Mux
from ..objects.base import engine_of
from ..objects.handler import HandlerOf
from ..objects.listener import Listener, id_of, listen_on_all
from ..service import Place, Service
from ..values.checks import check_batch, duration
from ..values.endpoint import Listenable, Listenables, ListenOptions
from ..values.stats import Stats
from ..values.tls import SSLContext, check_new_context
from .drain import Drain, stop_time
from .notices import retiring_of, stopping_of

__all__ = [
    "ARENA_SIZE",
    "DEFAULT_ADDRESS",
    "MAX_MESSAGES",
    "BaseServer",
    "Plan",
    "count_in",
    "listen_at",
    "mux_of",
    "plan_of",
    "share_in",
]

DEFAULT_ADDRESS = ("127.0.0.1", 8093)
ARENA_SIZE = 262144  # bytes
MAX_MESSAGES = 4096


class Channel(Protocol):
    """A channel to a server in another process."""

    def abandon(self) -> None:
        """Close it, since the mux has closed."""


class Plan:
    """The arguments of a server, and the parts that `bind` makes of them.

    The constructor checks the arguments; `bind` listens, and works once.

    Attributes:
        lock: held while `bind` runs, and while the server starts or ends.
        page: where the engine counts, if other processes read it: `count_in`.
        engine: None until the server is bound; `bind` sets this last.
        mux, handlers, drain, addresses, listeners: parts of the bound server.
        places: how to listen at each address, where `bind` has not listened.
        numbers: the number of the address of each listener of the core's, by its id;
            kept when the listener has closed.
        returned: the number of the address of each connection, by its id, that an
            heir has not taken: its listener may have closed before it came back.
        handler_names: the name of the handler of each address.
        bound: all (address, name of the handler); "localhost" has two addresses.
        claim: names the call that bound the server; that call closes the mux if the
            call fails later.
        is_part: it was bound by names, as a part of a server in several processes,
            which tells of its life itself.
        channels: by which connections move from or to another process.

    Raises:
        TypeError, ValueError: an argument is wrong or does not apply.
    """

    lock: Any
    arena_size: int
    max_messages: int

    mux: Mux
    handlers: Handlers
    drain: Drain

    def __init__(
        self,
        handler: HandlerOf[Any] | None,
        address: Listenable | Listenables,
        *,
        backend: str | None,
        drain_timeout: float | None,
        arena_size: int,
        max_messages: int,
        slow_handler: float | None,
        on_error: OnError | None,
        **options: Unpack[ListenOptions],
    ) -> None:
        self._service = Service(handler, address, on_error, **options)
        choose(backend)
        self.backend = backend
        self.arena_size, self.max_messages = check_batch(arena_size, max_messages)
        self._drain_timeout = duration("drain_timeout", drain_timeout)
        self._slow_handler = duration("slow_handler", slow_handler)
        self.lock = RLock()
        self.claim: object = None
        self.is_part: bool = False
        self.page: Page | None = None
        self.engine: Engine | None = None
        self.channels: list[Channel] = []
        self.addresses: list[Any] = []
        self.listeners: list[Listener] = []
        self.places: list[Place] = []
        self._whole: list[Place] = []  # the same, before the shares
        self.numbers: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        self.bound: list[tuple[Any, str]] = []
        self.handler_names: list[str] = self._service.handler_names

    def bind(
        self,
        make_mux: Callable[[], Mux],
        make_handlers: Callable[[Engine], Handlers],
        claim: object = None,
        names: list[list[Any]] | None = None,
    ) -> Engine:
        """Make the mux and listen. Close the mux again if that raises.

        Args:
            names: the bound addresses at each address of the server, if the sockets
                come later, to `listen`; else None.
        """
        with self.lock:
            if self.engine is not None:
                raise RuntimeError(
                    "this server was started before; a server has one life, "
                    "make a new one"
                )
            mux = make_mux()
            try:
                engine = engine_of(mux)
                if self.page is not None:
                    self.page.sign(engine.name)
                    engine.count_in(self.page.fd, self.page.offset)
                    self.page.close()
                self.handlers = make_handlers(engine)
                engine.slow_after = self._slow_handler
                if names is None:
                    self.listeners = self._service.open(mux)
                    names = [listener.addresses for listener in self.listeners]
                    for number, listener in enumerate(self.listeners):
                        self.numbers[id_of(listener)] = number
                else:
                    self.is_part = True
                    self.places = self._service.prepare(engine)
                    self.handlers.begin([0, *(number for _, number, _ in self.places)])
                self.addresses = [bound[0] for bound in names]
                self.bound = [
                    (address, name)
                    for bound, name in zip(names, self.handler_names)
                    for address in bound
                ]
                tells = () if self.is_part else (stopping_of(self), retiring_of(self))
                self.drain = Drain(engine, self.handlers, *tells)
            except BaseException:
                mux.close()
                raise
            self.claim, self.mux = claim, mux
            self.engine = engine
            return engine

    def close(self) -> None:
        """Close the mux, and the channels by which its connections move."""
        assert self.engine is not None
        forked = self.engine.thread == FORKED
        self.engine.close()
        for channel in [] if forked else list(self.channels):
            channel.abandon()

    def listen(self, number: int, sock: socket.socket) -> Listener:
        """Listen on a socket too, as at the address with that number; `bind` got the
        names of the addresses. The mux's thread calls this.

        Raises:
            OSError: the system refuses.
        """
        assert self.engine is not None
        settings, service, half_open = self.places[number]
        place = replace(settings, address=sock), service, half_open
        (listener,) = listen_on_all(self.engine, [place])
        self.numbers[id_of(listener)] = number
        return listener

    def share(self, parts: list[int]) -> None:
        """Have a part of every `max_connections`, rounded up, from now on.

        Args:
            parts: for each address, among how many its number is shared.
        """
        assert self.engine is not None
        if not self._whole:
            self._whole = list(self.places)
        for number, (whole, part) in enumerate(zip(self._whole, parts)):
            settings, service, half_open = whole
            limits = settings.limits
            if limits is None or limits.max_connections is None:
                continue
            most = -(-limits.max_connections // part)
            limits = replace(limits, max_connections=most)
            self.places[number] = replace(settings, limits=limits), service, half_open
            for id in self.engine.listening:
                if self.numbers.get(id) == number:
                    self.engine.set_most(id, most)

    def listener_at(self, number: int) -> int:
        """Return the core's id of an open listener at the address with that number;
        0: there is none. The mux's thread calls this."""
        assert self.engine is not None
        for id in self.engine.listening:
            if self.numbers.get(id) == number:
                return id
        return 0

    @property
    def ssl(self) -> SSLContext | None:
        """The context of the first address with TLS, else None."""
        return self._service.ssl

    def set_ssl(self, context: SSLContext) -> None:
        """Take another context for each address with TLS."""
        check_new_context(context)
        if self.ssl is None:
            raise ValueError(
                f"ssl is set, and no address of {self} has TLS; make the server with "
                "ssl="
            )
        with self.lock:  # the server may be about to listen
            self._service.set_ssl(context)
            for listener in self.listeners:
                if listener.ssl is not None:
                    listener.ssl = context

    def stop_time(self, drain_timeout: float | None, lingers: float = 0.0) -> float:
        """Return the time by which a stop must end whose drain begins now, or after
        the connections have lingered until that time."""
        return stop_time(drain_timeout, self._drain_timeout, lingers)

    def __str__(self) -> str:
        """Show the addresses: bound ones, or the given ones before the start."""
        where = self.addresses or self._service.where
        return str(where[0] if len(where) == 1 else where)


class BaseServer:
    """The public attributes of a server, in a thread or in asyncio."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._plan}>"

    @property
    def address(self) -> Any:
        """The first of `addresses`: (host, port) as bound, or the path.

        The address stays readable after the end.

        Raises:
            RuntimeError: the server was not started.
        """
        return self.addresses[0]

    @property
    def addresses(self) -> list[Any]:
        """The bound addresses, in the order of the `address` argument.

        The addresses stay readable after the end.

        Raises:
            RuntimeError: the server was not started.
        """
        plan = self._plan
        with plan.lock:  # a handler may ask before `bind` has returned
            if plan.engine is None:
                raise RuntimeError("this server was not started; it has no address yet")
            return list(plan.addresses)

    @property
    def ssl(self) -> SSLContext | None:
        """The `ssl.SSLContext` of the first address with TLS; None without TLS.

        Set it to renew a certificate: new connections at every address with TLS have
        the new context, and open ones keep theirs. Any thread may set it, before the
        start too.

        Raises:
            TypeError: (set) no `ssl.SSLContext`.
            ValueError: (set) a context for a client, or no address has TLS.
        """
        return self._plan.ssl

    @ssl.setter
    def ssl(self, context: SSLContext) -> None:
        self._plan.set_ssl(context)

    def stats(self) -> Stats:
        """Return figures of the mux: zeros before the start, the last ones at the end.

        Any thread may call it.
        """
        plan = self._plan
        with plan.lock:
            if plan.engine is None:
                return Stats(plan.backend or "")
            return plan.engine.stats()


def plan_of(server: BaseServer) -> Plan:
    """Return the plan of a server."""
    return server._plan


def count_in(server: BaseServer, page: Page) -> None:
    """Let a server that has not started count in a page, which others read."""
    plan_of(server).page = page


def listen_at(server: BaseServer, number: int, sock: socket.socket) -> Listener:
    """Let a server that was bound by names listen on a socket, in its own thread.

    Args:
        number: which of the server's addresses the socket stands for.
        sock: listens already; the caller closes it.

    Raises:
        OSError: the system refuses.
    """
    return plan_of(server).listen(number, sock)


def share_in(server: BaseServer, parts: list[int]) -> None:
    """Let a server that was bound by names have its part of every `max_connections`,
    in its own thread; see `Plan.share`."""
    plan_of(server).share(parts)


def mux_of(server: BaseServer) -> Mux:
    """Return the mux of a server that is bound."""
    return plan_of(server).mux
