"""One connection, as handlers see it."""

from __future__ import annotations

import errno
import types
from collections.abc import Generator
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from ..values.addresses import from_core, show
from ..values.errors import ConnectionClosed, no_copy
from .suspend import suspend, suspending

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..handlers.tasks import Task
    from ..mux import Mux

__all__ = ["Connection"]

# Where a connection stands; `send` asks for no more than "is it 0".
OPEN = 0
GONE = 1  # its end is being reported: what is sent is discarded
SEND_ENDED = 2  # send_eof() was called
CLOSED = 3  # closed by us, or reported as closed

# Operations stand in the top four bits of an id in the log.
SEND_EOF = lib.PMX_SEND_EOF << 60
CLOSE = lib.PMX_CLOSE << 60
ABORT = lib.PMX_ABORT << 60
BUSY = -errno.EBUSY
SUBMIT_PIECES = 8192  # in the log, then it is handed to the core
NAP = 0.005  # seconds between looks at a connection whose row another waits for
PAUSE = lib.PMX_PAUSE << 60
RESUME = lib.PMX_RESUME << 60


def as_bytes(data: Any) -> bytes:
    """The bytes of a bytes-like object as they are now."""
    if type(data) is bytes:  # a subclass is copied: the log asks for the type
        return data
    if isinstance(data, str):
        raise TypeError(
            f"a str cannot be sent; bytes-like data is needed, encode it: {data[:40]!r}"
        )
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(
            f"a {type(data).__name__} cannot be sent; bytes-like data is needed"
        ) from None


