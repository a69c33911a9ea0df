"""Messages with descriptors, between the supervisor and a worker.

A frame is a head (length, number of descriptors), then JSON, or for a worker's options
a pickle. The supervisor reads JSON alone: no worker can make it run code.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ..values.posix import sockets

__all__ = ["MOST_DESCRIPTORS", "Channel", "Frame"]

HEAD = struct.Struct("!IB")
MOST_DESCRIPTORS = 64  # in one message; the kernel takes 253
LARGEST = 1 << 24  # bytes of a message
PART = 65536


class Frame:
    """One message.

    Attributes:
        body: the bytes.
        fds: descriptors that came along; the receiver owns them.
    """

    __slots__ = ("body", "fds")

    def __init__(self, body: bytes, fds: list[int]) -> None:
        self.body: bytes = body
        self.fds: list[int] = fds

    @property
    def words(self) -> list[Any]:
        """The message as a list, whose first item says what it is.

        Raises:
            ValueError: it is no such list.
        """
        words = json.loads(self.body)
        if not isinstance(words, list) or not words or not isinstance(words[0], str):
            raise ValueError(f"a message is {words!r}; a list with a name is needed")
        return words

    def sockets(self) -> list[socket.socket]:
        """The descriptors as sockets, which the receiver closes."""
        fds, self.fds = self.fds, []
        return [socket.socket(fileno=fd) for fd in fds]


class Channel:
    """One end of a control socket, a Unix stream.

    Attributes:
        sock: the socket; non-blocking at the supervisor's end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._out: deque[tuple[bytes, list[socket.socket], bool]] = deque()
        self._in = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether messages wait until the other end reads."""
        return bool(self._out)

    def send(
        self, *words: Any, socks: Sequence[socket.socket] = (), close: bool = False
    ) -> None:
        """Send a message; what the socket does not take now, `flush` sends.

        Args:
            socks: sockets whose descriptors go along.
            close: close these once they are sent.
        """
        self.send_bytes(json.dumps(words).encode(), socks, close)

    def send_bytes(
        self, body: bytes, socks: Sequence[socket.socket] = (), close: bool = False
    ) -> None:
        """Send a message of bytes."""
        if len(socks) > MOST_DESCRIPTORS or len(body) > LARGEST:
            raise ValueError(f"{len(body)} bytes and {len(socks)} sockets at once")
        frame = HEAD.pack(len(body), len(socks)) + body
        self._out.append((frame, list(socks), close))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it.

        Nothing is raised if the other end is gone, which `receive` tells.
        """
        while self._out:
            data, socks, close = self._out[0]
            try:
                if socks:
                    sent = sockets.send_fds(
                        self.sock, [data], [sock.fileno() for sock in socks]
                    )
                else:
                    sent = self.sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                return
            if close:
                for sock in socks:
                    sock.close()
            if sent < len(data):
                self._out[0] = data[sent:], [], False
            else:
                self._out.popleft()

    def receive(self) -> bool:
        """Take in what has come, or wait for something on a blocking socket.

        Returns:
            False at the end of the stream.
        """
        try:
            data, fds, _, _ = sockets.recv_fds(self.sock, PART, MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        self._in += data
        return bool(data)

    def frames(self) -> Iterator[Frame]:
        """Take the whole messages that have come.

        Raises:
            ValueError: the other end does not speak so.
        """
        while len(self._in) >= HEAD.size:
            size, count = HEAD.unpack_from(self._in)
            if size > LARGEST:
                raise ValueError(f"a message of {size} bytes is too long")
            if len(self._in) < HEAD.size + size or len(self._fds) < count:
                return
            body = bytes(self._in[HEAD.size : HEAD.size + size])
            del self._in[: HEAD.size + size]
            fds, self._fds = self._fds[:count], self._fds[count:]
            yield Frame(body, fds)

    def wait(self) -> Frame | None:
        """Wait for one message, on a blocking socket; None at the end of the stream."""
        while True:
            for frame in self.frames():
                return frame
            if not self.receive():
                return None

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took."""
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
        for _, socks, close in self._out:
            for sock in socks if close else ():
                sock.close()
        self._out.clear()
        self.sock.close()
