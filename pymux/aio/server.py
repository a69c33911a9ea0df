"""Servers in an asyncio loop."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from ..engine.owner import FORKED
from ..handlers.base import OnError
from ..objects.base import mux_with
from ..objects.handler import HandlerOf
from ..server.base import ARENA_SIZE, DEFAULT_ADDRESS, MAX_MESSAGES, BaseServer, Plan
from ..server.drain import check_linger
from ..server.notices import tell_listening, tell_stopped
from ..values.endpoint import Listenable, Listenables
from ..values.framing import Framing
from ..values.limits import Limits
from ..values.proxy import Proxy
from ..values.tls import SSLContext
from .connection import LoopConnection
from .dispatch import LoopHandlers
from .loop import LoopEngine, LoopMux

__all__ = ["Server", "serve"]


class ServerEngine(LoopEngine):
    """The engine of a server; it refers to the server until both have ended."""

    handlers: Any
    on_callback_error: Callable[[BaseException, str], None] | None

    server: Server | None = None

    def after(self) -> None:
        if self.server is not None:
            self.server._look()

    async def finish(self) -> None:
        """Stop a server that was not stopped."""
        if self.server is not None:
            await self.server._end_with_loop()

    def part(self) -> None:
        """Drop references that would be a cycle."""
        self.server = self.on_callback_error = None
        self.handlers = None

    def free(self) -> None:
        server = self.server
        if server is not None and self.loop.is_closed() and not self.forked():
            server._left_open = True
        super().free()


class Server(BaseServer):
    """A server in an asyncio loop, made by `serve`.

    Awaiting a server binds it and returns it; ``async with`` also stops it. A
    server belongs to the loop's thread; any thread may call `stats`.
    """

    def __init__(self, plan: Plan) -> None:
        self._left_open = False  # True if its loop ended before stop()
        self._life = plan
        super().__init__(plan)
        self._ended: asyncio.Future[None]

    def __del__(self) -> None:
        if self._left_open:
            text = f"unclosed {self!r}"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def _make_mux(self) -> LoopMux:
        loop = asyncio.get_running_loop()
        plan = self._life
        make = partial(
            ServerEngine,
            loop,
            plan.backend,
            arena_size=plan.arena_size,
            max_messages=plan.max_messages,
        )
        return mux_with(LoopMux, make)

    async def _start(self) -> Server:
        engine: Any = self._life.bind(self._make_mux, LoopHandlers)
        self._ended = engine.loop.create_future()
        try:
            engine.join()
        except BaseException:  # a later await can try again
            self._life.engine = None
            engine.close()
            raise
        engine.server = self
        tell_listening(self._life)
        return self

    @property
    def _engine(self) -> Any:
        return self._life.engine

    @property
    def _handlers(self) -> Any:
        return self._life.handlers

    def __await__(self) -> Generator[Any, Any, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        if self._engine is not None and self._engine.c is not None:
            return self  # an await has started it
        return await self._start()

    async def __aexit__(self, *exc: Any) -> None:
        await self.stop()

    def _look(self) -> None:
        """Look whether a drain is over, or the last handler has ended."""
        engine, handlers = self._engine, self._handlers
        assert engine is not None
        if engine.c is not None:
            if self._life.drain.asked is None or not self._life.drain.over():
                return
            handlers.abandon()  # cancel the handlers that still run
            engine.close()
        elif not self._ended.done():
            handlers.abandon()
            if not handlers.busy:
                try:
                    handlers.wind_up(engine.fatal)
                finally:
                    tell_stopped(self._life, engine.fatal)
                    self._ended.set_result(None)
                    engine.part()

    async def _end_with_loop(self) -> None:
        """Stop, since the loop ends. A fatal error was reported to the loop."""
        self._left_open = True
        if self._engine is not None and self._engine.c is not None:
            self._life.drain.begin(self._life.stop_time(None))
            self._engine.touched()  # calls of an earlier drain may be lost
        await asyncio.wait([self._ended])

    def retire(self) -> None:
        """Accept the peers that wait, close the listeners, and serve on.

        As `pymux.Server.retire`, but in the loop's thread alone.

        Raises:
            RuntimeError: the server was not started, or the call is in another thread.
        """
        engine = self._engine
        if engine is None:
            raise RuntimeError("this server was not started")
        if engine.thread == FORKED or engine.is_over():
            return
        engine.check()
        self._life.drain.retire()

    async def stop(
        self, drain_timeout: float | None = None, *, linger: float = 0.0
    ) -> None:
        """Finish: accept the backlog, answer what has arrived, close.

        As in `pymux.Server.stop`, a connection closes when its peer has acknowledged
        all output and the end. After `drain_timeout` seconds the other connections
        are reset, and handlers that still run are cancelled. `stop` returns when the
        server and its handlers have ended. In one of these handlers, and in a forked
        child, `stop` returns at once. After several calls the smallest times
        hold. To cancel a `stop` does not undo it.

        Args:
            drain_timeout: seconds; None takes the server's.
            linger: seconds before that, in which connections end one by one, as in
                `pymux.Server.stop`.

        Raises:
            TypeError, ValueError: an argument is no number of seconds.
            OSError: what ended the server, if anything did.
        """
        lingers = check_linger(linger)
        by = self._life.stop_time(drain_timeout, lingers)
        engine = self._engine
        if engine is None or engine.thread == FORKED:
            return
        if engine.loop is not asyncio.get_running_loop():
            if not engine.is_over():
                raise RuntimeError("this server belongs to another loop")
            self._left_open = False
            return
        if engine.c is not None:
            self._life.drain.begin(by, lingers)
            engine.touched()  # the loop is to look how it goes on
        if self._handlers.runs(asyncio.current_task()):
            return
        await asyncio.wait([self._ended])
        fatal, engine.fatal = engine.fatal, None
        if fatal is not None:
            raise fatal

    async def wait(self) -> None:
        """Wait until the server and its handlers have ended, after a `stop`.

        To cancel a `wait` stops nothing. In a forked child `wait` returns at once.

        Raises:
            OSError: what ended the server, if anything did.
            RuntimeError: the server was not started or belongs to another loop, or
                the caller is one of the server's handlers, which would wait for
                itself.
        """
        engine = self._engine
        if engine is None:
            raise RuntimeError("this server was not started; it has no end yet")
        if engine.thread == FORKED:
            return
        if engine.loop is not asyncio.get_running_loop():
            raise RuntimeError("this server belongs to another loop")
        if self._handlers.runs(asyncio.current_task()):
            raise RuntimeError("wait() in a handler of the server would never end")
        await asyncio.wait([self._ended])
        if engine.fatal is not None:
            raise engine.fatal


def serve(
    handler: HandlerOf[LoopConnection] | None,
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
    arena_size: int = ARENA_SIZE,
    max_messages: int = MAX_MESSAGES,
    slow_handler: float | None = None,
    on_error: OnError | None = None,
    proxy: Proxy | None = None,
) -> Server:
    """Serve in the running loop: ``await serve(...)``, or ``async with``.

    The loop calls functions, batch handlers and objects, which must not block. A
    coroutine handler is a task for each connection. To cancel the task closes its
    connection. What the task raises goes to the loop's exception handler, and the
    connection ends with ECONNABORTED.

    Args:
        handler: one of the four forms, as for `pymux.serve`, with the same hooks.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these. Resolving a name blocks
            the loop.
        framing: how streams are cut into messages; None is `Raw()`.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext` with a certificate, for TLS on each address that has
            no context of its own; None is plain text.
        limits: what a connection may use; None is `Limits()`.
        require_close_notify: False takes an end of the stream without TLS'
            close_notify, which may be a cut, for an ordinary end.
        backend: None takes the best that works. It must be epoll or kqueue.
        backlog: how many peers may wait to be accepted; None is 4096.
        reuse_port: let several processes listen on one port.
        mode: permissions of a Unix socket's file.
        drain_timeout: seconds that `Server.stop` gives connections to finish.
        arena_size: the most bytes that one batch holds. Messages that gather wait in
            this memory; a larger message comes alone.
        max_messages: the most messages that one batch holds.
        slow_handler: seconds; a handler that takes longer for a batch is warned of in
            the log. None measures nothing. Coroutine handlers are the loop's, whose
            debug mode measures these.
        on_error: called with (connection or None, exception) instead of
            reporting what a handler raised.
        proxy: the balancers, a `Proxy`, that say of whom each connection is; None: no
            PROXY header is taken.

    Returns:
        A `Server`, to be awaited. After that the server accepts connections.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.
        BackendUnavailable: (awaited) a loop cannot watch the backend.
        OSError: (awaited) the server cannot listen at the address.

    >>> async def main():
    ...     upper = lambda conn, data: data.upper()
    ...     async with serve(upper, ("127.0.0.1", 0)) as server:
    ...         return server.address[0]
    >>> asyncio.run(main())
    '127.0.0.1'
    """
    plan = Plan(
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
        arena_size=arena_size,
        max_messages=max_messages,
        slow_handler=slow_handler,
        on_error=on_error,
        proxy=proxy,
    )
    return Server(plan)