class Connection:
    """A connection of a mux: accepted, or made by `Mux.connect`.

    The same object stands for it everywhere, from `opened` to `closed`, and
    its `id` is never given to another. Everything but the plain attributes
    raises RuntimeError outside the mux's thread and process. Once the mux has
    closed there is nothing left to do: `close`, `abort`, `pause`, `resume` and
    `send_eof` do nothing, in any thread, and `queued` is 0.

    Attributes:
        id: an int that no other connection of this mux ever has.
        mux: the `Mux` it belongs to.
        state: None, and yours to use.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
    ...     conn.send(b"queued until it opens")
    ...     conn.queued
    21
    """

    __slots__ = ("__weakref__", "_names", "_status", "_task", "id", "mux", "state")

    def __init__(self, mux: Mux, id: int) -> None:
        self.id: int = id
        self.mux: Mux = mux
        self.state: Any = None
        self._status = OPEN
        self._task: Task | None = None
        self._names: Any = None

    def __repr__(self) -> str:
        status = "closed" if self.closed else "open"
        id_ = f"id {self.id >> 32}/{self.id & 0xFFFFFFFF}"
        return f"<Connection {self._whose()}{status}, {id_}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def _whose(self) -> str:
        """Its addresses, for `repr`: none where only the mux's thread knows
        them. It never raises, as nothing does that a line of a log needs."""
        mux = self.mux
        if self._names is None and not mux._is_here():
            return ""
        try:
            peer, local = self._addresses()
        except (OSError, RuntimeError):  # the mux is being closed
            return ""
        at = f" at {show(local)}" if local else ""
        return f"{show(peer) if peer else 'unnamed'}{at}, "

    # --- what it is -----------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed, by this side or by a reported end."""
        return self._status == CLOSED or self._status == GONE

    @property
    def peer(self) -> Any:
        """The other side: (host, port), or a path, "" where it has none.

        Readable after the end too.
        """
        return self._addresses()[0]

    @property
    def local(self) -> Any:
        """This side: (host, port), or a path, "" where it has none.

        Readable after the end too.
        """
        return self._addresses()[1]

    def _addresses(self) -> Any:
        names = self._names
        if names is None:
            self.mux._check()
            return self._ask_addresses()
        if isinstance(names, bytes):  # as the core left them when it ended
            pair = ffi.cast("pmx_address *", ffi.from_buffer(names))
            names = self._names = from_core(pair[0]), from_core(pair[1])
        return names

    def _ask_addresses(self) -> Any:
        pair = ffi.new("pmx_address[2]")
        error = lib.pmx_addresses(self.mux._c, self.id, pair)
        if error == BUSY:
            raise RuntimeError("another thread is inside this connection's mux")
        if error < 0:
            return "", ""
        return from_core(pair[0]), from_core(pair[1])

    def _keep_addresses(self) -> None:
        """The mux is about to close."""
        if self._names is None:
            self._names = self._ask_addresses()

    @property
    def stopping(self) -> bool:
        """Whether the server's `stop` has ended its input, and not the peer.

        A stop ends each stream behind what had arrived. To the handler that
        looks like the peer's end: the last messages come, `recv` returns
        None, `closed` is told of no error. Here is the difference. Where this
        is True, the peer may have had more to send, and what was received is
        perhaps a part: an unterminated last line, half of an upload. Where
        the peer's end had arrived before, it is False, and the stream whole.

        It is known when all that had arrived has been received: as the last
        messages reach the handler, in `closed`, and from then on; in a
        coroutine, ask once `recv` has returned None or iteration has ended.
        False on a connection that was closed here before that.
        """
        stopped = self.mux._stopped
        if stopped is None or self.id in stopped:
            return stopped is not None
        if self.mux._c is None:
            return False
        self.mux._check()
        return lib.pmx_stopping(self.mux._c, self.id) == 1

    @property
    def queued(self) -> int:
        """Bytes sent that the kernel has not yet taken, 0 once it ended."""
        return self.mux._queued(self.id)

    # --- what it does ---------------------------------------------------

    def send(self, data: Buffer) -> None:
        """Queue a message, as one frame of the connection's framing.

        It leaves when the handler has seen the whole batch, at the next
        harvest at the latest, in the order of all that is sent.

        Args:
            data: bytes-like; what it holds now is sent.

        Raises:
            ConnectionClosed: after `close`, `abort` or `send_eof`, and once
                the end of the connection has been reported.
            TypeError: for what is not bytes-like; a str must be encoded.
            ValueError: for a size that the framing cannot carry.
            RuntimeError: outside the mux's thread or process.
        """
        mux = self.mux
        if mux._owner != get_ident():
            mux._check()
        if type(data) is not bytes:
            data = as_bytes(data)
        if self._status > GONE:
            raise self._refusal()
        log = mux._log
        if log.pending:
            log.merge()
        if len(data) > mux._large:
            mux._take_large(self.id, data)
        else:
            log.entries += (self.id, data)
            if len(log.entries) > 2 * SUBMIT_PIECES:
                mux._hand_over_log()

    def _answer(self, data: bytes) -> None:
        """Log what a handler returned, in whatever state it left this: what
        the very call that closed it returns is still sent."""
        log = self.mux._log
        if self._status == CLOSED:
            log.insert_before(self.id | CLOSE, self.id, data)
        elif self._status != SEND_ENDED:
            log.entries += (self.id, data)

    def send_eof(self) -> None:
        """Flush, then end the stream to the peer; reading goes on.

        A later `send` raises `ConnectionClosed`; a second call does nothing.
        """
        if self.mux._c is None:
            return
        self.mux._check()
        if self._status == OPEN:
            self.mux._log.op(self.id | SEND_EOF)
            self._status = SEND_ENDED

    def close(self) -> None:
        """Flush, end the stream, and close once the peer has ended too.

        What the peer still sends is read and dropped. After
        `Limits.close_timeout` seconds without progress the connection is reset
        and reported with ETIMEDOUT. Progress is a byte that the system took
        for sending or the peer acknowledged, not one that the peer sends; so
        a peer that reads steadily gets everything, however long it takes.
        """
        if self.mux._c is None:
            return
        self.mux._check()
        if self._status != CLOSED:
            self.mux._log.op(self.id | CLOSE)
            self._stop_input()

    def abort(self) -> None:
        """Drop what is queued and reset the connection.

        It is reported in `Batch.closed` with None: an end of your own.
        """
        if self.mux._c is None:
            return
        self.mux._check()
        self.mux._log.op(self.id | ABORT)
        self._stop_input()

    def _stop_input(self) -> None:
        """We closed it: no further message reaches a handler.

        The log knows already: answers given before were given to an open one, and
        a signal's handler that raises in between leaves one that can be closed.
        """
        self._status = CLOSED
        if self._task is not None:
            self._task.over = True
            self._task.inbox = None

    def pause(self) -> None:
        """Read nothing more until `resume`; buffered messages wait too.

        A reset is still reported. It has nothing to do with the pause that
        output over high water brings: reading goes on when neither holds.
        """
        if self.mux._c is None:
            return
        self.mux._check()
        self.mux._log.op(self.id | PAUSE)

    def resume(self) -> None:
        """Read again after `pause`."""
        if self.mux._c is None:
            return
        self.mux._check()
        self.mux._log.op(self.id | RESUME)

    def _refusal(self) -> ConnectionClosed:
        text = "send_eof() was called" if self._status == SEND_ENDED else "is closed"
        return ConnectionClosed(f"{self!r}: {text}", connection=self)

    # --- in its coroutine -----------------------------------------------

    def _cannot_wait(self, what: str) -> RuntimeError:
        task = self._task
        if task is not None and task.waiting is not None:
            why = f"while the coroutine waits in {task.waiting}(): one at a time"
        else:
            why = "belongs to the coroutine handler of its connection"
        return RuntimeError(f"{what} {why}; inside asyncio use pymux.aio")

    @suspending
    def recv(self, timeout: float | None = None) -> Generator[Any, Any, bytes | None]:
        """Wait for the next message, in this connection's coroutine.

        Args:
            timeout: seconds to wait, None for ever.

        Returns:
            The message, or None once the peer has ended its stream.

        Raises:
            TimeoutError: nothing came in time; the connection is as before.
                What came in time is never late: 0 still looks once.
            ValueError: a negative timeout.
            ConnectionClosed: it was lost, and every message has been taken.
            RuntimeError: in another coroutine than its own.
        """
        task = self._task
        if task is None or self.mux._running is not task or task.waiting:
            raise self._cannot_wait("recv()")
        if task.inbox:
            return task.take()
        if task.over:
            if task.too_eager():
                yield task.next_turn("recv")  # nothing comes with it
            return task.take()
        if timeout is not None:
            task.limit(timeout)
        task.waiting = "recv"
        message: bytes | None = yield task
        return message

    async def drain(self) -> None:
        """Wait until output is under low water, if it is over high water.

        After much output the mux has a turn in any case, in which others are
        served and the loss of the peer is noticed.

        Raises:
            ConnectionClosed: the connection was lost.
            RuntimeError: in another coroutine than its own.
        """
        task = self._task
        mux = self.mux
        if task is None or mux._running is not task or task.waiting:
            if mux._running is None or mux._running.conn is not None:
                raise self._cannot_wait("drain()")
            # The cleanup of an async generator, which has no connection.
            while task and not self.closed and self.queued > task.high_water:
                await suspend(mux._running.next_turn("drain", NAP))
            return
        while True:
            while mux._handed_over == mux._gil.turns or task.too_eager():
                await suspend(task.next_turn("drain"))
            if task.lost is not None:
                raise task.closed_error()
            if self._status == CLOSED or self.queued <= task.high_water:
                return
            task.waiting = "drain"  # for a row, which may be of what went before
            await suspend(task)

    def __aiter__(self) -> Connection:
        """Each message, until the peer ends its stream; raises as `recv`."""
        return self

    @types.coroutine
    def __anext__(self) -> Generator[Any, Any, bytes]:
        task = self._task
        if task is None or self.mux._running is not task or task.waiting:
            raise self._cannot_wait("iteration")
        inbox = task.inbox
        if inbox:
            if task.inbox_size:
                message = task.take()
            else:  # take(), without its call
                if len(inbox) == 1:
                    task.inbox = None
                return inbox.popleft()
        elif not task.over:
            task.waiting = "recv"
            message = yield task
        else:
            if task.too_eager():
                yield task.next_turn("recv")
            message = task.take()
        if message is None:
            raise StopAsyncIteration
        return message


def keep_names(conn: Connection, names: Any) -> None:
    """Keep the addresses of a connection that has ended.

    Paths lie in memory of the core, so they are read now; numbers later.
    """
    if not names:
        conn._names = conn._names or ("", "")
    elif names[0].family == 1 or names[1].family == 1:
        conn._names = from_core(names[0]), from_core(names[1])
    else:
        conn._names = ffi.buffer(names, 2 * ffi.sizeof("pmx_address"))[:]
