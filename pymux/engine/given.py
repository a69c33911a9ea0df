"""Sockets and pipes that users give."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
import sys
from typing import IO, Any

from .._core import ffi, lib
from ..values.checks import shown
from .ops import SWITCH

__all__ = ["GivenPipe", "adopt_socket", "duplicate", "listen_on"]

KINDS = {  # by the part of `st_mode` that tells
    stat.S_IFREG: "a regular file",
    stat.S_IFCHR: "a terminal or another device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket, and the socket object itself is needed",
}


def listen_on(c: Any, sock: socket.socket, policy: Any, id_: Any) -> int:
    """Listen on a duplicate of a socket; return 0 or -errno. The user closes `sock`."""
    own = duplicate(sock)
    try:
        return int(lib.pmx_listen_on(c, own.fileno(), policy, id_))
    finally:
        if id_[0]:
            own.detach()  # the core closes the descriptor
        else:
            own.close()


def duplicate(sock: socket.socket) -> socket.socket:
    """Return a duplicate of a socket.

    `socket.dup` makes the socket blocking, for a moment and for all processes that have
    it: one that accepts just then would wait in accept() for a peer, and serve nobody.
    """
    if sys.platform == "win32":  # there this is each duplicate's own
        return sock.dup()
    return socket.socket(fileno=os.dup(sock.fileno()))


def adopt_socket(c: Any, sock: socket.socket, policy: Any, id_: Any) -> int:
    """Make a connection of a socket; return 0 or -errno. If 0, `sock` is detached."""
    try:
        return int(lib.pmx_adopt(c, sock.fileno(), 0, policy, id_))
    finally:  # in the same step, also if a signal handler raises
        if id_[0]:
            sock.detach()


class GivenPipe:
    """A file object that is the read end or the write end of a pipe.

    Args:
        file: the file, raw or buffered.
        needed: what the caller accepts, for an error.

    Attributes:
        writes: True for a write end.

    Raises:
        TypeError: the object is none of the binary files of `io`.
        OSError: the file is no pipe, or closed, or open both ways; Windows.
    """

    writes: bool

    def __init__(self, file: IO[bytes], needed: str) -> None:
        raw: Any = file
        if isinstance(file, io.BufferedReader | io.BufferedWriter):
            raw = file.raw
        if not isinstance(raw, io.FileIO):
            raise TypeError(f"fileobj is {shown(file)}{_advice(file)}; {needed}")
        if sys.platform == "win32":
            self._refuse(errno.ENOTSUP, file, "Windows waits for sockets alone")
        if file.closed:
            self._refuse(errno.EBADF, file, needed)
        kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
        if kind != stat.S_IFIFO:
            what = KINDS.get(kind, "another file")
            self._refuse(errno.EINVAL, file, f"this is {what}; {needed}")
        self.writes = file.writable()
        if self.writes and file.readable():
            why = "the file is open both ways; open it for reading or for writing"
            self._refuse(errno.EINVAL, file, why)
        self._file = file

    def _refuse(self, number: int, file: Any, why: str) -> None:
        raise OSError(number, f"{os.strerror(number)}; {why}", shown(file))

    def __repr__(self) -> str:
        return shown(self._file)

    def fileno(self) -> int:
        return self._file.fileno()

    def adopt(self, c: Any, log: Any, policy: Any, id_: Any) -> int:
        """Make a connection of a duplicate of the pipe's end; return 0 or -errno.

        If 0, the file is closed, and what its buffer held is the first input or has
        been written. Else the file is as before.
        """
        if sys.platform == "win32":  # `__init__` has refused it
            return -errno.ENOTSUP
        number = self.fileno()
        end = lib.PMX_WRITABLE if self.writes else lib.PMX_READABLE
        blocks = os.get_blocking(number)
        own = os.dup(number)
        try:
            os.set_blocking(number, False)
            held = self._empty()
            error = int(lib.pmx_adopt(c, own, end, policy, id_))
            if held and not error:
                log.settle()
                log.entries += (id_[0] | SWITCH, bytes(ffi.buffer(policy)) + held)
            return error
        finally:
            if id_[0]:
                with contextlib.suppress(OSError):
                    self._file.close()
            else:
                os.close(own)
                os.set_blocking(number, blocks)

    def _empty(self) -> bytes:
        """Write what the file's buffer holds, or return that without taking it.

        Raises:
            BlockingIOError: the pipe does not take all of it now.
        """
        if isinstance(self._file, io.BufferedReader):
            return self._file.peek()
        if self.writes:
            self._file.flush()
        return b""


def _advice(file: Any) -> str:
    """Return what to give in the place of an object that is no such file."""
    if isinstance(file, io.TextIOBase):
        return ", a text file; its .buffer is binary"
    if isinstance(getattr(file, "raw", file), socket.SocketIO):
        return ", a socket's file; the socket itself is one"
    if type(file) is int:
        return f"; os.fdopen({file}, 'rb' or 'wb') makes a file of a descriptor"
    return ""
