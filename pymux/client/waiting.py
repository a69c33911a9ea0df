"""A client's connection, and the harvests that wait for input and output.

A client is made of layers, each a class on the one before: `Waiting`, `Closing` (how
a client leaves), and `Client` (what users call).

What a harvest has brought is noted when the engine is asked for its last batch, and
asking again changes nothing. So a signal's handler that raises behind any call loses
nothing: the next call notes the batch.
"""

from __future__ import annotations

import errno
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ..engine.os_errors import aborted, meaning, number_of, words_of
from ..objects.base import engine_of
from ..objects.rows import has_news, row_count
from ..objects.status import keep_names
from ..values.endpoint import Endpoint
from ..values.errors import ConnectionClosed
from ..values.limits import Limits
from .held import Held

if TYPE_CHECKING:
    from ..engine.small import SmallEngine
    from ..mux import Mux
    from ..objects.batch import Batch
    from ..objects.connection import Connection
    from ..objects.tls import TlsView
    from ..values.endpoint import Settings

__all__ = ["LAST_NAP", "LIMITS", "MAX_HELD", "Waiting", "limits_of_client"]

# A client reads on while its own output waits, however much waits there: a peer that
# echoes would otherwise stop reading too, and both sides would wait for ever.
UNBOUNDED = 1 << 62

# Every client has this policy: its own calls bound what is queued, and `close` has a
# timeout of its own.
LIMITS = Limits(high_water=UNBOUNDED, max_output=UNBOUNDED, close_timeout=None)

# The limits that a client's user may set.
TAKEN = (
    "idle_timeout",
    "message_timeout",
    "keepalive",
    "send_buffer",
    "notsent_lowat",
    "handshake_timeout",
)

# The bytes that a client takes in while its own output waits, before reading pauses.
MAX_HELD = 16 * 1024 * 1024

# The longest wait, in seconds, where nothing tells of what is waited for.
LAST_NAP = 0.02


def limits_of_client(limits: Limits | None) -> Limits:
    """Return the policy of a client with the limits that its user gives.

    Raises:
        ValueError: a limit is set that a client does not take.
    """
    if limits is None:
        return LIMITS
    for field in fields(Limits):
        value = getattr(limits, field.name)
        if field.name not in TAKEN and value != field.default:
            raise ValueError(
                f"limits has {field.name}={value!r}; a client takes "
                f"{', '.join(TAKEN[:-1])} and {TAKEN[-1]} alone"
            )
    return replace(LIMITS, **{name: getattr(limits, name) for name in TAKEN})


class Waiting:
    """The first layer of a client: its connection and what was received."""

    _conn: Connection | None = None
    _tls: TlsView | None = None

    def __init__(self, mux: Mux, timeout: float | None) -> None:
        self._mux = mux
        # The mux of a client is made with a small engine.
        self._engine: SmallEngine = engine_of(mux)  # type: ignore[assignment]
        self._timeout = timeout
        self._inbox = Held()
        self._noted: Batch | None = None  # the last batch that was noted
        self._opened = False
        self._paused = False
        self._ended = False  # the peer has ended its stream; messages may be held
        self._lost = False  # the mux has reported the end of the connection
        self._error: OSError | None = None  # the cause of that end
        # Whether another thread, or a signal's handler, has called close().
        self._asked = False

    def _names(self) -> Any:
        conn = self._conn
        return ("", "") if conn is None else (conn.peer, conn.local)

    def _open_conn(self) -> Connection:
        assert self._conn is not None
        return self._conn

    def _connect(self, settings: Settings, limits: Limits) -> None:
        """Wait until the connection is open, or raise the cause of its failure."""
        mux = self._mux
        self._engine.lend()
        self._conn = mux.connect(
            Endpoint(
                settings.address,
                require_close_notify=None,
                source_address=settings.source_address,
            ),
            framing=settings.framing,
            reply_framing=settings.reply_framing,
            ssl=settings.ssl,
            limits=limits,
            server_hostname=settings.server_hostname,
            require_close_notify=settings.require_close_notify,
            half_open=True,
            timeout=self._timeout,
        )
        mux.harvest(0)
        self._note()
        while not self._opened and not self._lost:
            self._wait(None)
            self._note()
        if not self._opened:
            raise settings.not_connected(self._error or aborted(None))
        keep_names(self._conn)  # any thread may read them

    def _wait(self, timeout: float | None) -> None:
        """Harvest, and wait if nothing has come.

        Where no wakeup can be opened, nothing could end a long wait: then wait for
        LAST_NAP seconds at most.
        """
        mux, engine = self._mux, self._engine
        if engine.wakeup_fd < 0:
            batch = mux.harvest(0)
            if batch or self._all_is_sent():
                return
            if not engine.can_be_woken():
                timeout = LAST_NAP if timeout is None else min(timeout, LAST_NAP)
            elif self._asked:  # the caller of close() found no wakeup to use
                return
        mux.harvest(timeout)

    def _all_is_sent(self) -> bool:
        """Whether this wait is for output, and the kernel has taken all of it."""
        engine = self._engine
        return bool(engine.turn.until_sent) and not engine.counts.queued

    def _note(self) -> None:
        """Note what the last harvest brought, once, however often this is called."""
        engine = self._engine
        batch = engine.batch
        if batch is not None and batch is not self._noted and not engine.received:
            if row_count(batch):
                self._inbox.keep(batch)
                engine.grow()
            if has_news(batch):
                if batch.opened:
                    self._tls = self._open_conn().tls  # any thread may read it
                    self._opened = True
                if batch.ended:
                    self._ended = True
                for _, error in batch.closed:
                    self._error = error
                    self._ended = self._ended or error is None
                    self._lost = True
            self._noted = batch
        if self._paused and self._inbox.size <= MAX_HELD // 2 and not self._lost:
            self._open_conn().resume()
            self._paused = False

    def _gone(self, what: str) -> ConnectionClosed:
        """The exception of a call that needs the connection, which is lost."""
        error = self._error
        number = errno.ECONNRESET if error is None else number_of(error)
        why = meaning(errno.ECONNRESET) if error is None else words_of(error)
        text = f"{what}, connection lost: {why}"
        closed = ConnectionClosed(number, text, connection=self._conn)
        closed.__cause__ = error
        return closed
