"""The ends of pipes, and sockets, as connections in an asyncio loop."""

import asyncio
import io
import os
import socket
import sys

import pytest

import pymux

from . import util
from .loops import until
from .tls import NAME

pytestmark = [
    pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS),
    pytest.mark.skipif(sys.platform == "win32", reason="it cannot adopt pipes"),
]

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


class Adopting:
    """Adopts a file for another handler when its server starts."""

    def __init__(self, file, handler, **options):
        self.file, self.options = file, {"handler": handler, **options}

    def started(self, mux):
        self.conn = mux.adopt(self.file, framing=LINES, **self.options)

    def received(self, conn, data):
        return data


def test_a_coroutine_reads_a_read_end(loop, pipe_files):
    reading, writing = pipe_files
    found = []

    async def handler(conn):
        async for line in conn:
            found.append(line)
        with pytest.raises(io.UnsupportedOperation):
            conn.send(b"x")
        found.append(None)

    async def main():
        async with pymux.aio.serve(Adopting(reading, handler), LOCAL):
            writing.write(b"one\ntwo\n")
            await until(lambda: len(found) == 2)
            writing.close()
            await until(lambda: len(found) == 3)

    loop.run(main())
    assert found == [b"one", b"two", None]


def test_a_coroutine_writes_to_a_write_end(loop, pipe_files):
    reading, writing = pipe_files

    async def handler(conn):
        assert await conn.recv() is None
        for _ in range(5):
            conn.send(bytes(99999))
            await conn.drain()

    async def main():
        async with pymux.aio.serve(Adopting(writing, handler), LOCAL):
            read = asyncio.to_thread(reading.readall)
            assert len(await read) == 500000

    loop.run(main())


def test_a_function_that_answers_a_read_end_is_told_so(loop, pipe_files):
    reading, writing = pipe_files
    told = []

    def on_error(conn, error):
        told.append(error)

    async def main():
        handler = Adopting(reading, lambda conn, data: data)
        async with pymux.aio.serve(handler, LOCAL, on_error=on_error):
            writing.write(b"line\n")
            await until(lambda: told)
            await until(lambda: handler.conn.closed)

    loop.run(main())
    (error,) = told
    assert isinstance(error, io.UnsupportedOperation)


def test_a_socket_is_adopted(loop):
    ours, theirs = socket.socketpair()

    async def main():
        handler = Adopting(ours, lambda conn, data: data.upper())
        async with pymux.aio.serve(handler, LOCAL):
            os.write(theirs.fileno(), b"hello\n")
            read = asyncio.to_thread(util.recv_exactly, theirs, 6)
            assert await read == b"HELLO\n"
            theirs.close()
            await until(lambda: handler.conn.closed)

    with theirs:
        theirs.settimeout(20)
        loop.run(main())


@pytest.mark.usefixtures("secured_by")
def test_a_socket_is_adopted_over_tls(loop, papers):
    ours, theirs = socket.socketpair()
    told = []

    async def handler(conn):
        told.append(conn.tls.server_name)
        async for line in conn:
            conn.send(line.upper())

    def talk():
        with papers.client().wrap_socket(theirs, server_hostname=NAME) as peer:
            peer.sendall(b"hello\n")
            told.append(util.recv_exactly(peer, 6))

    async def main():
        adopting = Adopting(ours, handler, ssl=papers.server())
        async with pymux.aio.serve(adopting, LOCAL):
            await asyncio.to_thread(talk)
            await until(lambda: adopting.conn.closed)

    with theirs:
        theirs.settimeout(20)
        loop.run(main())
    assert told == [NAME, b"HELLO\n"]
