"""A server: a mux, a listener, a handler, and a thread to run them in."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Callable, Literal

from .addresses import Address, check_address
from .backends import choose
from .drain import Drain, stop_time
from .framing import Framing, Limits, policy
from .handlers import Dispatcher, OnError, dispatcher_for
from .mux import (
    Mux,
    check_backlog,
    check_mode,
    check_spin,
)
from .stats import Stats
from .values import duration

__all__ = ["Server", "serve"]

DEFAULT_ADDRESS = ("127.0.0.1", 8093)


class BaseServer:
    """What a server is, whichever loop it runs in.

    Arguments are checked when it is made; `_bind` listens. It has one life.
    """

    def __init__(
        self,
        handler: Any,
        address: Address,
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
        self._form = dispatcher_for(handler)
        self._handler = handler
        self._where = address
        self._listen: dict[str, Any] = {
            "framing": framing,
            "limits": limits,
            "backlog": backlog,
            "reuse_port": reuse_port,
            "mode": mode,
        }
        policy(framing, limits)  # raises for what it cannot be
        check_address(address)
        choose(backend)
        drain_timeout = duration("drain_timeout", drain_timeout)
        check_backlog(backlog)
        check_mode(mode)
        if on_error is not None and not callable(on_error):
            raise TypeError(f"on_error is {on_error!r}; a callable or None is needed")
        self._backend = backend
        self._drain_timeout = drain_timeout
        self._on_error = on_error

        self._lock = threading.RLock()
        self._mux: Mux | None = None  # set last, when all of these are
        self._address: Any = None
        self._dispatcher: Dispatcher
        self._drain: Drain

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address or self._where}>"

    def _make_mux(self) -> Mux:
        raise NotImplementedError

    def _bind(self) -> Mux:
        """Make the mux and listen; raises in the caller."""
        with self._lock:
            if self._mux is not None:
                raise RuntimeError(
                    "this server was started before; a server has one life, "
                    "make a new one"
                )
            mux = self._make_mux()
            try:
                listener = mux.listen(
                    self._where, half_open=self._form.half_open, **self._listen
                )
            except BaseException:
                mux.close()
                raise
            self._address = listener.address
            dispatcher = self._form(mux, self._handler, self._on_error)
            mux._on_callback_error = lambda error: dispatcher.report(None, error)
            mux._on_close = dispatcher.bereave
            self._dispatcher = dispatcher
            self._drain = Drain(mux, dispatcher)
            self._mux = mux
            return mux

    @property
    def address(self) -> Any:
        """(host, port) as it was bound, or the path; readable after the end.

        Raises:
            RuntimeError: it was not started.
        """
        with self._lock:  # who was accepted already may ask while it is noted
            if self._mux is None:
                raise RuntimeError("this server was not started; it has no address yet")
            return self._address

    def stats(self) -> Stats:
        """Figures of the mux: zeros before the start, after the end the last.

        Any thread may call it.
        """
        with self._lock:
            if self._mux is None:
                return Stats(self._backend or "")
            return self._mux._figures()


class Server(BaseServer):
    """Serves a handler on an address, in this thread or one of its own.

    Arguments are checked here; binding happens in `start`, `run` or `with`,
    and raises there. A server has one life.

    Args:
        handler: one of the four forms: a function, a coroutine function, a
            `batched` function, an object with `opened`, `received`, ...
        address: (host, port), or the path of a Unix socket.
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
        address: Address = DEFAULT_ADDRESS,
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
        self._ended = threading.Event()
        # Before 3.10, Thread.join is not safe against itself (seen on PyPy).
        self._joining = threading.RLock()
        self._fatal: BaseException | None = None

    def _make_mux(self) -> Mux:
        return Mux(self._backend, spin=self._spin)

    # --- life -------------------------------------------------------------

    def start(self) -> Server:
        """Bind, and serve in a daemon thread of its own.

        Returns:
            The server, which accepts already.

        Raises:
            OSError: the address cannot be had.
            RuntimeError: it was started before.
        """
        self._bind()
        self._thread = threading.Thread(
            target=self._run_in_thread, name=f"pymux {self._address}", daemon=True
        )
        self._thread.start()
        return self

    def run(self) -> None:
        """Bind, and serve in this thread until `stop`.

        Raises:
            OSError: the address cannot be had.
            RuntimeError: it was started before.
            KeyboardInterrupt, SystemExit: raised by a handler or a signal.
        """
        self._bind()
        self._serve()

    def __enter__(self) -> Server:
        """Start it; the end of the `with` block stops it."""
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._fatal = error

    def _serve(self) -> None:
        mux = self._mux
        assert mux is not None
        self._thread_id = threading.get_ident()
        dispatcher, drain = self._dispatcher, self._drain
        cause: BaseException | None = None
        with dispatcher.serving():
            try:
                while mux._c is not None and not (drain.by and drain.over()):
                    mux._serve(None, dispatcher)
            except BaseException as error:
                cause = error
                raise
            finally:
                try:
                    dispatcher.wind_up(cause)
                finally:
                    with self._lock:
                        mux.close()
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
        handler). Any thread may call it, and again: the smaller timeout holds.
        Before the start it does nothing.

        Args:
            drain_timeout: seconds; None is the server's.

        Raises:
            BaseException: what ended the server's thread, if anything did.
        """
        by = stop_time(drain_timeout, self._drain_timeout)
        with self._lock:
            mux = self._mux
            if mux is None:
                return
            with contextlib.suppress(RuntimeError):  # it is closed already
                mux.call_threadsafe(self._drain.begin, by)
        if threading.get_ident() == self._thread_id:
            return
        self._ended.wait()
        if self._thread is not None:
            with self._joining:
                self._thread.join()
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

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
            if self._mux is None:
                raise RuntimeError("this server was not started")
            self._mux.call_threadsafe(fn, self._mux, *args)


def _run_until_signal(
    server: Server, on_ready: Callable[[Server], Any] | None = None
) -> Stats:
    """Run a server in this thread until SIGINT or SIGTERM, then drain it.

    In the main thread both signals are caught meanwhile: the first drains, a
    second resets at once.
    """
    server._bind()
    assert server._mux is not None
    server._mux._takes_signals = True
    restore: list[Any] = []
    asked: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        asked.append(number)
        server.stop(0 if len(asked) > 1 else None)

    server._thread_id = threading.get_ident()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            restore.append((number, signal.signal(number, on_signal)))
    try:
        if on_ready is not None:
            on_ready(server)
        server._serve()
    finally:
        for number, before in restore:
            signal.signal(number, before)
        if server._mux is not None and server._mux._c is not None:
            server._mux.close()
            server._ended.set()
    return server.stats()


def serve(handler: Any, address: Address = DEFAULT_ADDRESS, **options: Any) -> Stats:
    """Serve in this thread until SIGINT or SIGTERM, then drain.

    It prints nothing.

    Args:
        handler: one of the four forms.
        address: (host, port), or the path of a Unix socket.
        options: those of `Server`.

    Returns:
        The final `Stats`.

    Raises:
        OSError: the address cannot be had.
        TypeError, ValueError: an argument that cannot be.
        KeyboardInterrupt, SystemExit: raised by a handler.

    >>> serve(lambda conn, data: data.upper())  # doctest: +SKIP
    """
    return _run_until_signal(Server(handler, address, **options))
