"""A server runs a mux with listeners and handlers in a thread."""

from __future__ import annotations

import contextlib
import os
import signal
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
from ..figures.pages import Pages
from ..handlers.all import Handlers
from ..handlers.base import OnError
from ..mux import Mux
from ..objects.handler import Handler
from ..values.checks import check_spin
from ..values.endpoint import Listenable, Listenables
from ..values.framing import Framing
from ..values.limits import Limits
from ..values.proxy import Proxy
from ..values.stats import Stats
from ..values.tls import SSLContext
from .base import ARENA_SIZE, DEFAULT_ADDRESS, MAX_MESSAGES, BaseServer, Plan
from .drain import check_linger
from .figures import open_pages
from .notices import tell_death, tell_listening, tell_stopped
from .service_manager import tell_manager

__all__ = ["Server", "run_until_signal"]

PATIENCE = 1.0  # seconds without a turn before a late `stop` gives up
TIMEOUT_MAX = threading.TIMEOUT_MAX

_SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_SERVERS):  # another thread may have held the locks
        server._plan.lock, server._joining = RLock(), RLock()
        server._ended = End()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Server(BaseServer):
    """Serves a handler on an address, in this thread or in a thread of its own.

    The constructor checks the arguments; `start`, `run` and `with` bind the address
    and raise if that fails. A server starts only once.

    A handler that cannot take the arguments of its form is refused. So is an object
    that lacks one of the methods and has a method whose name looks like the missing
    one:

    - a name of asyncio or Twisted, like `connection_made`;
    - a misspelling of about one letter, like `recieved`, that takes as many arguments;
    - a plain word, like `close` or `on_message`, if it takes as many arguments and its
      first parameter is named like a connection (`conn`, `client`, `ws`, ...).

    A name that begins with an underscore, and an attribute that is no method, is never
    refused.

    Args:
        handler: one of the four forms: a function, a coroutine function, a
            `batched` function, an object with `opened`, `received`, ... None if
            every endpoint has its own handler. Its `started(mux)` and
            `stopping(mux)`, if it has them, frame the server's life.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these, which is served whole or
            not at all.
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
        drain_timeout: seconds that `stop` gives connections to finish.
        spin: seconds to poll before blocking, or ``"auto"``.
        arena_size: the most bytes that one batch holds. Messages that gather wait in
            this memory; a larger message comes alone.
        max_messages: the most messages that one batch holds.
        slow_handler: seconds; a handler that takes longer for a batch is warned of in
            the log. None measures nothing.
        on_error: called with (connection or None, exception) when a handler
            raises; None logs the exception.
        proxy: the balancers, a `Proxy`, that say of whom each connection is; None: no
            PROXY header is taken.

    Raises:
        TypeError: an argument has a wrong type, or the handler is refused.
        ValueError: an argument has a wrong value.

    >>> with Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as server:
    ...     host, port = server.address
    """

    def __init__(
        self,
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
        proxy: Proxy | None = None,
    ) -> None:
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
        super().__init__(plan)
        check_spin(spin)
        self._spin = spin
        self._thread: threading.Thread | None = None
        self._thread_id: int | None = None
        self._runs = False  # a thread serves
        self._called_off = False  # no thread may begin to serve any more
        self._ended = End()
        self._joining = RLock()
        self._fatal: BaseException | None = None
        _SERVERS.add(self)

    def _bind(self, claim: object, names: list[list[Any]] | None = None) -> Engine:
        return self._plan.bind(self._make_mux, Handlers, claim, names)

    def _make_mux(self) -> Mux:
        plan = self._plan
        return Mux(
            plan.backend,
            arena_size=plan.arena_size,
            max_messages=plan.max_messages,
            spin=self._spin,
        )

    # --- life -------------------------------------------------------------

    def start(self) -> Server:
        """Bind, and serve in a new daemon thread.

        Returns:
            The server, which already accepts connections.

        Raises:
            OSError: the server cannot listen on the address.
            RuntimeError: the server was started before, or no thread can be started.
        """
        claim = object()
        try:
            self._bind(claim)
            tell_listening(self._plan)
            threading.Thread(
                target=self._run_in_thread,
                name=f"pymux {self._plan.addresses[0]}",
                daemon=True,
            ).start()
        except BaseException:
            try:
                self._call_off(claim)
            finally:  # a signal handler may have raised in the first call
                self._call_off(claim)
            raise
        return self

    def run(self) -> None:
        """Bind, and serve in this thread until `stop`.

        Raises:
            OSError: the server cannot listen on the address.
            RuntimeError: the server was started before.
            KeyboardInterrupt, SystemExit: raised by a handler or a signal.
        """
        claim = object()
        try:
            self._bind(claim)
            tell_listening(self._plan)
            self._serve()
        finally:
            try:
                self._call_off(claim)
            finally:  # a signal handler may have raised in the first call
                self._call_off(claim)

    def __enter__(self) -> Server:
        """Start the server; the end of the `with` block stops the server."""
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        self._thread = threading.current_thread()  # set only if the thread has started
        try:
            self._serve()
        except BaseException as error:
            if self._plan.engine is not None and self._plan.engine.thread == FORKED:
                raise  # in a child that a handler has forked
            self._fatal = error
            tell_death(self._plan, error)
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
                    if engine.thread == FORKED:  # this is a handler's forked child
                        break
                    for call in list(engine.between) if engine.between else ():
                        call()
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
                        self._plan.close()
                    tell_stopped(self._plan, cause)

    def _call_off(self, claim: object) -> None:
        """Close the server that a call has bound. The call has ended, or an error or
        a signal handler has interrupted the call."""
        with self._plan.lock:
            if self._plan.claim is not claim or self._plan.engine is None:
                return  # the call has bound nothing
            self._called_off = True
            runs = self._runs and self._thread_id != threading.get_ident()
            if not runs:
                self._plan.close()
        if runs:  # the caller never gets the server, so end the thread here
            self.stop(0)
        self._ended.set()

    # --- stopping -----------------------------------------------------------

    def retire(self) -> None:
        """Accept the peers that wait, close the listeners, and serve on.

        The connections go on until they end or `stop` is called. Peers in the backlog
        are accepted over `max_connections` too. A listening socket that was given is
        only closed: its backlog is for the processes that have the socket too. The
        server's thread does this within its next turns; then `Stats.listeners` is 0.
        Any thread may call `retire`, also repeatedly. After the end, and in a forked
        child, it does nothing.

        Raises:
            RuntimeError: the server was not started.
        """
        with self._plan.lock:
            engine = self._plan.engine
            if engine is None:
                raise RuntimeError("this server was not started")
            if engine.thread == FORKED:
                return
            with contextlib.suppress(RuntimeError):  # the mux is closed already
                engine.call_threadsafe(self._plan.drain.retire)

    def stop(self, drain_timeout: float | None = None, *, linger: float = 0.0) -> None:
        """Stop: accept peers in the backlog, answer received messages, close all.

        With `linger`, the server first retires: it accepts nobody new, and serves on.
        Within that time each connection has its turn to end, in random order and
        evenly spread, at least 100 a second, so that the peers do not all connect to
        other servers at once. At its turn the `draining(conn)` of an object is called,
        which says goodbye and closes the connection. A coroutine gets None from `recv`
        once no part of a message has come. The connections of other handlers end when,
        besides, all their output is sent. When all have ended, or the time is over,
        the stop goes on with those that are left.

        First `stopping(mux)` of each handler that has it is called, in the server's
        thread. Handlers see each stream end after the received messages, as if the
        peer had ended the stream (`Connection.stopping` tells the two apart). A
        connection closes when the peer has acknowledged the output and its end. Input
        that arrives meanwhile is read and dropped. After `drain_timeout` seconds the
        remaining connections are reset, reported with ETIMEDOUT and counted in
        `Stats.reset`. `stop` returns when the server has ended. In the server's own
        thread (a handler, a signal handler) and in a forked child it returns at
        once. Any thread may call `stop`, also repeatedly: the smaller times hold.
        Before the start `stop` does nothing.

        Args:
            drain_timeout: seconds; None takes the server's `drain_timeout`.
            linger: seconds before that, in which connections end one by one.

        Raises:
            TypeError, ValueError: an argument is no number of seconds.
            BaseException: the error that ended the server's thread, if any.
            TimeoutError: a handler did not return within a second after the
                timeout. The server's thread still runs that handler.
        """
        lingers = check_linger(linger)
        by = self._plan.stop_time(drain_timeout, lingers)
        with self._plan.lock:
            engine = self._plan.engine
            if engine is None or engine.thread == FORKED:
                return
            with contextlib.suppress(RuntimeError):  # the mux is closed already
                self._plan.drain.ask(by, lingers)
        if threading.get_ident() == self._thread_id:
            return
        self._wait_until(by)
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def wait(self) -> None:
        """Wait until the server has ended.

        In a forked child `wait` returns at once.

        Raises:
            BaseException: the error that ended the server's thread, if any.
            RuntimeError: the server was not started, or this is its own thread.
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
        """Wait for the end of the server. Raise TimeoutError if the deadline has
        passed and the server's thread takes no turn for PATIENCE seconds."""
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
            args: the arguments of `fn` after the server's `Mux`.

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
    server: Server,
    on_ready: Callable[[Server], Any] | None = None,
    names: list[list[Any]] | None = None,
    linger: float = 0.0,
) -> Stats:
    """Run a server in this thread until SIGINT or SIGTERM, then drain it.

    In the main thread both signals are caught meanwhile. The first drains, after
    `linger` seconds if it is SIGTERM; the second resets at once, and a third raises
    KeyboardInterrupt in a handler that does not return. Without a page of its own
    (`count_in`) the server gets a file of pages, so that other processes can read its
    figures; and systemd is told of it, unless it listens by names.

    Args:
        on_ready: called when the server is bound.
        names: the bound addresses at each address of the server, if the server is to
            listen on none, and to hear no signal: `on_ready` sees to both. Else None.
        linger: seconds.
    """
    claim = object()
    pages: Pages | None = None

    def ask(number: int, signals: int, in_users_code: bool) -> None:
        engine = server._plan.engine
        if signals > 1:
            server.stop(0)
        else:
            server.stop(linger=linger if number == signal.SIGTERM else 0.0)
        if signals > 2 and (
            in_users_code or (engine is not None and engine.state is DISPATCHING)
        ):
            raise KeyboardInterrupt  # outside a handler the server is about to end

    signals = (signal.SIGINT, signal.SIGTERM) if names is None else ()
    ending = Ending(ask, run_until_signal.__code__, signals)
    try:
        engine = server._bind(claim, names)
        engine.takes_signals = True
        server._thread_id = threading.get_ident()
        ending.take()
        if names is None:
            tell_listening(server._plan)
            if server._plan.page is None:
                pages = open_pages(server._plan)
        if on_ready is not None:
            on_ready(server)
        if names is None:
            tell_manager(server._plan)
        server._serve()
    finally:
        try:
            ending.restore()
            server._call_off(claim)
            if pages is not None:
                pages.close()
        finally:  # a signal handler may have raised in the first calls
            ending.restore()
            server._call_off(claim)
            if pages is not None:
                pages.close()
    return server.stats()
