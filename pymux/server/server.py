"""A server: a mux, a listener, a handler, and a thread to run them in."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Literal

from ..engine import clock
from ..engine.backends import choose
from ..engine.engine import Engine
from ..engine.locks import End, RLock
from ..engine.owner import FORKED
from ..engine.signals import Ending
from ..engine.state import DISPATCHING
from ..handlers.all import Handlers
from ..handlers.base import OnError
from ..mux import Mux
from ..objects.base import engine_of
from ..service import Service
from ..values.checks import check_spin, duration
from ..values.endpoint import Listenable, Listenables
from ..values.framing import Framing
from ..values.limits import Limits
from ..values.stats import Stats
from .drain import Drain, stop_time

__all__ = ["DEFAULT_ADDRESS", "BaseServer", "Server", "run_until_signal"]

DEFAULT_ADDRESS = ("127.0.0.1", 8093)
PATIENCE = 1.0  # seconds without a turn, once all time is over
TIMEOUT_MAX = threading.TIMEOUT_MAX

log: logging.Logger = logging.getLogger("pymux")
_SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_SERVERS):  # another thread may have held their locks
        server._lock, server._joining = RLock(), RLock()
        server._ended = End()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class BaseServer:
    """What a server is, whichever loop it runs in.

    Arguments are checked when it is made; `_bind` listens. It has one life.
    """

    def __init__(
        self,
        handler: Any,
        address: Listenable | Listenables,
        *,
        framing: Framing | None,
        limits: Limits | None,
        backend: str | None,
        backlog: int | None,
        reuse_port: bool,
        mode: int,
        drain_timeout: float | None,
        on_error: OnError | None,
    ) -> None:
        self._service = Service(
            handler,
            address,
            on_error,
            framing=framing,
            limits=limits,
            backlog=backlog,
            reuse_port=reuse_port,
            mode=mode,
        )
        choose(backend)
        self._backend = backend
        self._drain_timeout = duration("drain_timeout", drain_timeout)

        self._lock = RLock()
        self._claim: object = None  # of the call that bound it
        self._mux: Mux
        self._engine: Engine | None = None  # set last, when all of these are
        self._addresses: list[Any] = []
        self._handlers: Handlers
        self._drain: Drain

    def __repr__(self) -> str:
        where = self._addresses or self._service.where
        return f"<{type(self).__name__} {where[0] if len(where) == 1 else where}>"

    def _make_mux(self) -> Mux:
        raise NotImplementedError

    def _make_handlers(self, engine: Engine) -> Handlers:
        return Handlers(engine)

    def _bind(self, claim: object = None) -> Engine:
        """Make the mux and listen; raises in the caller, and leaves nothing.

        Once it is bound it is the call's whose claim this was, to be undone where
        that fails behind it.
        """
        with self._lock:
            if self._engine is not None:
                raise RuntimeError(
                    "this server was started before; a server has one life, "
                    "make a new one"
                )
            mux = self._make_mux()
            try:
                engine = engine_of(mux)
                handlers = self._handlers = self._make_handlers(engine)
                listeners = self._service.open(mux)
                self._addresses = [listener.address for listener in listeners]
                self._drain = Drain(engine, handlers)
            except BaseException:
                mux.close()
                raise
            self._claim, self._mux = claim, mux
            self._engine = engine
            return engine

    @property
    def address(self) -> Any:
        """(host, port) as it was bound, or the path; the first of `addresses`.

        Readable after the end too.

        Raises:
            RuntimeError: the server was not started.
        """
        return self.addresses[0]

    @property
    def addresses(self) -> list[Any]:
        """Where the server listens, in the order in which addresses were given.

        Readable after the end too.

        Raises:
            RuntimeError: the server was not started.
        """
        with self._lock:  # a handler may ask before `_bind` has returned
            if self._engine is None:
                raise RuntimeError("this server was not started; it has no address yet")
            return list(self._addresses)

    def stats(self) -> Stats:
        """Figures of the mux: zeros before the start, after the end the last.

        Any thread may call it.
        """
        with self._lock:
            if self._engine is None:
                return Stats(self._backend or "")
            return self._engine.stats()


class Server(BaseServer):
    """Serves a handler on an address, in this thread or one of its own.

    Arguments are checked here; binding happens in `start`, `run` or `with`,
    and raises there. A server has one life.

    Args:
        handler: one of the four forms: a function, a coroutine function, a
            `batched` function, an object with `opened`, `received`, ... None if
            every endpoint has a handler of its own.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these, which is served whole or
            not at all.
        framing: how streams are cut into messages; None is `Raw()`.
        limits: what a connection may use; None is `Limits()`.
        backend: None takes the best that works.
        backlog: how many may wait to be accepted; None is 4096.
        reuse_port: let several processes listen on one port.
        mode: permissions of a Unix socket's file.
        drain_timeout: seconds that `stop` gives connections to finish.
        spin: seconds to poll before blocking, or ``"auto"``.
        on_error: called with (connection or None, exception) instead of
            logging what a handler raised.

    Raises:
        TypeError, ValueError: an argument that cannot be.

    >>> with Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as server:
    ...     host, port = server.address
    """

    def __init__(
        self,
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
        spin: float | Literal["auto"] = 0.0,
        on_error: OnError | None = None,
    ) -> None:
        super().__init__(
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
        check_spin(spin)
        self._spin = spin
        self._thread: threading.Thread | None = None
        self._thread_id: int | None = None
        self._runs = False  # a thread has begun to serve,
        self._called_off = False  # or none is to begin any more
        self._ended = End()
        self._joining = RLock()
        self._fatal: BaseException | None = None
        _SERVERS.add(self)

    def _make_mux(self) -> Mux:
        return Mux(self._backend, spin=self._spin)

    # --- life -------------------------------------------------------------

    def start(self) -> Server:
        """Bind, and serve in a daemon thread of its own.

        Returns:
            The server, which accepts already.

        Raises:
            OSError: the address cannot be had.
            RuntimeError: it was started before, or no thread can be had.
        """
        claim = object()
        try:
            self._bind(claim)
            threading.Thread(
                target=self._run_in_thread,
                name=f"pymux {self._addresses[0]}",
                daemon=True,
            ).start()
        except BaseException:
            try:
                self._call_off(claim)
            finally:  # once more: a signal's handler may raise in the first
                self._call_off(claim)
            raise
        return self

    def run(self) -> None:
        """Bind, and serve in this thread until `stop`.

        Raises:
            OSError: the address cannot be had.
            RuntimeError: it was started before.
            KeyboardInterrupt, SystemExit: raised by a handler or a signal.
        """
        claim = object()
        try:
            self._bind(claim)
            self._serve()
        finally:
            try:
                self._call_off(claim)
            finally:  # once more: a signal's handler may raise in the first
                self._call_off(claim)

    def __enter__(self) -> Server:
        """Start it; the end of the `with` block stops it."""
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        self._thread = threading.current_thread()  # by itself: now there is one
        try:
            self._serve()
        except BaseException as error:
            if self._engine is not None and self._engine.thread == FORKED:
                raise  # of a child that a handler has forked
            self._fatal = error
            log.critical("%r has ended, by what was raised in it", self, exc_info=error)
        finally:
            self._call_off(self._claim)

    def _serve(self) -> None:
        engine = self._engine
        assert engine is not None
        self._thread_id = threading.get_ident()
        with self._lock:
            if self._called_off:
                return
            self._runs = True
        handlers, drain = self._handlers, self._drain
        cause: BaseException | None = None
        with handlers.serving():
            try:
                while engine.c is not None and not (drain.asked and drain.over()):
                    engine.serve(None)
                    if engine.thread == FORKED:  # a handler has forked: the child
                        break
            except BaseException as error:
                cause = error
                raise
            finally:
                try:
                    if engine.thread != FORKED:
                        handlers.wind_up(cause)
                finally:
                    with self._lock:
                        self._runs = False
                        engine.close()

    def _call_off(self, claim: object) -> None:
        """What a call has begun is over, or was cut short, also by a signal's
        handler: nothing of it is to be left."""
        with self._lock:
            if self._claim is not claim or self._engine is None:
                return  # it has bound nothing
            self._called_off = True
            runs = self._runs and self._thread_id != threading.get_ident()
            if not runs:
                self._engine.close()
        if runs:  # its thread does, but nobody is going to know of it
            self.stop(0)
        self._ended.set()

    # --- stopping -----------------------------------------------------------

    def stop(self, drain_timeout: float | None = None) -> None:
        """Finish: accept who waits, answer what has arrived, close.

        Each connection is as if its peer had ended its stream behind what had
        arrived (`Connection.stopping` tells that from the peer's own end). It
        closes when the peer has acknowledged its output and its end; what the
        peer sends meanwhile is read and dropped, and destroys nothing. After
        `drain_timeout` seconds the rest is reset: those connections are
        reported with ETIMEDOUT and counted in `Stats.reset`. Returns when the
        server has ended, but at once in its own thread (a handler, a signal
        handler) and in a forked child. Any thread may call it, and again: the
        smaller timeout holds. Before the start it does nothing.

        Args:
            drain_timeout: seconds; None is the server's.

        Raises:
            BaseException: what ended the server's thread, if anything did.
            TimeoutError: a handler has not returned for a second behind the
                timeout. Its thread is still in it.
        """
        by = stop_time(drain_timeout, self._drain_timeout)
        with self._lock:
            engine = self._engine
            if engine is None or engine.thread == FORKED:
                return
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._drain.ask(by)
        if threading.get_ident() == self._thread_id:
            return
        self._wait_until(by)
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def wait(self) -> None:
        """Wait until the server has ended: until something stops it.

        In a forked child it returns at once.

        Raises:
            BaseException: what ended the server's thread, if anything did.
            RuntimeError: it was not started, or this is its own thread.
        """
        with self._lock:
            if self._engine is None:
                raise RuntimeError("this server was not started; it has no end yet")
            if self._engine.thread == FORKED:
                return
            if threading.get_ident() == self._thread_id and not self._ended.is_set():
                raise RuntimeError("wait() in the server's own thread would never end")
        self._wait_until(None)
        if self._fatal is not None:
            raise self._fatal

    def _wait_until(self, by: float | None) -> None:
        """Wait for the end. Where it has to come by a time, and the thread has
        not taken a turn in the second behind it, that is a TimeoutError."""
        if by is None:
            self._ended.wait()
        elif not self._ended.wait(min(max(by - clock.now(), 0), TIMEOUT_MAX)):
            turns = self.stats().harvests
            while not self._ended.wait(PATIENCE):
                before, turns = turns, self.stats().harvests
                if turns == before:
                    raise TimeoutError(f"{self!r}: a handler does not return")
        if self._thread is not None:
            with self._joining:
                self._thread.join()

    def call_threadsafe(self, fn: Callable[..., Any], *args: Any) -> None:
        """Call ``fn(mux, *args)`` in the server's thread.

        Any thread may call it.

        Args:
            fn: called within the next harvest, before its batch is dispatched.
            args: for it, behind the server's `Mux`.

        Raises:
            TypeError: `fn` cannot be called.
            RuntimeError: the server is not running.
        """
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        with self._lock:
            if self._engine is None:
                raise RuntimeError("this server was not started")
            self._engine.call_threadsafe(fn, self._mux, *args)


def run_until_signal(
    server: Server, on_ready: Callable[[Server], Any] | None = None
) -> Stats:
    """Run a server in this thread until SIGINT or SIGTERM, then drain it.

    In the main thread both signals are caught meanwhile: the first drains, a
    second resets at once, and one after that is a KeyboardInterrupt in whatever
    handler does not return.
    """
    claim = object()

    def ask(signals: int, in_users_code: bool) -> None:
        engine = server._engine
        server.stop(0 if signals > 1 else None)
        if signals > 2 and (
            in_users_code or (engine is not None and engine.state is DISPATCHING)
        ):
            raise KeyboardInterrupt  # else it is about to end

    ending = Ending(ask, run_until_signal.__code__)
    try:
        engine = server._bind(claim)
        engine.takes_signals = True
        server._thread_id = threading.get_ident()
        ending.take()
        if on_ready is not None:
            on_ready(server)
        server._serve()
    finally:
        try:
            ending.restore()
            server._call_off(claim)
        finally:  # once more: a signal's handler may raise in the first
            ending.restore()
            server._call_off(claim)
    return server.stats()
