"""A server takes the connections that another process gives: see giver.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..engine.notices import tell
from ..handlers.moving import drop, put_in, refusal_of, tell_taken
from ..objects.connection import Connection
from ..values.detached import Detached
from .channel import (
    ACK,
    BATCH,
    END,
    HELLO,
    MOST_FDS,
    SIZE,
    VERSION,
    ChannelEnd,
    Frame,
    frame,
)

if TYPE_CHECKING:
    from ..mux import Mux
    from .server import Server

__all__ = ["Taker"]


class Taker(ChannelEnd):
    """Takes the connections that a `Giver` in another process moves to this server.

    A connection goes to the endpoint with the same number, counted from 0 in the order
    of the server's `address`: that endpoint's framing, limits and handler hold from now
    on. An object handler is told by `taken(conn, state)`. What cannot be taken goes
    back: the process has no descriptor left, there is no such endpoint, or its handler
    has `opened` and no `taken`.

    Args:
        server: a started `Server`. Any thread may call.
        sock: the other end of the giver's socket pair; from now on it belongs to the
            taker, which closes it when the giver is done or gone.
        on_done: called with the taker, in the server's thread, when it is done.

    Attributes:
        taken: how many connections came.
        refused: how many went back.
        complete: True once the giver has said that there are no more.

    Raises:
        ValueError: sock is no Unix stream socket.
        RuntimeError: the server is not running.
    """

    def __init__(
        self,
        server: Server,
        sock: socket.socket,
        *,
        on_done: Callable[[Taker], None] | None = None,
    ) -> None:
        self.taken: int = 0
        self.refused: int = 0
        self.complete: bool = False
        super().__init__(server, sock, on_done)

    def __repr__(self) -> str:
        state = "done" if self.done else "at work"
        return f"<Taker {state}, {self.taken} taken, {self.refused} refused>"

    def _begin(self, mux: Mux) -> None:
        super()._begin(mux)
        self._out = memoryview(frame(HELLO, VERSION, VERSION))
        self._send()

    def _take(self, found: Frame) -> None:
        if found.kind == BATCH and found.count <= MOST_FDS:
            self._take_batch(found)
        else:
            self.complete = found.kind == END
            if not self.complete:
                text = "the giver has sent an unknown frame, %r of %d"
                tell("moved", text, found.kind, found.count)
            self._finish()

    def _take_batch(self, found: Frame) -> None:
        """Take a batch, say what was taken, and only then tell the handlers. No harvest
        comes between, so no byte is read from a connection that is not ours."""
        bits = bytearray((found.count + 7) // 8)
        came: list[tuple[int, Connection, bytes | None]] = []
        try:
            why = self._take_all(found, bits, came)
        except BaseException:  # of a signal handler, too: the giver takes all back
            for _, conn, _ in came:
                drop(self._engine, conn)
            self._finish()
            raise
        self.taken += len(came)
        self.refused += found.count - len(came)
        if len(came) < found.count:
            text = "%d of %d connections could not be taken and went back: %s"
            tell("moved", text, found.count - len(came), found.count, why)
        self._acknowledge(frame(ACK, found.number, found.count, bytes(bits)))
        for service, conn, state in came:
            tell_taken(self._engine, service, conn, state)

    def _take_all(
        self,
        found: Frame,
        bits: bytearray,
        came: list[tuple[int, Connection, bytes | None]],
    ) -> str | None:
        """Take those of a batch that can be taken, and note them; why others cannot."""
        fds, reader = self._reader.fds, self._reader
        why: str | None = None
        if reader.truncated:
            why = "this process has no descriptor left"
            reader.truncated = False
        for k, record in enumerate(_records(found)):
            if not fds:
                why = why or "a descriptor is missing"
                break
            try:
                detached = Detached.unpack(record, fds[0])
                del fds[0]
            except ValueError as error:
                os.close(fds.pop(0))
                why = str(error)
                continue
            with detached:
                try:
                    service, conn = self._adopt(detached)
                except (OSError, ValueError) as error:
                    why = str(error)
                    continue
            came.append((service, conn, detached.state))
            bits[k // 8] |= 1 << k % 8
        reader.close()
        return why

    def _adopt(self, detached: Detached) -> tuple[int, Connection]:
        """Make a connection of the endpoint that the record names."""
        engine, plan, number = self._engine, self._plan, detached.endpoint
        listener = 0 if number is None else plan.listener_at(number)
        if not listener:
            raise ValueError(f"this server listens at no endpoint {number}")
        service = engine.listening[listener][0]
        why = refusal_of(engine, service, detached.state)
        if why is not None:
            raise ValueError(why)
        return service, put_in(engine, detached, listener, service)

    def _acknowledge(self, ack: bytes) -> None:
        """Send the whole frame now: the next harvest reads from the connections."""
        try:
            self._sock.setblocking(True)
            self._sock.sendall(ack)
            self._sock.setblocking(False)
        except OSError:
            self._finish()  # the giver is gone, and what it gave is ours

    def _lost(self) -> None:
        self._finish()

    def _cannot_send(self, error: OSError) -> None:
        self._finish()


def _records(found: Frame) -> Iterator[memoryview]:
    """Cut the body of a batch into its records; an empty one stands for nonsense."""
    body, at = memoryview(found.body), 0
    for _ in range(found.count):
        size = SIZE.unpack_from(body, at)[0] if at + SIZE.size <= len(body) else 0
        at += SIZE.size
        yield body[at : at + size]
        at += size
