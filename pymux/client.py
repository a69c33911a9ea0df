"""The blocking client: one connection on a mux of its own.

A client could be a socket and a buffer. It is a mux instead, so that framings,
addresses, partial sends and what a lost connection means exist once, and a client
and a server cannot disagree about them.
"""

from __future__ import annotations

import enum
import errno
import math
import select
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Union

from .errors import BackendUnavailable, ConnectionClosed, meaning
from .framing import Limits, seconds
from .mux import Mux

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .addresses import Address
    from .batch import Batch
    from .connection import Connection
    from .framing import Framing

# What a send takes in while its own output waits, before it stops reading.
MAX_HELD = 16 * 1024 * 1024

# What a message and a harvest cost beside their payload while they are held.
_ROW_COST = 4
_PACK_COST = 64

# A client reads on while its own output waits, whatever waits there: a peer that
# echoes would otherwise stop reading too, and both would wait for ever.
UNBOUNDED = 1 << 62

# Waits where no descriptor tells that output was taken: doubled up to the last.
FIRST_NAP = 0.0005
LAST_NAP = 0.02

_CLOSE_TURNS = 64  # each drops what one receive takes in


class _Default(enum.Enum):
    """Tells `recv(timeout=None)`, for ever, from `recv()`, the client's timeout."""

    TIMEOUT = "the client's timeout"


Timeout = Union[float, None, Literal[_Default.TIMEOUT]]


class _Inbox:
    """Messages received and not yet taken, packed as in their batches.

    Packed, because a million short messages would cost many times their size
    as objects, and `MAX_HELD` is meant to bound memory.
    """

    __slots__ = ("_packs", "_row", "size")

    def __init__(self) -> None:
        self._packs: deque[tuple[bytes, Sequence[int]]] = deque()
        self._row = 0  # the next one of the first pack
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._packs)

    def add(self, batch: Batch) -> None:
        """Copy the messages of a batch, which has at least one."""
        rows = len(batch)
        data = bytes(batch.data)
        offsets: Sequence[int]
        if rows == 1:
            offsets = (0, len(data))
        else:
            offsets = memoryview(bytes(batch.offsets)).cast("i")
        self._packs.append((data, offsets))
        self.size += len(data) + _ROW_COST * rows + _PACK_COST

    def pop(self) -> bytes:
        """The oldest message."""
        data, offsets = self._packs[0]
        row = self._row
        message = data[offsets[row] : offsets[row + 1]]
        self.size -= len(message) + _ROW_COST
        self._row += 1
        if self._row == len(offsets) - 1:
            self._packs.popleft()
            self._row = 0
            self.size -= _PACK_COST
        return message


def harvest_after_progress(mux: Mux, timeout: float | None, nap: float) -> Batch:
    """Wait until output was taken or something came, and harvest.

    `harvest` waits for what it can report, and output that went to the kernel is
    nothing to report. The descriptor of a poller tells of both; for pollers without
    one this waits inside the harvest, for `nap` seconds at most.

    Args:
        mux: harvested with nothing to report just before.
        timeout: seconds to wait at most, None for ever.
        nap: seconds, see above.

    Returns:
        The batch, which may be empty.
    """
    waits = [t for t in (timeout, mux.next_timeout()) if t is not None]
    if sys.platform == "win32":  # no poller there has a descriptor
        return mux.harvest(min([nap, *waits]))
    try:
        descriptor = mux.fileno()
    except BackendUnavailable:
        return mux.harvest(min([nap, *waits]))
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(min(waits) * 1000) if waits else None)
    return mux.harvest(0)


