"""The blocking client: one connection on a mux of its own.

A client could be a socket and a buffer. It is a mux instead, so that framings,
addresses, partial sends and what a lost connection means exist once, and a client
and a server cannot disagree about them. It is a small one: a table of one
descriptor for `poll`, and no wakeup until a call waits for the first time.

One call is inside at a time: it puts a token into the client, in one step that
another thread cannot come between, and takes it out again without a call, so that
no signal's handler that raises can leave it there. What the mux has handed over is
noted when the mux is asked what that was, so none of it is lost in between.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ..engine import clock
from ..engine.os_errors import meaning
from ..engine.owner import FORKED
from ..engine.small import SmallEngine
from ..mux import Mux
from ..objects.base import engine_of, mux_with
from ..objects.made import Made
from ..objects.rows import has_news, row_count
from ..objects.status import keep_names
from ..values.checks import duration
from ..values.endpoint import connect_settings
from ..values.errors import ConnectionClosed, no_copy
from ..values.framing import Splitter
from .held import Held, Place
from .progress import FIRST_NAP, LAST_NAP, LIMITS

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..objects.batch import Batch
    from ..objects.connection import Connection
    from ..values.endpoint import Connectable, Settings
    from ..values.framing import Framing

OBJECTS = Made()

# What a send takes in while its own output waits, before it stops reading.
MAX_HELD = 16 * 1024 * 1024

# A peer that has acknowledged everything may still be at it: what it sends after our
# close makes the kernel reset the connection, and some programs then forget what they
# have not read yet. So where it sends, or has not said anything since our last
# message, a close waits for its end until it has been quiet for so long; but no longer
# than that for a peer that is never quiet.
QUIET = 0.05
LINGER = 0.5


class _Default(enum.Enum):
    """Tells `recv(timeout=None)`, for ever, from `recv()`, the client's timeout."""

    TIMEOUT = "the client's timeout"


Timeout = float | None | Literal[_Default.TIMEOUT]
DEFAULT: Literal[_Default.TIMEOUT] = _Default.TIMEOUT


