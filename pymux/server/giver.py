"""A server gives its connections to its heir, a server in another process.

Nothing is lost on the way. The giver keeps a copy of each descriptor, and all that the
connection holds, until the heir has said that it has the connection; the heir says so
before it reads from any of them. What the heir refuses, or has not taken when it dies,
goes on in the giver as if nothing had been.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine import clock, moving
from ..engine.notices import tell
from ..engine.os_errors import aborted
from ..handlers.base import LATER
from ..handlers.moving import put_back, take_out, tell_lost, tell_taken
from ..objects.connection import Connection
from ..values.detached import Detached
from .channel import (
    ACK,
    BATCH,
    END,
    HELLO,
    MOST_CONNS,
    SIZE,
    VERSION,
    ChannelEnd,
    Frame,
    frame,
    send_with,
)

if TYPE_CHECKING:
    from ..mux import Mux
    from .server import Server

__all__ = ["Giver"]

MOST_BYTES = 1 << 20  # of a batch, unless one connection has more
MOST_TRIES = 1000  # connections that are asked in a turn
PAUSE = 0.02  # seconds until those are asked again that could not leave,
LONGEST_PAUSE = 0.2  # and longer each time


class OnTheWay:
    """A connection that is on its way, with what it needs to come back."""

    __slots__ = ("conn", "detached", "rules")

    def __init__(self, conn: Connection, detached: Detached, rules: Any) -> None:
        self.conn: Connection = conn
        self.detached: Detached = detached
        self.rules: Any = rules


class Giver(ChannelEnd):
    """Moves the connections of a running server to its heir: see `Taker`.

    It begins at once, takes one batch a turn, at most 200 connections or 1 MiB, and
    waits for the heir's word before the next; the others are served meanwhile. Close or
    retire the listeners before: what is accepted later moves too.

    Connections that cannot leave now, since something of them is to be reported or
    answered, are asked again for `patience` seconds. Those that remain then, and those
    that stay for good, go on here: stop the server with a `linger`. If the heir dies,
    what it has not acknowledged goes on here too: the same `Connection`, with another
    `id`, and the handler's `taken` is called. An heir that is stopped (SIGSTOP) holds
    up one batch until it goes on or dies.

    Args:
        server: a started `Server`. Any thread may call.
        sock: one end of ``socket.socketpair(AF_UNIX, SOCK_STREAM)``, whose other end a
            `Taker` has; it belongs to the giver now, which closes it at the end.
        patience: seconds.
        on_done: called with the giver, in the server's thread, when it is done.

    Attributes:
        moved: how many connections the heir has.
        remain: how many accepted connections are here, once it is done.
        reset: how many this server has reset until then.
        refused: how many the heir has sent back.
        error: why the giver has ended early, as text; None if it has not.

    Raises:
        ValueError: sock is no Unix stream socket.
        RuntimeError: the server is not running.
    """

    def __init__(
        self,
        server: Server,
        sock: socket.socket,
        *,
        patience: float = 1.0,
        on_done: Callable[[Giver], None] | None = None,
    ) -> None:
        self.moved: int = 0
        self.remain: int = 0
        self.reset: int = 0
        self.refused: int = 0
        self.error: str | None = None
        self._patience = patience
        self._until = 0.0
        self._pause = PAUSE
        self._may_give = False
        self._queue: list[int] = []
        self._stay: set[int] = set()  # ids of connections that do not move
        self._refusing: set[int | None] = set()  # endpoints the heir takes none of
        self._number = 0
        self._batch: list[OnTheWay] = []  # on the way, not acknowledged
        self._unsent: list[int] = []  # descriptors that go with the first bytes
        self._is_over = False  # only the last frame is still to be sent
        super().__init__(server, sock, on_done)

    def __repr__(self) -> str:
        state = "done" if self.done else "at work"
        return f"<Giver {state}, {self.moved} moved, {self.refused} refused>"

    def _begin(self, mux: Mux) -> None:
        super()._begin(mux)
        self._until = clock.now() + self._patience
        self._queue = moving.accepted(self._engine)
        returned = self._plan.returned  # less those that have ended since
        self._plan.returned = {id: returned[id] for id in self._queue if id in returned}
        self._engine.between.append(self._step)
        self._plan.drain.gifts.append(self)

    # --- giving -----------------------------------------------------------

    def _endpoint_of(self, id: int, listener: int) -> int | None:
        """Return the number of the endpoint by which a connection came; None if it
        stays."""
        number = self._plan.returned.get(id, self._plan.numbers.get(listener))
        return None if number in self._refusing else number

    def _step(self) -> None:
        """Give the next batch. A server calls this after each dispatch. An error here
        must not end the server."""
        if self._batch or self._out or self._is_over:
            return
        if self._plan.drain.asked is not None:
            self._end(None)  # the server stops, and lets all go that are here
            return
        if not self._may_give:
            return
        try:
            self._give_some()
        except BaseException as error:
            self._end(f"a batch could not be made: {error!r}")
            if not isinstance(error, Exception):
                raise

    def _give_some(self) -> None:
        engine, size, tries = self._engine, 0, 0
        parts: list[bytes] = []
        while (
            self._queue
            and tries < MOST_TRIES
            and len(self._batch) < MOST_CONNS
            and size < MOST_BYTES
        ):
            tries += 1
            id = self._queue.pop()
            rules = engine.policy_of(id)
            if rules is None:
                continue  # it has ended
            conn: Connection = engine.connection(id)
            out = take_out(engine, conn, partial(self._endpoint_of, id), rules)
            if engine.c is None:
                for one in self._batch:  # a handler has closed the mux
                    one.detached.close()
                return
            if isinstance(out, Detached):
                self._plan.returned.pop(id, None)
                self._batch.append(OnTheWay(conn, out, rules))
                record = out.pack()
                parts += SIZE.pack(len(record)), record
                size += len(record)
            elif out is not LATER:
                self._stay.add(id)
        if self._batch:
            self._give(b"".join(parts))
        elif self._queue:
            engine.wakeup()  # the next turn does not wait
        else:
            self._ask_again()

    def _ask_again(self) -> None:
        """All have been asked. Ask those again that may leave later, after a pause."""
        engine, stay = self._engine, self._stay
        self._queue = [id for id in moving.accepted(engine) if id not in stay]
        if not self._queue or clock.now() >= self._until:
            self._end(None)
            return
        self._may_give = False
        engine.call_later(self._pause, self._go_on)
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)

    def _go_on(self) -> None:
        self._may_give = True

    def _give(self, body: bytes) -> None:
        """Send a batch to the heir."""
        self._number += 1
        self._unsent = [one.detached.fileno() for one in self._batch]
        head = frame(BATCH, self._number, len(self._batch), body)
        self._out = memoryview(head)
        self._send()

    def _send_some(self) -> int:
        if not self._unsent:
            return super()._send_some()
        sent = send_with(self._sock, self._out, self._unsent)
        self._unsent = []
        return sent

    def _send(self) -> None:
        super()._send()
        if self._is_over and not self._out and not self.done:
            self._finish()

    # --- what the heir says -------------------------------------------------

    def _take(self, found: Frame) -> None:
        if found.kind == HELLO and not self._number:
            if found.count <= VERSION <= found.number:
                self._may_give = True
            else:
                self._end(
                    f"the heir speaks the versions {found.count} to {found.number}; "
                    f"this giver speaks version {VERSION}"
                )
        elif found.kind == ACK and found.number == self._number and self._batch:
            self._acknowledged(found.body)
        else:
            self._end(f"the heir has sent an unknown frame, {found.kind!r}")

    def _acknowledged(self, bits: bytes) -> None:
        """The heir has the connections whose bit is set. The others come back."""
        batch, self._batch = self._batch, []
        back = []
        for k, one in enumerate(batch):
            if k // 8 < len(bits) and bits[k // 8] >> k % 8 & 1:
                one.detached.close()  # the heir's descriptor keeps the connection open
                self.moved += 1
            else:
                back.append(one)
        self.refused += len(back)
        for one in back:
            self._take_back(one)
        if len(back) == len(batch):  # others may be taken: by another endpoint
            self._refusing.update(one.detached.endpoint for one in back)

    def _take_back(self, one: OnTheWay) -> None:
        """Let a connection go on here."""
        engine, detached = self._engine, one.detached
        endpoint = detached.endpoint
        listener = self._plan.listener_at(endpoint) if endpoint is not None else 0
        try:
            put_back(engine, detached, one.conn, listener, one.rules)
        except OSError as error:
            detached.close()
            service = engine.services[one.rules.service]
            tell_lost(engine, service, one.conn, aborted(error))
            return
        if endpoint is not None:
            self._plan.returned[one.conn.id] = endpoint
        self._stay.add(one.conn.id)
        tell_taken(engine, one.rules.service, one.conn, detached.state)

    def _lost(self) -> None:
        self._end("the heir has ended, or closed the channel")

    def _cannot_send(self, error: OSError) -> None:
        if not self._is_over:
            self._end(f"the channel does not take a batch: {error}")
        elif not self.done:
            self._finish()

    # --- a stop of the server ------------------------------------------------

    @property
    def on_the_way(self) -> bool:
        """Whether a batch is not acknowledged."""
        return bool(self._batch)

    def give_up(self) -> None:
        """Leave the batch to the heir, which has its descriptors if it lives."""
        batch, self._batch = self._batch, []
        for one in batch:
            one.detached.close()
        self._end("the server stops, and the heir has not acknowledged a batch")

    def abandon(self) -> None:
        batch, self._batch = self._batch, []
        for one in batch:
            one.detached.close()
        if not self._is_over:
            self.error = "the server has ended"
        super().abandon()

    # --- the end ------------------------------------------------------------

    def _end(self, error: str | None) -> None:
        """Give no more: by an error, or since nobody is left who can move."""
        if self._is_over or self.done:
            return
        self._is_over = True
        self.error = error
        self._out, self._unsent = memoryview(b""), []
        batch, self._batch = self._batch, []
        for one in batch:
            self._take_back(one)
        engine = self._engine
        if self._step in engine.between:
            engine.between.remove(self._step)
            self._plan.drain.gifts.remove(self)
        self.remain = len(moving.accepted(engine))
        self.reset = engine.counts.reset
        if error is not None:
            text = "moving connections to the heir has ended early: %s; %d have moved"
            tell("moved", text, error, self.moved)
            self._finish()
            return
        self._out = memoryview(frame(END, 0, self.moved))
        self._send()
