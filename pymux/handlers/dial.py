"""`dial` opens a connection that ends with the coroutine that dialled."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..engine import clock
from ..engine.os_errors import aborted
from ..engine.structs import endpoints_to, policy_of
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import failed_connects, row_count
from ..objects.status import buffer_of, set_buffer
from ..values.addresses import is_numeric
from ..values.checks import duration
from ..values.endpoint import Connectable, Settings, connect_settings
from ..values.tls import SSLContext
from .buffer import TaskBuffer
from .buffered import BufferedDispatcher
from .tasks import Task, Wait, named
from .threads import WORKERS

if TYPE_CHECKING:
    from ..engine.timers import Timer
    from ..values.framing import Framing
    from ..values.limits import Limits

__all__ = ["DialDispatcher", "dial", "dial_in_asyncio"]

_in_asyncio: list[Callable[..., Any]] = []  # `pymux.aio.connect`, if imported


def dial_in_asyncio(connect: Callable[..., Any]) -> None:
    """Set the function that `dial` calls in asyncio; an import of `pymux.aio` does."""
    _in_asyncio[:] = [connect]


class DialledBuffer(TaskBuffer):
    """The messages of a dialled connection, for the coroutine that dialled."""

    __slots__ = ("call", "settings", "task")

    def __init__(self, conn: Connection, task: Task, settings: Settings) -> None:
        super().__init__(conn)
        self.task: Task = task
        self.settings: Settings = settings
        self.call: str | None = None

    def is_awaited(self, call: str) -> bool:
        return self.task.waiting is self and self.call == call

    def wait_in(self, call: str) -> None:
        """Note that the coroutine is about to wait in the named call."""
        self.call = call
        self.task.waiting = self

    def is_at_work(self) -> bool:
        """Return True unless a coroutine waits for the peer of this connection."""
        return not self.is_awaited("recv") and self not in self.engine.guests

    def lend(self, task: Task) -> bool:
        """Let another coroutine of the connection that has dialled receive, while
        none waits here."""
        if self.task.waiting is self:
            return False
        self.task = task
        return True

    def has_arrived(self) -> bool:
        """Return True if the coroutine waits for a message that is here."""
        return self.call == "recv" and bool(self.engine.has_more(self.conn.id))

    def begin(self) -> None:
        """Resume the coroutine: the connection is open."""
        if self.is_awaited("dial"):
            self.task.resume(self.conn)

    def knows_of_stop(self) -> bool:
        """Return False if a `stop` that is out of time has yet to tell the coroutine,
        which then gets that end where it waits."""
        return bool(self.task.owner.is_told(self.task))

    def fail(self, error: OSError | None) -> None:
        """Raise the error of a failed connect in the coroutine."""
        if self.is_awaited("dial"):
            self.task.throw(self.settings.not_connected(error or aborted(None)))


class DialDispatcher(BufferedDispatcher):
    """Gives messages and news to the coroutines that have dialled."""

    def __call__(self, batch: Batch) -> None:
        for conn in batch.opened:
            self.tell_waits(conn)  # a task takes its messages
            if (buffer := buffer_of(conn)) is not None:
                buffer.begin()
        if row_count(batch):
            self.messages(batch)
        self.news(batch)
        failed = set(failed_connects(batch))
        for conn, error in batch.closed:
            buffer = buffer_of(conn)
            if buffer is None:
                continue
            if conn in failed and (not self.late or buffer.knows_of_stop()):
                buffer.fail(error)
            buffer.end(error, True)

    def bereave(self) -> None:
        """Do nothing: the coroutines' own dispatchers end the coroutines."""


