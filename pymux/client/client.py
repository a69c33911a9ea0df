"""The blocking client: one connection on a mux of its own.

A client could be a socket and a buffer. A mux takes their place, so that framings,
addresses, partial sends and lost connections have one implementation, and a client
and a server cannot disagree. That mux is small: a table of one descriptor for
`poll`, and no wakeup until a call waits for the first time.

One call is inside the client at a time. The call puts a token into the client in one
step, which no other thread can interrupt, and removes the token without a call, so
that a signal's handler that raises cannot leave the token behind. `waiting.py` says
why such a handler loses no message.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import time
import warnings
from collections.abc import Iterator
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ..engine import clock
from ..engine.owner import FORKED
from ..values.checks import duration
from ..values.errors import no_copy
from .closing import FIRST_NAP, Closing
from .held import Place
from .waiting import LAST_NAP, MAX_HELD

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..mux import Mux
    from ..objects.tls import TlsView

__all__ = ["Client"]


class _Default(enum.Enum):
    """The timeout of `recv()`, while that of `recv(timeout=None)` is for ever."""

    TIMEOUT = "the client's timeout"


Timeout = float | None | Literal[_Default.TIMEOUT]
DEFAULT: Literal[_Default.TIMEOUT] = _Default.TIMEOUT


class Client(Closing):
    """A connection for programs that wait for one answer at a time.

    `pymux.connect` makes clients. The framing that is given there cuts messages, and
    each message is returned once, in order. One thread at a time may use a client,
    and another thread may do so later. A call while another thread is inside raises
    RuntimeError and does nothing. The same holds for a call by a signal's handler
    that has interrupted a call. `close` alone may be called from anywhere. Where a
    signal's handler raises inside a call, no message is lost, and the client can be
    used as before. Leaving a `with` block closes the client.

    Example:
        >>> import pymux
        >>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as s:
        ...     with pymux.connect(s.address, timeout=5) as client:
        ...         client.send(b"hello")
        ...         client.recv()
        b'HELLO'
    """

    def __init__(self, mux: Mux, timeout: float | None) -> None:
        # Private: `connect` makes clients.
        super().__init__(mux, timeout)
        # Key 0 holds the token of the call that is inside: a tuple with its thread.
        # `setdefault` puts the token there, unless another is there, in one step.
        self._inside: dict[int, tuple[int]] = {}
        self._claim = self._inside.setdefault

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
        self._engine.free()  # now, not when the collector finds the engine

    @property
    def local(self) -> Any:
        """The client's own address: `(host, port)` or a path; `""` if it has none.

        Any thread may read the address, also after closing.
        """
        return self._names()[1]

    @property
    def peer(self) -> Any:
        """The peer's address: `(host, port)` or a path.

        Any thread may read the address, also after closing.
        """
        return self._names()[0]

    @property
    def tls(self) -> TlsView | None:
        """What the TLS handshake has agreed on, and the server's certificate.

        None without TLS. Any thread may read the view, also after closing.
        """
        return self._tls

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1 after closing, or a lost connection.

        It is for options of the socket, and stays the client's: do not read from it,
        write to it or close it.

        Raises:
            RuntimeError: another thread is inside the client.
        """
        token = (get_ident(),)
        try:
            if self._claim(0, token) is not token:
                raise self._in_use()
            if self._closing or self._closed:
                return -1
            self._engine.lend()
            return self._open_conn().fileno()
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    # --- sending and receiving --------------------------------------------

    def send(
        self,
        data: Buffer,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Send one message and return when the kernel has taken all of it.

        Up to 16 MiB of what the peer sends meanwhile is received and kept for
        `recv`, so that a peer that answers during the send cannot block both sides.

        Args:
            data: a bytes-like object, one message of the client's framing.
            timeout: seconds for this call, None to wait for ever. The default is
                the client's own timeout.

        Raises:
            TimeoutError: the kernel did not take the whole message in time. The
                message is not withdrawn, since a part may have left: later calls
                send the rest. The same holds where a signal's handler raises.
            ConnectionClosed: the connection is closed or lost; `errno` tells why.
            TypeError: `data` is not bytes-like.
            ValueError: the framing cannot carry `data`.
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

        `b""` is an empty message, never the end. Where an error has ended the
        connection, the messages that came before the error are returned first.

        Args:
            timeout: seconds to wait, 0 to return only what has arrived, None to
                wait for ever. The default is the client's own timeout. A message
                that arrived in time is returned.

        Returns:
            The message without its framing; under `Raw` the next bytes of the
            stream, at least one.

        Raises:
            TimeoutError: nothing came in time. The client can be used as before.
            ConnectionClosed: the connection was lost, or `close` was called, perhaps
                by another thread during this call; `errno` tells why.
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
            message, inbox.place = found  # now the message is taken: call nothing
            return message
        finally:
            if self._inside and self._inside[0] is token:
                del self._inside[0]
            if self._barred:
                self._close_if_asked()

    def send_eof(self) -> None:
        """End the client's stream: the peer sees the end behind all that was sent.

        Receiving goes on; a later `send` raises. The rest of a `send` that timed out
        goes first, within the client's timeout.

        Raises:
            TimeoutError: that rest did not leave in time.
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
        # The body of recv() again: behind a call of recv() a signal's handler that
        # raises would lose the message.
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
        """End the client's stream, and close once the peer has everything.

        Input is read and dropped until the peer ends its stream too, or has
        acknowledged all that was sent. Unread input would make the kernel reset the
        connection and discard the output that is still on its way. Messages that
        were received and not taken are dropped.

        Any thread may call `close`, and a signal's handler too. Where a call is
        inside, in another thread or below the handler, that call is woken, closes,
        and raises `ConnectionClosed`. Another thread waits for that; a handler does
        not wait. A second call does nothing. In a forked child `close` frees memory
        and the descriptor only.

        Args:
            timeout: seconds for all of this, None to wait for ever, 0 not to wait.
                After that time a connection is reset if it has sent a part of a
                message, in a `send` that timed out, so that the peer cannot take the
                part for the whole. For any other connection the kernel goes on
                sending, unless further input arrives.

        Raises:
            TimeoutError: the peer did not acknowledge in time what `send` had
                accepted, and the rest is lost. The client is closed.
            ConnectionClosed: the connection was lost before the peer had
                acknowledged what `send` had accepted. The client is closed.
            ValueError, TypeError: `timeout` is negative, or no number.
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
        else:  # the block's exception tells more than one of close()
            with contextlib.suppress(OSError):
                self.close()

    def _close_if_asked(self) -> None:
        """At the end of a call: close, if `close` was called during the call and its
        caller may not wait any more."""
        if self._asked and not self._closed and not self._inside:
            by = self._asked_by
            with contextlib.suppress(OSError):
                self.close(None if by is None else max(0.0, by - clock.now()))

    # --- inside a call ----------------------------------------------------------------

    def _begin(self, timeout: Timeout) -> float | None:
        """Check that a call can begin; return the time of the clock to stop at."""
        if self._closing or self._closed:
            raise self._refusal()
        self._engine.lend()
        self._heed()
        timeout = self._timeout if timeout is DEFAULT else duration("timeout", timeout)
        return None if timeout is None else clock.now() + timeout

    def _next(self, deadline: float | None) -> tuple[bytes, Place] | None:
        """Wait for a message: the result of `Held.next`; None at the end."""
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
            # Reading what had arrived by now may take several receives.
            before = counts.bytes_in
            self._mux.harvest(0)
            late += counts.bytes_in - before
            over = counts.bytes_in == before or late > MAX_HELD

    def _flush(self, deadline: float | None) -> None:
        """Harvest until the kernel has taken all output."""
        mux, engine = self._mux, self._engine
        counts, turn = engine.counts, engine.turn
        entries = engine.log.entries
        mux.harvest(0)
        self._note()
        if entries:  # the harvest returned a batch from before the send
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

    def _in_use(self) -> RuntimeError:
        """The exception of a call that finds another call inside."""
        return RuntimeError(
            "this client is in use: one call may be inside it at a time, of one thread "
            "or signal's handler; close() alone may be called from anywhere"
        )
