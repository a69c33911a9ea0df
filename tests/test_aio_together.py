"""What coroutine handlers wait with on a mux's own loop, in asyncio: the same names."""

import asyncio
import threading

import pytest

import pymux

from . import util
from .loops import everything, recv

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


# --- timeout ---------------------------------------------------------------------


def test_a_timeout_is_asyncios_own(loop):
    async def handler(conn):
        try:
            async with pymux.timeout(0.01) as block:
                await asyncio.sleep(3600)
        except TimeoutError as error:
            conn.send(str(error).encode())
        async with pymux.timeout(60) as other:
            conn.send(await conn.recv())
        assert (block.expired(), other.expired()) == (True, False)
        conn.send(b"end")

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert await everything(server.address, b"x\n") == (
                b"the block took longer than 0.01 seconds\nx\nend\n"
            )

    loop.run(main())


def test_drain_and_to_thread_may_have_time_limits(loop):
    release = threading.Event()

    async def handler(conn):
        told = []
        try:
            await pymux.to_thread(release.wait, 10, timeout=0.01)
        except TimeoutError as error:
            told.append(str(error).partition("(")[0])
        release.set()
        await conn.drain(timeout=0)
        conn.send(bytes(16 << 20))
        try:
            await conn.drain(timeout=0.01)
        except TimeoutError as error:
            told.append(str(error).partition("(")[0])
        with pytest.raises(ValueError, match="timeout is -1"):
            await conn.drain(-1)
        await conn.recv()
        conn.send(" ".join(told).encode())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                await asyncio.to_thread(release.wait, 10)
                sock.sendall(b"go on")
                got = await recv(sock, (16 << 20) + 15)
                assert got[-15:] == b"to_thread drain"

    loop.run(main())