class Client:
    """A connection for programs that wait for one answer at a time.

    Made by `pymux.connect`. Messages are framed as the framing given there says, and
    handed out in order, once. One thread may use a client at a time; which thread
    may change. A call while another thread is inside raises RuntimeError and has
    done nothing, and so does one of a signal's handler that has interrupted a call;
    `close` alone may be called from anywhere. Where a signal's handler raises inside
    a call, no message is lost, and the client can be used as before. Leaving a `with`
    block closes it.

    Example:
        >>> import pymux
        >>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as s:
        ...     with pymux.connect(s.address, timeout=5) as client:
        ...         client.send(b"hello")
        ...         client.recv()
        b'HELLO'
    """

    _conn: Connection | None = None

    def __init__(self, mux: Mux, timeout: float | None) -> None:
        # Private: `connect` makes clients.
        self._mux = mux
        self._engine: SmallEngine = engine_of(mux)  # type: ignore[assignment]
        self._timeout = timeout
        # At 0 the token of the call that is inside: its thread. To put it there
        # unless another is there is one step.
        self._inside: dict[int, tuple[int]] = {}
        self._claim = self._inside.setdefault
        self._inbox = Held()
        self._noted: Batch | None = None  # the last whose news are noted
        self._opened = False
        self._paused = False
        self._ended = False  # the peer's stream has; what came before may be held
        self._lost = False  # the mux reported the connection as closed
        self._error: OSError | None = None  # and this was the cause
        self._accepted = 0  # bytes that calls which returned have sent,
        self._heard = 0  # and how many had been received then
        self._asked = False  # to close, by another thread or a signal's handler,
        self._asked_by: float | None = None  # and by when
        self._closing = False  # by our own close(),
        self._closed = False  # which is over
        self._barred = False  # one of these three
        self._lingered = False  # the peer has all, or what it lacks is lost:
        self._loss: OSError | None = None  # what is to be raised for that

    def __repr__(self) -> str:
        closed = self._closing or self._closed
        state = "closed" if closed else "lost" if self._lost else "open"
        return f"<pymux.Client to {self.peer!r}, {state}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._engine.c is None:
            return
        if self._opened and self._engine.thread != FORKED:
            warnings.warn(
                f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self
            )
        self._engine.free()  # and not when the collector comes by

    @property
    def local(self) -> Any:
        """Our own address: `(host, port)`, or a path, `""` where it has none.

        It can be read after closing too, and in any thread.
        """
        return self._names()[1]

    @property
    def peer(self) -> Any:
        """The peer's address: `(host, port)` or a path.

        It can be read after closing too, and in any thread.
        """
        return self._names()[0]

    def _names(self) -> Any:
        conn = self._conn
        return ("", "") if conn is None else (conn.peer, conn.local)

    # --- sending and receiving --------------------------------------------

    def send(
        self,
        data: Buffer,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Send one message and return when the kernel took all of it.

        What the peer sends meanwhile is taken in and kept for `recv`, up to 16 MiB,
        so that a peer that answers while it is being sent to cannot block both.

        Args:
            data: a bytes-like object, one message of the client's framing.
            timeout: seconds for this call, None to wait for ever; without it, the
                client's own timeout.

        Raises:
            TimeoutError: the kernel did not take it all in time. The message is not
                withdrawn, since a part may have left: the rest follows with the
                calls after this one. So it is where a signal's handler raises.
            ConnectionClosed: the connection is closed or lost; `errno` tells why.
            TypeError: `data` is not bytes-like.
            ValueError: the framing cannot carry it.
            RuntimeError: another thread is inside the client; nothing was done.
        """
        token = (get_ident(),)
        try:
            if self._claim(0, token) is not token:
                raise self._in_use()
            deadline = self._begin(timeout)
            if self._lost:
                raise self._gone("cannot send")
            self._open_conn().send(data)
            self._flush(deadline)
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    def recv(self, timeout: Timeout = DEFAULT) -> bytes | None:
        """Return the next message, or None at the end of the peer's stream.

        `b""` is an empty message, never the end. Where the connection was lost to an
        error, the messages that came before it are returned first.

        Args:
            timeout: seconds to wait, 0 for what is already here, None to wait for
                ever; without it, the client's own timeout. A message that had
                arrived in time is returned.

        Returns:
            The message without its framing; under `Raw` whatever came next, at
            least one byte.

        Raises:
            TimeoutError: nothing came in time. The client can be used as before.
            ConnectionClosed: the connection was lost, or closed by `close`, perhaps
                meanwhile and by another thread; `errno` tells why.
            RuntimeError: another thread is inside the client; nothing was done.
        """
        token = (get_ident(),)
        try:
            if self._claim(0, token) is not token:
                raise self._in_use()
            inbox = self._inbox
            pack, row = inbox.place
            if (
                row < pack.rows
                and timeout is DEFAULT
                and self._engine.thread == token[0]
                and not self._barred
            ):
                offsets = pack.offsets
                message = pack.data[offsets[row] : offsets[row + 1]]
                inbox.place = pack, row + 1
                return message
            found = self._next(self._begin(timeout))
            if found is None:
                return None
            message, inbox.place = found  # taken: nothing is called behind this
            return message
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    def send_eof(self) -> None:
        """End our stream: the peer sees the end behind all that was sent.

        Receiving goes on; a later `send` raises. What a timed-out `send` left over
        goes first, within the client's timeout.

        Raises:
            TimeoutError: what was left over did not leave in time.
            ConnectionClosed: the connection is closed or lost.
            RuntimeError: another thread is inside the client; nothing was done.
        """
        token = (get_ident(),)
        try:
            if self._claim(0, token) is not token:
                raise self._in_use()
            deadline = self._begin(DEFAULT)
            if self._lost:
                raise self._gone("cannot end the stream")
            self._open_conn().send_eof()
            self._flush(deadline)
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the messages until the peer ends its stream."""
        return self

    def __next__(self) -> bytes:
        # As recv, and not by it: behind a call the message could be lost.
        token = (get_ident(),)
        try:
            if self._claim(0, token) is not token:
                raise self._in_use()
            inbox = self._inbox
            pack, row = inbox.place
            if row < pack.rows and self._engine.thread == token[0] and not self._barred:
                offsets = pack.offsets
                message = pack.data[offsets[row] : offsets[row + 1]]
                inbox.place = pack, row + 1
                return message
            found = self._next(self._begin(DEFAULT))
            if found is None:
                raise StopIteration
            message, inbox.place = found
            return message
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    # --- closing ------------------------------------------------------------

    def close(self, timeout: float | None = 5.0) -> None:
        """End our stream and close once the peer has everything.

        What the peer still sends is read and dropped, until it ends its stream too
        or has acknowledged all that was sent; input that nobody reads would make
        the kernel reset the connection and throw away what is still on its way.
        What was received and not taken is dropped.

        Any thread may call it, a signal's handler too. Where a call is inside, in
        another thread or below the handler, that call is woken, closes, and raises
        `ConnectionClosed`; another thread waits for that, a handler does not. A
        second call does nothing. In a forked child it frees memory and the
        descriptor only.

        Args:
            timeout: seconds for all of it, None for ever. Then a connection with a
                part of a message left, from a `send` that timed out, is reset, so
                that the peer cannot take the part for the whole; for any other the
                kernel goes on sending what it has, which input that still comes
                would end. 0 does not wait.

        Raises:
            TimeoutError: what `send` had accepted was not acknowledged in time, and
                is lost. The client is closed.
            ConnectionClosed: the connection was lost before the peer had
                acknowledged what `send` had accepted. The client is closed.
            ValueError, TypeError: a timeout that is none.
        """
        timeout = duration("timeout", timeout)
        by = None if timeout is None else clock.now() + timeout
        if self._engine.thread == FORKED:
            self._closed = self._barred = True
            self._engine.close()
            return
        nap = FIRST_NAP
        token = (get_ident(),)
        while not self._closed:
            try:
                inside = self._claim(0, token)
                if inside is token:
                    self._finish(by, timeout == 0)
                    return
            finally:
                if self._inside and self._inside[0] is token:
                    del self._inside[0]
            self._asked_by = by
            self._asked = self._barred = True
            self._mux.wakeup()
            if inside[0] == token[0] or (by is not None and clock.now() >= by):
                return
            time.sleep(nap)
            nap = min(2 * nap, LAST_NAP)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:  # which tells more than what has become of the rest
            with contextlib.suppress(OSError):
                self.close()

    def _close_if_asked(self) -> None:
        """A call is over; `close` was called meanwhile, and may not wait for it."""
        if self._asked and not self._closed and not self._inside:
            with contextlib.suppress(OSError):
                self.close(self._left_to_close())

    def _left_to_close(self) -> float | None:
        by = self._asked_by
        return None if by is None else max(0.0, by - clock.now())

    def _heed(self) -> None:
        """Close and raise, where another thread or a signal's handler asks for it."""
        if not self._asked:
            return
        closed = self._refusal()
        try:
            self._finish(self._asked_by, False)
        except OSError as error:
            closed.__cause__ = error
        raise closed

    def _finish(self, by: float | None, at_once: bool) -> None:
        """Close, being inside. May be begun again where it was interrupted."""
        self._closing = self._barred = True
        engine = self._engine
        if engine.c is not None:
            engine.lend()
            if not self._lingered and not self._lost and self._opened:
                self._loss = self._linger(by, at_once)
            self._lingered = True
            counts = engine.counts
            queued, discarded = counts.queued, counts.discarded
            engine.close()
            if queued and counts.discarded == discarded and not self._lost:
                self._loss = None  # the kernel took it after all
        self._closed = True
        if self._loss is not None:
            raise self._loss

    def _linger(self, by: float | None, at_once: bool) -> OSError | None:
        """End our stream; read and drop until the peer has everything, or until
        then. What to raise."""
        mux, engine, conn = self._mux, self._engine, self._open_conn()
        counts = engine.counts
        self._note()
        if not conn.closed:
            conn.close()
        span, nap, over = 0.0, FIRST_NAP, math.inf
        # When the peer was last at work for us: it may be at our last message.
        busy = -math.inf
        if self._accepted and counts.bytes_in == self._heard:
            busy = clock.now()
        while True:
            missing = self._missing(self._unacknowledged())
            heard = counts.bytes_in
            mux.harvest(span)
            self._note()
            if self._lost:
                if self._error is None or not missing:
                    return None
                return self._gone("closing")
            left = self._unacknowledged()
            now = clock.now()
            if counts.bytes_in != heard:
                busy = now
            if left is not None and left <= 1 and not engine.log.entries:
                # the 1 is our end, which kernels are slow to acknowledge
                if now - busy > QUIET or (at_once and not left):
                    return None
                over = min(over, now + LINGER)
                if now >= over and not left and sys.platform == "linux":
                    return None
            if by is not None and now >= by:
                missing = self._missing(left)
                comes = now - busy <= QUIET and not at_once
                if not missing or not (counts.queued or comes):
                    return None  # or the kernel goes on sending
                return TimeoutError(
                    errno.ETIMEDOUT,
                    f"{missing} bytes to {self.peer!r} not acknowledged in time",
                )
            span = nap if by is None else min(nap, by - now)
            nap = min(2 * nap, LAST_NAP)
            engine.can_be_woken()

    def _unacknowledged(self) -> int | None:
        """Bytes that the peer does not have; None where the OS cannot tell."""
        return self._engine.unacknowledged(self._open_conn().id)

    def _missing(self, left: int | None) -> int:
        """How much of what calls had accepted the peer has not acknowledged."""
        counts = self._engine.counts
        queued = counts.queued
        if left is None:  # what has left may have arrived
            left = queued
        elif left and not queued:
            left -= 1  # our end
        return max(0, self._accepted - int(counts.bytes_out + queued - left))

    # --- turns ----------------------------------------------------------------

    def _connect(self, settings: Settings) -> None:
        """Wait for the connection; raise what kept it from coming."""
        mux = self._mux
        self._engine.lend()
        self._conn = mux.connect(
            settings.address,
            framing=settings.framing,
            limits=LIMITS,
            half_open=True,
            timeout=self._timeout,
        )
        mux.harvest(0)
        self._note()
        while not self._opened and not self._lost:
            self._wait(None)
            self._note()
        if not self._opened:
            raise self._error or ConnectionAbortedError(
                errno.ECONNABORTED, f"not connected to {self.peer!r}"
            )
        keep_names(self._conn)  # to be read in any thread

    def _give_up(self) -> None:
        """It was not connected, or not handed out."""
        self._closed = self._closing = self._barred = True
        self._error = self._noted = None  # the error's traceback knows this client
        self._engine.close()

    def _open_conn(self) -> Connection:
        assert self._conn is not None
        return self._conn

    def _begin(self, timeout: Timeout) -> float | None:
        """Enter a public method; return the monotonic time at which it gives up."""
        if self._closing or self._closed:
            raise self._refusal()
        self._engine.lend()
        self._heed()
        timeout = self._timeout if timeout is DEFAULT else duration("timeout", timeout)
        return None if timeout is None else clock.now() + timeout

    def _next(self, deadline: float | None) -> tuple[bytes, Place] | None:
        """What `Held.next` says, once there is a message; None at the end."""
        late = 0  # bytes read since the deadline
        counts = self._engine.counts
        over = False
        while True:
            self._note()
            self._heed()
            found = self._inbox.next()
            if found is not None:
                return found
            if self._ended:
                return None
            if self._lost:
                raise self._gone("cannot receive")
            if over:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"nothing received from {self.peer!r} in time"
                )
            left = None if deadline is None else deadline - clock.now()
            if left is None or left > 0:
                self._wait(left)
                continue
            # What had arrived by now may take several receives.
            before = counts.bytes_in
            self._mux.harvest(0)
            late += counts.bytes_in - before
            over = counts.bytes_in == before or late > MAX_HELD

    def _wait(self, timeout: float | None) -> None:
        """Harvest, and wait if nothing is there; for less where nobody could end
        the wait."""
        mux, engine = self._mux, self._engine
        if engine.wakeup_fd < 0:
            batch = mux.harvest(0)
            if batch or self._sent():
                return
            if not engine.can_be_woken():
                timeout = LAST_NAP if timeout is None else min(timeout, LAST_NAP)
            elif self._asked:  # before there was a wakeup to be woken by
                return
        mux.harvest(timeout)

    def _sent(self) -> bool:
        """Whether a send that waits has nothing to wait for."""
        engine = self._engine
        return bool(engine.turn.until_sent) and not engine.counts.queued

    def _note(self) -> None:
        """Note what the last harvest brought, once, however often it is asked."""
        engine = self._engine
        batch = engine.batch
        if batch is not None and batch is not self._noted and not engine.received:
            if row_count(batch):
                self._inbox.keep(batch)
                engine.grow()
            if has_news(batch):
                if batch.opened:
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

    def _flush(self, deadline: float | None) -> None:
        """Harvest until the kernel took what is queued."""
        mux, engine = self._mux, self._engine
        counts, turn = engine.counts, engine.turn
        entries = engine.log.entries
        mux.harvest(0)
        self._note()
        if entries:  # that was a batch which a signal's handler had held up
            mux.harvest(0)
            self._note()
        while counts.queued and not self._lost:
            self._heed()
            if self._inbox.size >= MAX_HELD and not self._paused:
                self._open_conn().pause()
                self._paused = True
            left = None if deadline is None else deadline - clock.now()
            if left is not None and left <= 0:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"{counts.queued} bytes to {self.peer!r} not sent in time",
                )
            try:
                turn.until_sent = 1
                self._wait(left)
            finally:
                turn.until_sent = 0
            self._note()
        if self._lost or counts.discarded:
            raise self._gone("cannot send")
        self._accepted = counts.bytes_out
        self._heard = counts.bytes_in

    # --- errors -----------------------------------------------------------------

    def _in_use(self) -> RuntimeError:
        """What a call raises that finds another inside."""
        return RuntimeError(
            "this client is in use: one thread may be inside it at a time, and no "
            "signal's handler beside it; close() alone may be called from anywhere"
        )

    def _refusal(self) -> ConnectionClosed:
        return ConnectionClosed(
            errno.EBADF, "the client is closed", connection=self._conn
        )

    def _gone(self, what: str) -> ConnectionClosed:
        """The exception for a connection that is lost."""
        error = self._error
        number = errno.ECONNRESET if error is None else error.errno
        closed = ConnectionClosed(
            number,
            f"{what}, connection lost: {meaning(number or 0)}",
            connection=self._conn,
        )
        closed.__cause__ = error
        return closed


