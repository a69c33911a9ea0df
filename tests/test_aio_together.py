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
    release, is_late = threading.Event(), threading.Event()

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
        is_late.set()
        with pytest.raises(ValueError, match="timeout is -1"):
            await conn.drain(-1)
        await conn.recv()
        conn.send(" ".join(told).encode())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                await asyncio.to_thread(is_late.wait, 10)  # reads nothing before
                sock.sendall(b"go on")
                got = await recv(sock, (16 << 20) + 15)
                assert got[-15:] == b"to_thread drain"

    loop.run(main())


# --- Event and Queue -------------------------------------------------------------


def test_coroutines_wait_for_each_other(loop):
    ready, items = pymux.Event(), pymux.Queue(maxsize=1)

    async def handler(conn):
        if await conn.recv() == b"take":
            await ready.wait()
            async for item in items:
                conn.send(item)
        else:
            ready.set()
            for k in range(5):
                await items.put(b"%d" % k)
            items.close()

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            taken = asyncio.create_task(everything(server.address, b"take\n"))
            assert await everything(server.address, b"put\n") == b""
            assert await taken == b"0\n1\n2\n3\n4\n"

    loop.run(main())


def test_an_item_is_not_lost_with_the_task_that_was_to_get_it(loop):
    async def main():
        items = pymux.Queue()
        first = asyncio.create_task(items.get())
        second = asyncio.create_task(items.get())
        await asyncio.sleep(0)
        items.put_nowait("one")
        first.cancel()
        assert await second == "one"
        with pytest.raises(asyncio.CancelledError):
            await first
        third = asyncio.create_task(items.get())
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait([third])
        items.put_nowait("two")
        assert items.get_nowait() == "two"

    loop.run(main())