class _Dial(Wait):
    """One `dial`: resolve in a thread, connect, wait until the connection is open."""

    call: str = "dial"

    def __init__(self, settings: Settings, timeout: float | None) -> None:
        self._settings = settings
        self._timeout = timeout
        self._timer: Timer | None = None
        self._begun = 0.0
        self._conn: Connection | None = None  # once it connects

    def begin(self, task: Task) -> None:
        """Begin to connect for the task that waits."""
        self._begun = clock.now()
        address = self._settings.address
        if is_numeric(address):
            self._connect(task, endpoints_to(self._settings))
            return
        if self._timeout is not None:
            self._timer = task.engine.call_later(
                self._timeout, self._time_is_over, task
            )

        def resolve() -> None:
            found: Any
            try:
                found = endpoints_to(self._settings)
            except Exception as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the mux is closed
                task.engine.call_threadsafe(self._resolved, task, found)

        WORKERS.submit(resolve)

    def _waits(self, task: Task) -> bool:
        return task.waiting is self

    def _time_is_over(self, task: Task) -> None:
        if self._waits(task):
            name = str(self._settings)
            text = f"{name} was not resolved within {self._timeout} seconds"
            task.throw(TimeoutError(errno.ETIMEDOUT, text))

    def _resolved(self, task: Task, found: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._waits(task):
            return
        try:
            if isinstance(found, Exception):
                raise found
            self._connect(task, found)
        except Exception as error:
            task.throw(error)

    def _connect(self, task: Task, found: Any) -> None:
        engine, settings = task.engine, self._settings
        left = self._timeout
        if left is not None:
            left = max(left - (clock.now() - self._begun), 0.001)
        rules = policy_of(engine, settings, timeout=left)
        rules.service = engine.handlers.dial_number()
        conn = engine.dial(found, rules, settings.framings, str(settings))
        self._conn = conn
        buffer = DialledBuffer(conn, task, settings)
        set_buffer(conn, buffer)
        task.own(buffer)
        buffer.wait_in("dial")

    def give_up(self) -> None:
        """Drop the connection, which may be connecting yet."""
        if self._timer is not None:
            self._timer.cancel()
        if self._conn is not None and not self._conn.closed:
            self._conn.abort()


def dial(
    address: Connectable,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | bool | None = None,
    limits: Limits | None = None,
    server_hostname: str | None = None,
    require_close_notify: bool = True,
    timeout: float | None = None,
) -> Coroutine[Any, Any, Connection]:
    """Connect, in a coroutine handler, and wait until the connection is open.

    The connection belongs to the coroutine, and is closed when the coroutine ends.
    Coroutines that it spawns may use the connection too, and those of the same
    accepted connection: one at a time awaits `recv` or iterates. No other coroutine
    may await its `recv` and `drain`.
    A name is resolved in a thread, and its addresses are tried in order, each a quarter
    of a second after the one before if that has not failed sooner (RFC 8305). In an
    asyncio task this is `pymux.aio.connect`.

    Args:
        address: (host, port), the path of a Unix socket, a URL or an `Endpoint`.
        framing: how messages are cut from the stream; None is `Raw()`.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext`, for TLS; True is one that verifies with the
            certificates that the system trusts; None is plain text.
        limits: limits of the connection; None is `Limits()`.
        server_hostname: the name that the server's certificate is to have; None takes
            the host of the address. Only with TLS.
        require_close_notify: False takes an end of the stream without TLS'
            close_notify, which may be a cut, for an ordinary end.
        timeout: seconds that connecting may take, TLS included; None leaves that to
            the OS and `Limits.handshake_timeout`.

    Returns:
        The open `Connection`.

    Raises:
        TypeError, ValueError: an argument is wrong or does not apply.
        TimeoutError: connecting took longer than `timeout`.
        OSError: no server answers, or the name does not resolve; the error names
            the address. It is an `ssl.SSLError` where the TLS handshake fails.
        RuntimeError: the call is outside a coroutine handler.

    >>> async def front(conn):
    ...     upstream = await dial(("127.0.0.1", 8093), timeout=2)
    ...     async for message in conn:
    ...         upstream.send(message)
    """
    options: dict[str, Any] = {
        "framing": framing,
        "reply_framing": reply_framing,
        "ssl": ssl,
        "limits": limits,
        "server_hostname": server_hostname,
        "require_close_notify": require_close_notify,
    }
    settings = connect_settings(address, **options)
    timeout = duration("timeout", timeout)

    def in_asyncio(asyncio: Any) -> Any:
        if not _in_asyncio:
            raise RuntimeError("dial() in an asyncio task: import pymux.aio first")
        (connect,) = _in_asyncio
        return connect(address, timeout=timeout, **options)

    return named(in_asyncio, _Dial(settings, timeout))