class Client:
    """A connection for programs that wait for one answer at a time.

    Made by `pymux.connect`. Messages are framed as the framing given there says, and
    handed out in order, once. One thread may use a client at a time; which thread
    may change. Leaving a `with` block closes it.

    Example:
        >>> import pymux
        >>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as s:
        ...     with pymux.connect(s.address, timeout=5) as client:
        ...         client.send(b"hello")
        ...         client.recv()
        b'HELLO'
    """

    def __init__(self, mux: Mux, conn: Connection, timeout: float | None) -> None:
        # Private: `connect` makes clients.
        self._mux = mux
        self._conn = conn
        self._timeout = timeout
        self._inbox = _Inbox()
        self._paused = False
        self._ended = False  # the peer's stream has; what came before may be held
        self._lost = False  # the mux reported the connection as closed
        self._error: OSError | None = None  # and this was the cause
        self._closed = False  # by our own close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "lost" if self._lost else "open"
        return f"<pymux.Client to {self.peer!r}, {state}>"

    @property
    def local(self) -> Any:
        """Our own address: `(host, port)`, or a path, `""` where it has none.

        It can be read after closing too.
        """
        return self._conn.local

    @property
    def peer(self) -> Any:
        """The peer's address: `(host, port)` or a path.

        It can be read after closing too.
        """
        return self._conn.peer

    def send(
        self,
        data: Buffer,
        timeout: Timeout = _Default.TIMEOUT,
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
                calls after this one.
            ConnectionClosed: the connection is closed or lost; `errno` tells why.
            TypeError: `data` is not bytes-like.
            ValueError: the framing cannot carry it.
        """
        deadline = self._begin(timeout)
        if self._lost:
            raise self._gone("cannot send")
        self._conn.send(data)
        self._flush(deadline)

    def recv(self, timeout: Timeout = _Default.TIMEOUT) -> bytes | None:
        """Return the next message, or None at the end of the peer's stream.

        `b""` is an empty message, never the end. Where the connection was lost to an
        error, the messages that came before it are returned first.

        Args:
            timeout: seconds to wait, 0 for what is already here, None to wait for
                ever; without it, the client's own timeout.

        Returns:
            The message without its framing; under `Raw` whatever came next, at
            least one byte.

        Raises:
            TimeoutError: nothing came in time. The client can be used as before.
            ConnectionClosed: the connection was lost, or closed by `close`; `errno`
                tells why.
        """
        deadline = self._begin(timeout)
        while not self._inbox:
            if self._ended:
                return None
            if self._lost:
                raise self._gone("cannot receive")
            if self._turn(deadline):
                raise TimeoutError(
                    errno.ETIMEDOUT, f"nothing received from {self.peer!r} in time"
                )
        message = self._inbox.pop()
        if self._paused and self._inbox.size <= MAX_HELD // 2 and not self._lost:
            self._conn.resume()
            self._paused = False
        return message

    def send_eof(self) -> None:
        """End our stream: the peer sees the end behind all that was sent.

        Receiving goes on; a later `send` raises. What a timed-out `send` left over
        goes first, within the client's timeout.

        Raises:
            TimeoutError: what was left over did not leave in time.
            ConnectionClosed: the connection is closed or lost.
        """
        deadline = self._begin(_Default.TIMEOUT)
        if self._lost:
            raise self._gone("cannot end the stream")
        self._conn.send_eof()
        self._flush(deadline)

    def close(self) -> None:
        """Close the connection, in an orderly way and without waiting.

        What was sent arrives: `send` returned when the kernel had it. What was
        received and not taken is dropped. Where a `send` timed out and left a part
        of its message behind, the connection is reset instead, so that the peer
        cannot take the part for the whole. A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        mux = self._mux
        mux._adopt_thread()
        try:
            if not self._lost:
                self._close_connection()
        finally:
            mux.close()

    def _close_connection(self) -> None:
        mux, conn = self._mux, self._conn
        if conn.queued:
            mux.harvest(0)
            if conn.queued:
                conn.abort()
        if not conn.closed:
            conn.close()
        # Input that nobody has read would turn the close into a reset, which
        # destroys what is still on its way to the peer.
        for _ in range(_CLOSE_TURNS):
            before = mux._counts.bytes_in
            mux.harvest(0)
            if not mux._counts.connections or mux._counts.bytes_in == before:
                break

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the messages until the peer ends its stream."""
        return self

    def __next__(self) -> bytes:
        message = self.recv()
        if message is None:
            raise StopIteration
        return message

    def _connect(self) -> None:
        """Wait for the connection; raise what kept it from coming."""
        while True:
            batch = self._mux.harvest()
            opened = bool(batch.opened)
            self._take(batch)
            if opened:
                return
            if self._lost:
                raise self._error or ConnectionAbortedError(
                    errno.ECONNABORTED, f"not connected to {self.peer!r}"
                )

    def _begin(self, timeout: Timeout) -> float | None:
        """Enter a public method; return the monotonic time at which it gives up."""
        if self._closed:
            raise ConnectionClosed(
                errno.EBADF, "the client is closed", connection=self._conn
            )
        self._mux._adopt_thread()
        if isinstance(timeout, _Default):
            timeout = self._timeout
        else:
            seconds("timeout", timeout)
        return None if timeout is None else monotonic() + timeout

    def _turn(self, deadline: float | None) -> bool:
        """Harvest once; return whether that found nothing by the deadline."""
        left = None if deadline is None else max(0.0, deadline - monotonic())
        progress = self._take(self._mux.harvest(left))
        return not progress and deadline is not None and monotonic() >= deadline

    def _take(self, batch: Batch) -> bool:
        """Keep what a batch brought; return whether it brought anything."""
        rows = len(batch)
        if rows:
            self._inbox.add(batch)
        if batch.ended:
            self._ended = True
        for _, error in batch.closed:
            self._lost = True
            self._error = error
            self._ended = self._ended or error is None
        return bool(rows or self._ended or self._lost)

    def _flush(self, deadline: float | None) -> None:
        """Harvest until the kernel took what is queued."""
        nap = FIRST_NAP
        batch = self._mux.harvest(0)
        while True:
            self._take(batch)
            if self._lost or not self._conn.queued:
                break
            if self._inbox.size >= MAX_HELD and not self._paused:
                self._conn.pause()
                self._paused = True
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"{self._conn.queued} bytes to {self.peer!r} not sent in time",
                )
            batch = harvest_after_progress(self._mux, left, nap)
            nap = min(2 * nap, LAST_NAP)
        if self._lost or self._mux._counts.discarded:
            raise self._gone("cannot send")

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
    address: Address,
    *,
    framing: Framing | None = None,
    timeout: float | None = None,
) -> Client:
    """Connect to a server and return a blocking client.

    Args:
        address: `(host, port)`, or the path of a Unix socket.
        framing: how messages are cut from the stream; None is `Raw()`.
        timeout: seconds to connect within, and the default for each `send` and
            `recv` of the client. None waits for ever.

    Returns:
        A `Client`, connected.

    Raises:
        TimeoutError: not connected in time.
        OSError: not connected, as its subclass for the cause, such as
            ConnectionRefusedError or FileNotFoundError.
        ValueError: the address is malformed, or the timeout negative.

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
    seconds("timeout", timeout)
    mux = Mux(arena_size=65536, max_messages=256)
    try:
        mux._adopt_thread()
        conn = mux.connect(
            address,
            framing=framing,
            limits=Limits(high_water=UNBOUNDED, max_output=UNBOUNDED),
            half_open=True,
            timeout=timeout,
        )
        client = Client(mux, conn, timeout)
        client._connect()
    except BaseException:
        mux.close()
        raise
    return client
