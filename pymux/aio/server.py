"""A server in an asyncio loop."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from functools import partial
from typing import Any

from ..engine.owner import FORKED
from ..handlers.base import OnError
from ..objects.base import mux_with
from ..server.base import DEFAULT_ADDRESS, BaseServer, Plan
from ..values.endpoint import Listenable, Listenables
from ..values.framing import Framing
from ..values.limits import Limits
from .dispatch import LoopHandlers
from .loop import LoopEngine, LoopMux

__all__ = ["Server", "serve"]


class ServerEngine(LoopEngine):
    """The engine of a server, which it knows until both have ended."""

    server: Server | None = None

    def after(self) -> None:
        if self.server is not None:
            self.server._look()

    async def finish(self) -> None:
        """Stop the server, which nobody has stopped."""
        if self.server is not None:
            await self.server._end_with_loop()

    def part(self) -> None:
        """It is over: no cycle is to be left behind."""
        self.server = self.on_callback_error = None
        self.handlers = None

    def free(self) -> None:
        server = self.server
        if server is not None and self.loop.is_closed() and not self.forked():
            server._left_open = True
        super().free()


class Server(BaseServer):
    """A server in an asyncio loop, made by `serve`.

    Awaiting it binds it and gives it back; ``async with`` also stops it. It
    belongs to the loop's thread; `stats` may be called from any.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._left_open = False  # when its loop ended
        self._life = Plan(*args, **options)
        super().__init__(self._life)
        self._ended: asyncio.Future[None]

    def __del__(self) -> None:
        if self._left_open:
            text = f"unclosed {self!r}"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def _make_mux(self) -> LoopMux:
        loop = asyncio.get_running_loop()
        return mux_with(LoopMux, partial(ServerEngine, loop, self._life.backend))

    async def _start(self) -> Server:
        engine: Any = self._life.bind(self._make_mux, LoopHandlers)
        self._ended = engine.loop.create_future()
        try:
            engine.join()
        except BaseException:  # it can be tried again
            self._life.engine = None
            engine.close()
            raise
        engine.server = self
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
            return self  # it was awaited
        return await self._start()

    async def __aexit__(self, *exc: Any) -> None:
        await self.stop()

    def _look(self) -> None:
        """Whether it is over."""
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
                    self._ended.set_result(None)
                    engine.part()

    async def _end_with_loop(self) -> None:
        """Nobody has stopped it. What is fatal was reported to the loop."""
        self._left_open = True
        if self._engine is not None and self._engine.c is not None:
            self._life.drain.begin(self._life.stop_time(None))
            self._engine.touched()  # it may have begun, and its turns been lost
        await asyncio.wait([self._ended])

    async def stop(self, drain_timeout: float | None = None) -> None:
        """Finish: accept who waits, answer what has arrived, close.

        As `pymux.Server.stop`: a connection closes when its peer has
        acknowledged its output and its end. After `drain_timeout` seconds the
        rest is reset, and handlers that still run are cancelled. Returns when
        the server and its handlers have ended; called by one of the handlers,
        at once, and so it does in a forked child. It may be called again: the
        smaller timeout holds. To cancel it does not undo it.

        Args:
            drain_timeout: seconds; None is the server's.

        Raises:
            OSError: what ended the server, if anything did.
        """
        by = self._life.stop_time(drain_timeout)
        engine = self._engine
        if engine is None or engine.thread == FORKED:
            return
        if engine.loop is not asyncio.get_running_loop():
            if not engine.is_over():
                raise RuntimeError("this server belongs to another loop")
            self._left_open = False
            return
        if engine.c is not None:
            self._life.drain.begin(by)
        if self._handlers.runs(asyncio.current_task()):
            return
        await asyncio.wait([self._ended])
        fatal, engine.fatal = engine.fatal, None
        if fatal is not None:
            raise fatal

    async def wait(self) -> None:
        """Wait until the server and its handlers have ended: until something stops
        it. To cancel it stops nothing. In a forked child it returns at once.

        Raises:
            OSError: what ended the server, if anything did.
            RuntimeError: it was not started, belongs to another loop, or this is
                one of its own handlers, which it would wait for.
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
    handler: Any,
    address: Listenable | Listenables = DEFAULT_ADDRESS,
    *,
    framing: Framing | None = None,
    limits: Limits | None = None,
    backend: str | None = None,
    backlog: int | None = None,
    reuse_port: bool = False,
    mode: int = 0o600,
    drain_timeout: float = 5.0,
    on_error: OnError | None = None,
) -> Server:
    """Serve in the running loop: ``await serve(...)``, or ``async with``.

    Functions, batches and objects are called from the loop, and must not
    block it. A coroutine handler is a task for each connection. To cancel it
    closes its connection; what it raises goes to the loop's exception handler,
    and its connection ends with ECONNABORTED.

    Args:
        handler: one of the four forms.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these. A name is resolved here
            and now, which blocks.
        framing: how streams are cut into messages; None is `Raw()`.
        limits: what a connection may use; None is `Limits()`.
        backend: None takes the best that works, which must be epoll or kqueue.
        backlog: how many may wait to be accepted; None is 4096.
        reuse_port: let several processes listen on one port.
        mode: permissions of a Unix socket's file.
        drain_timeout: seconds that `Server.stop` gives connections to finish.
        on_error: called with (connection or None, exception) instead of
            reporting what a handler raised.

    Returns:
        A `Server`, once it is awaited: then it accepts already.

    Raises:
        TypeError, ValueError: an argument that cannot be.
        BackendUnavailable: (awaited) the backend cannot be watched by a loop.
        OSError: (awaited) the address cannot be had.

    >>> async def main():
    ...     upper = lambda conn, data: data.upper()
    ...     async with serve(upper, ("127.0.0.1", 0)) as server:
    ...         return server.address[0]
    >>> asyncio.run(main())
    '127.0.0.1'
    """
    return Server(
        handler,
        address,
        framing=framing,
        limits=limits,
        backend=backend,
        backlog=backlog,
        reuse_port=reuse_port,
        mode=mode,
        drain_timeout=drain_timeout,
        on_error=on_error,
    )
