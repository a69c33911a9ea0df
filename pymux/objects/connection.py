"""One connection, as handlers see it."""

from __future__ import annotations

import types
from collections.abc import Generator
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..engine.names import names_of, unpack_names
from ..engine.ops import ABORT, CLOSE, PAUSE, RESUME, SEND_EOF
from ..engine.output import SUBMIT_PIECES, to_bytes
from ..values.addresses import format_address
from ..values.errors import no_copy
from .status import CLOSED, GONE, OPEN, SEND_ENDED, refusal
from .suspend import suspend, suspending
from .switch import switch_framing

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..engine.engine import Engine
    from ..mux import Mux
    from ..values.framing import Framing

__all__ = ["Connection"]

NAP = 0.005  # seconds between looks at a connection whose row another waits for


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
        self._buffer: Any = None  # what takes its messages, in a coroutine handler
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
        if self._names is None and not self._engine.is_here():
            return ""
        try:
            peer, local = self._addresses()
        except (OSError, RuntimeError):  # the mux is being closed
            return ""
        at = f" at {format_address(local)}" if local else ""
        return f"{format_address(peer) if peer else 'unnamed'}{at}, "

    # --- what it is -----------------------------------------------------

    @property
    def closed(self) -> bool:
        """True if it was closed, by this side or by a reported end."""
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
        """True if the server's `stop` has ended its input, and not the peer.

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
        return self._engine.is_stopping(self.id)

    @property
    def queued(self) -> int:
        """Bytes sent that the kernel has not yet taken, 0 once it ended."""
        return self._engine.queued(self.id)

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
            log.entries += (self.id, data)
            if len(log.entries) > 2 * SUBMIT_PIECES:
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
        """Flush, end the stream, and close once the peer has ended too.

        What the peer still sends is read and dropped. After
        `Limits.close_timeout` seconds without progress the connection is reset
        and reported with ETIMEDOUT. Progress is a byte that the system took
        for sending or the peer acknowledged, not one that the peer sends; so
        a peer that reads steadily gets everything, however long it takes.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        if self._status != CLOSED:
            self._engine.log.op(self.id | CLOSE)
            self._stop_input()

    def abort(self) -> None:
        """Drop what is queued and reset the connection.

        It is reported in `Batch.closed` with None: an end of your own.
        """
        if self._engine.c is None:
            return
        self._engine.check()
        self._engine.log.op(self.id | ABORT)
        self._stop_input()

    def _stop_input(self) -> None:
        """We closed it: no further message reaches a handler.

        The log knows already: answers given before were given to an open one, and
        a signal handler that raises in between leaves one that can be closed.
        """
        self._status = CLOSED
        if self._buffer is not None:
            self._buffer.shut()

    def pause(self) -> None:
        """Read nothing more until `resume`; buffered messages wait too.

        A reset is still reported. It has nothing to do with the pause that
        output over high water brings: reading goes on when neither holds.
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
        """Speak another framing from here on, both ways.

        What was sent before goes out as the old framing has it. What was received
        behind the message that the handler has now is cut anew: later messages of
        the batch, those that the coroutine has not taken, and all that follows. A
        batch handler has been given its whole batch; only what follows that is cut
        anew. Limits stay as they are.

        Args:
            framing: the new one; None is `Raw()`.
            unread: bytes-like; what stands in front of the input that is cut anew:
                bytes that a parser of yours was given and has not used.

        Raises:
            TypeError: what is neither a framing nor None.
            ConnectionClosed: after `close` or `abort`, and once the end of the
                connection has been reported.
            RuntimeError: messages of a `Scanner` or `Splitter` were received behind
                this one: their bytes are not known any more.
        """
        self._engine.check()
        switch_framing(self, framing, to_bytes(unread))

    # --- in its coroutine -----------------------------------------------

    def _task_for(self, what: str) -> Any:
        """The task that runs, if it may wait for something of this connection."""
        buffer, task = self._buffer, self._engine.running
        if buffer is None or task is None or task.waiting:
            raise self._cannot_wait(what)
        if task is not buffer and task is not buffer.task:  # else its own, or dialled
            raise self._cannot_wait(what)
        return task

    def _cannot_wait(self, what: str) -> RuntimeError:
        task = self._buffer.task if self._buffer is not None else None
        if task is not None and task.waiting is not None:
            why = f"while the coroutine waits in {task.what()}(): one at a time"
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
        task, buffer = self._engine.running, self._buffer
        if task is not buffer or task is None or task.waiting:
            task = self._task_for("recv()")
        message: bytes | None
        if buffer.inbox:
            message = buffer.take()
        elif buffer.over:
            if task.too_eager():
                yield task.next_turn("recv")  # nothing comes with it
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

    async def drain(self) -> None:
        """Wait until output is under low water, if it is over high water.

        After much output the mux has a turn in any case, in which others are
        served and the loss of the peer is noticed.

        Raises:
            ConnectionClosed: the connection was lost.
            RuntimeError: in another coroutine than its own.
        """
        engine, buffer = self._engine, self._buffer
        running = engine.running
        if running is not None and running.conn is None:
            # The cleanup of an async generator, which has no connection.
            while buffer and not self.closed and self.queued > buffer.high_water:
                await suspend(running.next_turn("drain", NAP))
            return
        task = self._task_for("drain()")
        while True:
            while engine.handed_over == engine.turns or task.too_eager():
                await suspend(task.next_turn("drain"))
            if buffer.lost is not None:
                raise buffer.closed_error()
            if self._status == CLOSED or self.queued <= buffer.high_water:
                return
            if task is buffer:  # for a row, perhaps of what went before
                task.waiting = "drain"
            else:  # the connection is dialled
                buffer.wait_in("drain")
            await suspend(task)

    def __aiter__(self) -> Connection:
        """Each message, until the peer ends its stream; raises as `recv`."""
        return self

    @types.coroutine
    def __anext__(self) -> Generator[Any, Any, bytes]:
        task, buffer = self._engine.running, self._buffer
        if task is not buffer or task is None or task.waiting:
            task = self._task_for("iteration")
        message: bytes | None
        if buffer.inbox:
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
