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
from ..engine.engine import Engine
from ..engine.locks import End, RLock
from ..engine.owner import FORKED
from ..engine.signals import Ending
from ..engine.state import DISPATCHING
from ..handlers.all import Handlers
from ..handlers.base import OnError
from ..mux import Mux
from ..values.checks import check_spin
from ..values.endpoint import Listenable, Listenables
from ..values.framing import Framing
from ..values.limits import Limits
from ..values.stats import Stats
from .base import DEFAULT_ADDRESS, BaseServer, Plan

__all__ = ["Server", "run_until_signal"]

PATIENCE = 1.0  # seconds without a turn, once all time is over
TIMEOUT_MAX = threading.TIMEOUT_MAX

log: logging.Logger = logging.getLogger("pymux")
_SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_SERVERS):  # another thread may have held their locks
        server._plan.lock, server._joining = RLock(), RLock()
        server._ended = End()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        plan = Plan(
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
        super().__init__(plan)
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

    def _bind(self, claim: object) -> Engine:
        return self._plan.bind(self._make_mux, Handlers, claim)

    def _make_mux(self) -> Mux:
        return Mux(self._plan.backend, spin=self._spin)

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
                name=f"pymux {self._plan.addresses[0]}",
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
            if self._plan.engine is not None and self._plan.engine.thread == FORKED:
                raise  # of a child that a handler has forked
            self._fatal = error
            log.critical("%r has ended, by what was raised in it", self, exc_info=error)
        finally:
            self._call_off(self._plan.claim)

    def _serve(self) -> None:
        engine = self._plan.engine
        assert engine is not None
        self._thread_id = threading.get_ident()
        with self._plan.lock:
            if self._called_off:
                return
            self._runs = True
        handlers, drain = self._plan.handlers, self._plan.drain
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
                    with self._plan.lock:
                        self._runs = False
                        engine.close()

    def _call_off(self, claim: object) -> None:
        """What a call has begun is over, or was cut short, also by a signal's
        handler: nothing of it is to be left."""
        with self._plan.lock:
            if self._plan.claim is not claim or self._plan.engine is None:
                return  # it has bound nothing
            self._called_off = True
            runs = self._runs and self._thread_id != threading.get_ident()
            if not runs:
                self._plan.engine.close()
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
        by = self._plan.stop_time(drain_timeout)
        with self._plan.lock:
            engine = self._plan.engine
            if engine is None or engine.thread == FORKED:
                return
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._plan.drain.ask(by)
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
        with self._plan.lock:
            if self._plan.engine is None:
                raise RuntimeError("this server was not started; it has no end yet")
            if self._plan.engine.thread == FORKED:
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
        with self._plan.lock:
            if self._plan.engine is None:
                raise RuntimeError("this server was not started")
            self._plan.engine.call_threadsafe(fn, self._plan.mux, *args)


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
        engine = server._plan.engine
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
