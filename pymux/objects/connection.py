"""The connection that handlers use."""

from __future__ import annotations

import types
from collections.abc import Generator
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.names import names_of, unpack_names
from ..engine.ops import ABORT, CLOSE, PAUSE, RESUME, SEND_EOF
from ..engine.output import SUBMIT_ENTRIES, to_bytes
from ..values.addresses import format_address
from ..values.checks import duration
from ..values.credentials import Credentials
from ..values.errors import no_copy
from .proxy import ProxyView, proxy_of
from .status import CLOSED, GONE, MOVED, OPEN, SEND_ENDED, fail, refusal
from .suspend import suspend, suspending
from .switch import switch_framing
from .tls import TlsView, view_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..engine.engine import Engine
    from ..mux import Mux
    from ..values.framing import Framing

__all__ = ["Connection"]

NAP = 0.005  # seconds between checks of the output, in a task without a connection


class Connection:
    """A connection of a mux: accepted, or made by `Mux.connect`.

    The same object stands for a connection from `opened` to `closed`. Outside the
    mux's thread and process all but the plain attributes raises RuntimeError. After
    the mux has closed, `close`, `abort`, `pause`, `resume` and `send_eof` do nothing,
    in any thread, and `queued` is 0.

    Attributes:
        id: an int that no other connection of this mux ever has.
        mux: the `Mux` of this connection.
        state: None, and yours to use.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
    ...     conn.send(b"queued until it opens")
    ...     conn.queued
    21
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_engine",
        "_names",
        "_status",
        "id",
        "mux",
        "state",
    )

    def __init__(self, engine: Engine, id: int) -> None:
        self.id: int = id
        self.mux: Mux = engine.mux()
        self.state: Any = None
        self._engine = engine
        self._status = OPEN
        self._buffer: Any = None  # takes messages for a coroutine
        self._names: Any = None

    def __repr__(self) -> str:
        status = "closed" if self.closed else "open"
        id_ = f"id {self.id >> 32}/{self.id & 0xFFFFFFFF}"
        return f"<Connection {self._address_text()}{status}, {id_}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def _address_text(self) -> str:
        """Return the addresses for `repr`; "" if only the mux's thread knows them.

        This never raises, since log lines need it.
        """
        if self._names is None and not self._engine.is_here():
            return ""
        try:
            peer, local = self._addresses()
        except (OSError, RuntimeError):  # the mux is being closed
            return ""
        at = f" at {format_address(local)}" if local else ""
        return f"{format_address(peer) if peer else 'unnamed'}{at}, "

    # --- properties -----------------------------------------------------

    @property
    def closed(self) -> bool:
        """True if this side closed the connection, it left, or its end was reported."""
        return self._status in (CLOSED, GONE, MOVED)

    @property
    def peer(self) -> Any:
        """The address of the peer: (host, port), or a path, or "" for no address.

        It can be read after the end too.
        """
        return self._addresses()[0]

    @property
    def local(self) -> Any:
        """The address of this side: (host, port), or a path, or "" for no address.

        It can be read after the end too.
        """
        return self._addresses()[1]

    @property
    def credentials(self) -> Credentials | None:
        """The process at the other end of a Unix socket: (pid, uid, gid).

        None for TCP, where the OS does not tell, and once the connection has ended:
        read it in `opened`. OSError: the OS has refused to tell.
        """
        told = self._engine.credentials_of(self.id)
        return None if told is None else Credentials(*told)

    @property
    def tls(self) -> TlsView | None:
        """What the TLS handshake has agreed on, and the peer's certificate.

        None on a plain connection, before the connection has opened, and once its end
        has been reported. A view that was obtained before stays as it is.
        """
        return view_of(self._engine, self.id)

    @property
    def proxy(self) -> ProxyView | None:
        """What a balancer's PROXY header has told, whose `peer` and `local` are ours.

        None without one, of a balancer that speaks for itself, and once the end of the
        connection has been reported.
        """
        return proxy_of(self._engine, self.id)

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1.

        It is -1 once the connection has ended, and while it tries several addresses.
        It is for options of the socket. It stays the mux's: do not read from it, write
        to it or close it.
        """
        return self._engine.socket_of(self.id)

    def _addresses(self) -> Any:
        engine = self._engine
        if self._names is None and not engine.is_over():
            engine.check()
            return names_of(engine, self.id)
        names = self._names
        if isinstance(names, bytes):  # packed when the connection ended
            names = self._names = unpack_names(names)
        return names or ("", "")

    @property
    def stopping(self) -> bool:
        """True if the server's `stop` ended the input, and not the peer.

        A stop ends each stream after the input that has arrived. The handler sees
        that as the peer's end: the last messages come, `recv` returns None, and
        `closed` gets no error. True here tells that the peer may have had more to
        send, so the input may be a part: an unterminated last line, half of an
        upload. False tells that the peer's end had arrived, so the stream is whole.

        The value is final once all arrived input has been received: with the last
        messages, in `closed`, and from then on. In a coroutine, read it once `recv`
        has returned None or iteration has ended. It is False on a connection that
        this side closed before that.
        """
        return self._engine.is_stopping(self.id)

    @property
    def queued(self) -> int:
        """Bytes of output that the kernel has not taken yet; 0 after the end."""
        return self._engine.queued(self.id)

    # --- operations -----------------------------------------------------

    def send(self, data: Buffer) -> None:
        """Queue a message, as one frame of the connection's framing.

        The message leaves after the handler has had the whole batch, at the next
        harvest at the latest. Messages keep their order.

        Args:
            data: bytes-like; its bytes are copied now.

        Raises:
            ConnectionClosed: after `close`, `abort` or `send_eof`, and once
                the end of the connection has been reported.
            TypeError: `data` is not bytes-like; a str must be encoded.
            ValueError: the framing cannot carry this size.
            io.UnsupportedOperation: the connection is the read end of a pipe.
            RuntimeError: outside the mux's thread or process.
        """
        engine = self._engine
        if engine.thread != get_ident():
            engine.check()
        if type(data) is not bytes:
            data = to_bytes(data)
        if self._status > GONE:
            raise refusal(self)
        log = engine.log
        if log.pending:
            log.merge()
        if len(data) > engine.large:
            engine.send_large(self.id, data)
        else:
            entries = log.entries
            entries += (self.id, data)
            if len(entries) > SUBMIT_ENTRIES:
                engine.hand_over_log()

    def send_eof(self) -> None:
        """Flush, then end the stream to the peer; reading goes on.

        A later `send` raises `ConnectionClosed`; a second call does nothing.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        if self._status == OPEN:
            self._engine.log.op(self.id | SEND_EOF)
            self._status = SEND_ENDED

    def close(self) -> None:
        """Flush, end the stream, and close once the peer has ended its stream too.

        Further input is read and dropped. After `Limits.close_timeout` seconds without
        progress the connection is reset and reported with ETIMEDOUT. Progress is a byte
        that the system takes for sending or that the peer acknowledges. A byte that the
        peer sends is no progress. So a peer that reads steadily gets everything,
        however long it takes.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        if self._status != CLOSED:
            self._engine.log.op(self.id | CLOSE)
            self._stop_input()

    def abort(self) -> None:
        """Drop the queued output and reset the connection.

        `Batch.closed` reports the end with None, since it is your own.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        self._engine.log.op(self.id | ABORT)
        self._stop_input()

    def fail(self, error: BaseException) -> None:
        """Close as if the handler had raised `error`, and harm no other connection.

        A batch handler that raises ends every connection with a row. This ends one.
        What was sent is flushed, then the connection closes as by `close`. `closed`
        gets ``OSError(ECONNABORTED)`` with the error as its `__cause__`. The error is
        neither logged nor given to `on_error`. On a connection that is closed this
        does nothing.

        Args:
            error: the cause.

        Raises:
            TypeError: the error is no exception object.
            RuntimeError: outside the mux's thread or process.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"the error is {error!r}; an exception object is needed")
        if self._engine.c is None:
            return
        self._engine.check()
        if self._status != CLOSED:
            fail(self, error)
            self._stop_input()

    def _stop_input(self) -> None:
        """Let no further message reach a handler: this side closes the connection.

        The close is logged before: earlier replies go to an open connection, and after
        a signal handler that raises in between, the connection can still be closed.
        """
        self._status = CLOSED
        if self._buffer is not None:
            self._buffer.shut()

    def pause(self) -> None:
        """Read nothing more until `resume`; buffered messages wait too.

        A reset is still reported. Output over high water pauses reading too; reading
        goes on when neither pause holds.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        self._engine.log.op(self.id | PAUSE)

    def resume(self) -> None:
        """Read again after `pause`."""
        if self._engine.c is None:
            return
        self._engine.check()
        self._engine.log.op(self.id | RESUME)

    def set_framing(self, framing: Framing | None, unread: Buffer = b"") -> None:
        """Switch both directions to another framing, whatever `reply_framing` was.

        Messages sent before keep the old framing. Input after the message that the
        handler has now is cut anew: later messages of the batch, messages that the
        coroutine has not taken, and further input. A batch handler has its whole batch
        already, so only input after the batch is cut anew. Limits stay as they are.

        Args:
            framing: the new framing; None is `Raw()`.
            unread: bytes-like; put in front of the input that is cut anew: bytes that
                your parser has received and not used.

        Raises:
            TypeError: `framing` is neither a framing nor None.
            ConnectionClosed: after `close` or `abort`, and once the end of the
                connection has been reported.
            RuntimeError: more messages of a `Scanner` or `Splitter` were received:
                their bytes are not known any more.
        """
        self._engine.check()
        switch_framing(self, framing, to_bytes(unread))

    # --- in its coroutine -----------------------------------------------

    def _task_for(self, call: str) -> Any:
        """Return the running task, if it may wait for this connection."""
        buffer, task = self._buffer, self._engine.running
        if buffer is None or task is None or task.waiting:
            raise self._cannot_wait(call)
        if task is not buffer and task is not buffer.task:
            related = task.family is buffer.task.family
            if not related or (call != "drain()" and not buffer.lend(task)):
                raise self._cannot_wait(call)
        return task

    def _cannot_wait(self, call: str) -> RuntimeError:
        running = self._engine.running
        if running is not None and running.conn is self and running.family != running:
            return RuntimeError(
                f"{call} is for the handler itself, not for a coroutine that it has "
                "spawned: receive in the handler, and give on by a pymux.Queue"
            )
        task = self._buffer.task if self._buffer is not None else None
        if task is not None and task.waiting is not None:
            why = f"while the coroutine waits in {task.awaited_call()}(): one at a time"
        else:
            why = "belongs to the coroutine handler of its connection"
        return RuntimeError(f"{call} {why}; inside asyncio use pymux.aio")

    @suspending
    def recv(self, timeout: float | None = None) -> Generator[Any, Any, bytes | None]:
        """Wait for the next message, in this connection's coroutine.

        Args:
            timeout: seconds to wait, None for ever.

        Returns:
            The message, or None once the peer has ended its stream.

        Raises:
            TimeoutError: no message came in time; the connection is as before.
                A message that has arrived is returned, even if `timeout` is 0.
            ValueError: a negative timeout.
            ConnectionClosed: the connection was lost, and no message is left.
            RuntimeError: in another coroutine than the connection's own.
        """
        task, buffer = self._engine.running, self._buffer
        if task is not buffer or task is None or task.waiting:
            task = self._task_for("recv()")
        message: bytes | None
        if buffer.untaken:
            message = buffer.take()
        elif buffer.over:
            if task.too_eager():
                yield task.next_turn("recv")
            message = buffer.take()
        else:
            if timeout is not None:
                task.limit(timeout)
            if task is buffer:
                task.waiting = "recv"
            else:  # the connection is dialled
                buffer.wait_in("recv")
            message = yield task
        return message

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until output is under low water, if it is over high water.

        After much output this always waits for the next turn: so the mux serves other
        connections, and notices the loss of the peer.

        Args:
            timeout: seconds to wait, None for ever.

        Raises:
            TimeoutError: output was not under low water in time; it stays queued.
            ValueError: a negative timeout.
            ConnectionClosed: the connection was lost.
            RuntimeError: in another coroutine than the connection's own.
        """
        engine, buffer = self._engine, self._buffer
        running = engine.running
        if timeout is not None and running is not None:
            duration("timeout", timeout)
            text = f"drain(): not under low water within {timeout} seconds"
            async with running.within(timeout, text):
                await self.drain()
            return
        if running is not None and running.conn is None:
            # The cleanup of an async generator runs in a task without a connection.
            while buffer and not self.closed and self.queued > buffer.high_water:
                await suspend(running.next_turn("drain", NAP))
            return
        task = self._task_for("drain()")
        waited = False
        while True:  # again after a `drained` row that was about earlier output
            while engine.handed_over == engine.turns or task.too_eager():
                waited = True
                await suspend(task.next_turn("drain"))
            if buffer.lost is not None:
                buffer.note_told()
                raise buffer.closed_error()
            if self._status == CLOSED:
                return
            if self.queued <= buffer.high_water:
                if waited and engine.is_lost(self.id):
                    # The core has discarded the output. It reports the loss soon.
                    await suspend(task.next_turn("drain"))
                    continue
                return
            waited = True
            if task is buffer:
                task.waiting = "drain"
                await suspend(task)
            else:  # another coroutine may receive meanwhile
                await task.as_guest(buffer)

    def __aiter__(self) -> Connection:
        """Iterate over messages until the peer ends its stream; raise as `recv`."""
        return self

    if not TYPE_CHECKING:  # which says so itself

        def __iter__(self):
            """Refuse `for`, where `async for` is meant: TypeError."""
            raise TypeError(
                "a Connection is iterated by `async for message in conn`, in a "
                "coroutine; to block, use the Client that pymux.connect() returns"
            )

    @types.coroutine
    def __anext__(self) -> Generator[Any, Any, bytes]:
        task, buffer = self._engine.running, self._buffer
        if task is not buffer or task is None or task.waiting:
            task = self._task_for("iteration")
        message: bytes | None
        untaken = buffer.untaken
        if untaken:
            if not buffer.untaken_size:  # as `take`, without its call
                if len(untaken) == 1:
                    buffer.untaken = None
                taken: bytes = untaken.popleft()
                return taken
            message = buffer.take()
        elif not buffer.over:
            if task is buffer:
                task.waiting = "recv"
            else:  # the connection is dialled
                buffer.wait_in("recv")
            message = yield task
        else:
            if task.too_eager():
                yield task.next_turn("recv")
            message = buffer.take()
        if message is None:
            raise StopAsyncIteration
        return message
