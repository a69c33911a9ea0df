"""How a server speaks to its heir: frames over a Unix stream, with descriptors.

A frame is a head and a body. The heir says hello first, and the giver's first batch
follows. Each batch carries descriptors; the giver sends the next one when the heir has
acknowledged this one.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from dataclasses import dataclass

__all__ = [
    "ACK",
    "BATCH",
    "END",
    "HELLO",
    "MOST_CONNS",
    "VERSION",
    "Frame",
    "Reader",
    "frame",
    "send_with",
]

HEAD = struct.Struct("<cIIQ")  # kind, number, count, size of the body
HELLO = b"H"  # number and count: the highest and the lowest version that is spoken
BATCH = b"B"  # count records, each behind its size, and as many descriptors
ACK = b"A"  # a bit for each record of the batch with this number: it was taken
END = b"E"  # the giver has no more; count: how many have moved

VERSION = 1
MOST_CONNS = 200  # in a batch; a message takes 253 descriptors
PIECE = 1 << 18  # bytes to receive at once
ROOM = socket.CMSG_SPACE(253 * 4) if hasattr(socket, "CMSG_SPACE") else 0
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
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    return sock.sendmsg([data], rights if fds else [])


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
        self.truncated = False
        self.over = False

    def read(self) -> None:
        """Receive what there is, up to PIECE bytes."""
        try:
            data, more, flags, _ = self._sock.recvmsg(PIECE, ROOM, CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.over = True
            return
        for level, kind, part in more:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
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