def connect(
    address: Connectable,
    *,
    framing: Framing | None = None,
    timeout: float | None = None,
) -> Client:
    """Connect to a server and return a blocking client.

    Args:
        address: `(host, port)`, the path of a Unix socket, a URL or an `Endpoint`.
        framing: how messages are cut from the stream; None is `Raw()`. A
            `Splitter` is not taken.
        timeout: seconds to connect within, and the default for each `send` and
            `recv` of the client. None waits for ever.

    Returns:
        A `Client`, connected.

    Raises:
        TimeoutError: not connected in time.
        OSError: not connected, as its subclass for the cause, such as
            ConnectionRefusedError or FileNotFoundError.
        ValueError: the address is malformed, the timeout negative, or an option of
            the endpoint cannot apply: a client takes no handler and no limits.

    Example:
        >>> import pymux
        >>> lines = pymux.Lines()
        >>> with pymux.Server(lambda conn, data: data[::-1], ("127.0.0.1", 0),
        ...                   framing=lines) as server:
        ...     with pymux.connect(server.address, framing=lines, timeout=5) as client:
        ...         client.send(b"stressed")
        ...         client.send(b"drawer")
        ...         client.send_eof()
        ...         list(client)
        [b'desserts', b'reward']
    """
    settings = connect_settings(address, framing=framing, refuse=("handler", "limits"))
    timeout = duration("timeout", timeout)
    if isinstance(settings.framing, Splitter):
        raise TypeError(
            f"framing is {settings.framing!r}; a blocking client keeps messages as "
            "bytes: receive with Raw() and call the parser yourself"
        )
    client = None
    try:
        client = Client(mux_with(Mux, partial(SmallEngine, OBJECTS)), timeout)
        client._connect(settings)
        return client
    except BaseException:
        if client is not None:
            client._give_up()
        raise
