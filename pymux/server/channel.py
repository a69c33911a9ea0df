"""How a server speaks to its heir: frames over a Unix stream, with descriptors.

A frame is a head and a body. The heir says hello first, and the giver's first batch
follows. Each batch carries descriptors; the giver sends the next one when the heir has
acknowledged this one.
"""

from __future__ import annotations

import array
import contextlib
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.engine import Engine
from ..objects.base import engine_of
from ..values.posix import sockets
from .base import Plan, plan_of

if TYPE_CHECKING:
    from ..mux import Mux
    from .server import Server

__all__ = [
    "ACK",
    "BATCH",
    "END",
    "HELLO",
    "MOST_CONNS",
    "MOST_FDS",
    "SIZE",
    "VERSION",
    "ChannelEnd",
    "Frame",
    "Reader",
    "frame",
    "send_with",
]

HEAD = struct.Struct("<cIIQ")  # kind, number, count, size of the body
SIZE = struct.Struct("<Q")  # in front of each record of a batch
HELLO = b"H"  # number and count: the highest and the lowest version that is spoken
BATCH = b"B"  # count records, each behind its size, and as many descriptors
ACK = b"A"  # a bit for each record of the batch with this number: it was taken
END = b"E"  # the giver has no more; count: how many have moved

VERSION = 1
MOST_FDS = 253  # that a message takes, so no batch has more connections
MOST_CONNS = 200  # in a batch that is sent
PIECE = 1 << 18  # bytes to receive at once
ROOM = socket.CMSG_SPACE(MOST_FDS * 4) if hasattr(socket, "CMSG_SPACE") else 0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has arrived whole."""

    kind: bytes
    number: int
    count: int
    body: bytes


def frame(kind: bytes, number: int, count: int, body: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    return HEAD.pack(kind, number, count, len(body)) + body


def send_with(sock: socket.socket, data: memoryview, fds: list[int]) -> int:
    """Send the beginning of a batch with its descriptors; return how many bytes."""
    rights = [(socket.SOL_SOCKET, sockets.SCM_RIGHTS, array.array("i", fds))]
    sent: int = sockets.socket.sendmsg(sock, [data], rights if fds else [])
    return sent


class Reader:
    """Puts frames together.

    Attributes:
        fds: descriptors that have arrived; their owner takes them out.
        truncated: the process had no room for all descriptors of the batch.
        over: the other side has ended the stream, or is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self.fds: list[int] = []
        self.truncated: bool = False
        self.over: bool = False

    def read(self) -> None:
        """Receive what there is, up to PIECE bytes."""
        try:
            data, more, flags, _ = sockets.socket.recvmsg(
                self._sock, PIECE, ROOM, CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.over = True
            return
        for level, kind, part in more:
            if level == socket.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(part[: len(part) - len(part) % found.itemsize])
                self.fds += found
        self.truncated = self.truncated or bool(flags & socket.MSG_CTRUNC)
        self._data += data
        self.over = not data

    def next(self) -> Frame | None:
        """Return the first whole frame, or None."""
        if len(self._data) < HEAD.size:
            return None
        kind, number, count, size = HEAD.unpack_from(self._data)
        if kind not in (HELLO, BATCH, ACK, END):
            return Frame(kind, number, count, b"")  # nothing behind it is known
        whole = HEAD.size + size
        if len(self._data) < whole:
            return None
        with memoryview(self._data) as view:
            body = bytes(view[HEAD.size : whole])
        del self._data[:whole]
        return Frame(kind, number, count, body)

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds.clear()


class ChannelEnd:
    """One end of the channel, in the thread of its server.

    Attributes:
        done: True when this end has finished, by whatever cause.
    """

    def __init__(
        self,
        server: Server,
        sock: socket.socket,
        on_done: Callable[[Any], None] | None,
    ) -> None:
        if sock.family != getattr(socket, "AF_UNIX", None):
            raise ValueError(f"sock is {sock!r}; a Unix stream socket is needed")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"sock is {sock!r}; its type must be SOCK_STREAM")
        self._plan: Plan = plan_of(server)
        self._sock = sock
        self._on_done = on_done
        self._reader = Reader(sock)
        self._ended = threading.Event()
        self._out = memoryview(b"")  # to be sent
        self._engine: Engine
        self._watch: Any = None
        self._plan.channels.append(self)
        try:
            server.call_threadsafe(self._begin)
        except BaseException:
            self._forget()
            raise

    @property
    def done(self) -> bool:
        """Whether this end has finished."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait in another thread until this end has finished.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            True if it has finished.
        """
        return self._ended.wait(timeout)

    def _begin(self, mux: Mux) -> None:
        self._engine = engine_of(mux)
        self._sock.setblocking(False)
        self._watch = mux.watch(self._sock, READ, self._ready)

    def _ready(self, sock: socket.socket, events: int) -> None:
        """The channel is readable or writable."""
        if events & WRITE and self._out:
            self._send()
        if events & READ and not self.done:
            self._reader.read()
            while not self.done and (found := self._reader.next()) is not None:
                self._take(found)
            if self._reader.over and not self.done:
                self._lost()

    def _send(self) -> None:
        """Send what the channel takes, and watch it if there is more."""
        try:
            while self._out:
                self._out = self._out[self._send_some() :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._out = memoryview(b"")
            self._cannot_send(error)
            return
        if not self.done:
            self._watch.change(READ | WRITE if self._out else READ)

    def _send_some(self) -> int:
        return self._sock.send(self._out)

    def _finish(self) -> None:
        """This end is done: close it, and tell."""
        if self.done:
            return
        if self._watch is not None:
            self._watch.close()
        self._reader.close()
        self._sock.close()
        self._ended.set()
        self._forget()
        if self._on_done is not None:
            self._on_done(self)

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):  # the server has ended meanwhile
            self._plan.channels.remove(self)

    def abandon(self) -> None:
        """The server has ended, and its mux has closed."""
        self._finish()

    def _take(self, found: Frame) -> None:
        raise NotImplementedError

    def _lost(self) -> None:
        raise NotImplementedError

    def _cannot_send(self, error: OSError) -> None:
        raise NotImplementedError
