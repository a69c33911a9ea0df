"""pymux inside asyncio: servers and connections in a loop that is there already.

The loop may be asyncio's own or uvloop's, and runs whatever else it runs. A
coroutine handler is an asyncio task here: `asyncio.sleep`, timeouts, task
groups and every asyncio library work in it.

>>> import asyncio, pymux
>>> async def handler(conn):
...     async for line in conn:
...         await asyncio.sleep(0)
...         conn.send(line.upper())
>>> async def main():
...     lines = pymux.Lines()
...     async with pymux.aio.serve(handler, ("127.0.0.1", 0), framing=lines) as server:
...         conn = await pymux.aio.connect(server.address, framing=lines)
...         conn.send(b"hello")
...         print(await conn.recv())
...         conn.close()
>>> asyncio.run(main())
b'HELLO'

poll and select cannot be watched by another loop: with them, `serve` and
`connect` raise `BackendUnavailable`.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Generator
from functools import partial
from typing import Any

from ..handlers.forms import CoroutineDispatcher, OnError
from ..mux import FORKED
from ..server.drain import stop_time
from ..server.server import DEFAULT_ADDRESS, BaseServer
from ..values.addresses import check_address, endpoints, is_numeric, show
from ..values.checks import duration
from ..values.framing import Framing, Limits, policy
from .loop import GuestConnection, GuestMux, TaskDispatcher
from .outgoing import mux_of

__all__ = ["Connection", "Server", "connect", "serve"]

Connection = GuestConnection


class ServerMux(GuestMux):
    """The mux of a server, which it knows until both have ended."""

    server: Server | None = None

    def _after(self) -> None:
        if self.server is not None:
            self.server._look()

    async def finish(self) -> None:
        """Stop the server, which nobody has stopped."""
        if self.server is not None:
            await self.server._end_with_loop()

    def part(self) -> None:
        """It is over: no cycle is to be left behind."""
        self.server = self._on_callback_error = None
        self.__dict__.pop("_dispatcher", None)

    def _free(self) -> None:
        server = self.server
        if server is not None and self.loop.is_closed() and not self.forked():
            server._left_open = True
        super()._free()


class Server(BaseServer):
    """A server in an asyncio loop, made by `serve`.

    Awaiting it binds it and gives it back; ``async with`` also stops it. It
    belongs to the loop's thread; `stats` may be called from any.
    """

    _mux: ServerMux | None

    def __init__(self, *args: Any, **options: Any) -> None:
        self._left_open = False  # when its loop ended
        super().__init__(*args, **options)
        if self._form is CoroutineDispatcher:
            self._form = TaskDispatcher
        self._ended: asyncio.Future[None]

    def __del__(self) -> None:
        if self._left_open:
            text = f"unclosed {self!r}"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def _make_mux(self) -> ServerMux:
        return ServerMux(asyncio.get_running_loop(), self._backend)

    async def _start(self) -> Server:
        self._bind()
        mux = self._mux
        assert mux is not None
        self._ended = mux.loop.create_future()
        try:
            mux.join(self._dispatcher)
        except BaseException:  # it can be tried again
            self._mux = None
            mux.close()
            raise
        mux.server = self
        return self

    def __await__(self) -> Generator[Any, Any, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        if self._mux is not None and self._mux._c is not None:
            return self  # it was awaited
        return await self._start()

    async def __aexit__(self, *exc: Any) -> None:
        await self.stop()

    def _look(self) -> None:
        """Whether it is over."""
        mux, dispatcher = self._mux, self._dispatcher
        assert mux is not None
        if mux._c is not None:
            if self._drain.asked is None or not self._drain.over():
                return
            dispatcher.abandon()  # who did not end by himself is cancelled
            mux.close()
        elif not self._ended.done():
            dispatcher.abandon()
            if not dispatcher.busy:
                try:
                    dispatcher.wind_up(mux._fatal)
                finally:
                    self._ended.set_result(None)
                    mux.part()

    async def _end_with_loop(self) -> None:
        """Nobody has stopped it. What is fatal was reported to the loop."""
        self._left_open = True
        if self._mux is not None and self._mux._c is not None:
            self._drain.begin(stop_time(None, self._drain_timeout))
            self._mux.touched()  # it may have begun, and its turns been lost
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
        by = stop_time(drain_timeout, self._drain_timeout)
        mux = self._mux
        if mux is None or mux._owner == FORKED:
            return
        if mux.loop is not asyncio.get_running_loop():
            if not mux.is_over():
                raise RuntimeError("this server belongs to another loop")
            self._left_open = False
            return
        if mux._c is not None:
            self._drain.begin(by)
        form = self._dispatcher
        if isinstance(form, TaskDispatcher) and form.runs(asyncio.current_task()):
            return
        await asyncio.wait([self._ended])
        fatal, mux._fatal = mux._fatal, None
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
        mux = self._mux
        if mux is None:
            raise RuntimeError("this server was not started; it has no end yet")
        if mux._owner == FORKED:
            return
        if mux.loop is not asyncio.get_running_loop():
            raise RuntimeError("this server belongs to another loop")
        form = self._dispatcher
        if isinstance(form, TaskDispatcher) and form.runs(asyncio.current_task()):
            raise RuntimeError("wait() in a handler of the server would never end")
        await asyncio.wait([self._ended])
        if mux._fatal is not None:
            raise mux._fatal


def serve(
    handler: Any,
    address: Any = DEFAULT_ADDRESS,
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
        address: (host, port), or the path of a Unix socket. A name is
            resolved here and now, which blocks.
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


async def connect(
    address: Any,
    *,
    framing: Framing | None = None,
    limits: Limits | None = None,
    timeout: float | None = None,
    backend: str | None = None,
) -> Connection:
    """Connect from a task of the running loop.

    Args:
        address: (host, port), or the path of a Unix socket. A name is resolved
            in a thread of the loop's executor, its addresses tried in order.
        framing: None is `Raw()`.
        limits: None is `Limits()`.
        timeout: seconds that it may take; None leaves it to the OS.
        backend: None takes the best that works, which must be epoll or kqueue.

    Returns:
        A `Connection`, open. `send` queues; `recv`, `drain` and iteration are
        awaited. It stays open until it is closed: by `close()`, by leaving an
        ``async with`` block of it, or by an error.

    Raises:
        TypeError, ValueError: an argument that cannot be.
        TimeoutError: it took too long.
        BackendUnavailable: the backend cannot be watched by a loop.
        OSError: nobody answers there, or the name does not resolve.
    """
    loop = asyncio.get_running_loop()
    timeout = duration("timeout", timeout)
    policy(framing, limits)  # raises for what it cannot be
    check_address(address)
    mux_of(loop, backend)  # raises where there can be none
    resolve = partial(endpoints, address, listen=False)
    if not is_numeric(address):
        begun = time.monotonic()
        look_up = loop.run_in_executor(None, resolve)
        try:
            found = await asyncio.wait_for(look_up, timeout)
        except TimeoutError:
            raise TimeoutError(
                f"{address[0]!r} was not resolved within {timeout} seconds"
            ) from None
        if timeout is not None:
            timeout = max(timeout - (time.monotonic() - begun), 0.001)
    else:
        found = resolve()
    mux = mux_of(loop, backend)  # the one before may have been closed meanwhile
    rules = policy(framing, limits, half_open=True, timeout=timeout)
    conn = opening = None
    try:
        conn = mux._dial(address, found, rules, framing)
        opening = conn.seat.opening = loop.create_future()
        await opening
    except OSError as error:
        del conn  # as does `opening`, it knows its error, whose traceback
        raise type(error)(error.errno, error.strerror, show(address)) from None
    except BaseException:
        if conn is not None:
            conn.abort()
        raise
    finally:
        del opening  # knows this frame: no cycle is left behind
    return conn
