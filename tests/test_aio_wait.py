"""`wait` of a server in a loop."""

import asyncio
import errno

import pytest

import pymux

from . import inside, util

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

HERE = ("127.0.0.1", 0)


def echo(conn, data):
    return data


def test_it_returns_when_the_server_was_stopped(loop):
    async def main():
        async with pymux.aio.serve(echo, HERE) as server:
            waits = [asyncio.ensure_future(server.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            assert not any(one.done() for one in waits)
            await server.stop()
            await asyncio.gather(*waits)
            await server.wait()

    loop.run(main())


def test_to_cancel_it_stops_nothing(loop):
    async def main():
        async with pymux.aio.serve(echo, HERE) as server:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.wait(), 0.01)
            conn = await pymux.aio.connect(server.address)
            conn.send(b"x")
            assert await conn.recv() == b"x"
            conn.close()

    loop.run(main())


def test_it_raises_what_ended_the_server():
    reported = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reported.append(context["exception"])
        )
        server = await pymux.aio.serve(echo, HERE)

        inside.fail_in_harvest(server, OSError(errno.EBADF, "of the harvest"))
        inside.engine_of(server).wakeup()
        for _ in range(2):
            with pytest.raises(OSError, match="of the harvest"):
                await server.wait()
        with pytest.raises(OSError, match="of the harvest"):
            await server.stop()
        await server.stop()

    asyncio.run(main())
    assert [error.errno for error in reported] == [errno.EBADF]


def test_before_the_start_and_in_a_handler_it_says_so(loop):
    raised = []

    async def handler(conn):
        with pytest.raises(RuntimeError, match="handler") as info:
            await server.wait()
        raised.append(info.value)

    async def main():
        nonlocal server
        server = pymux.aio.serve(handler, HERE)
        with pytest.raises(RuntimeError, match="not started"):
            await server.wait()
        async with server:
            conn = await pymux.aio.connect(server.address)
            assert await conn.recv() is None
            conn.close()

    server = None
    loop.run(main())
    assert raised
