"""`started` and `stopping` of handlers in an asyncio loop."""

import asyncio

import pytest

import pymux

from . import util
from .loops import recv, until
from .serving import Hooked, Parting
from .util import Boom

LOCAL = ("127.0.0.1", 0)
pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def test_the_hooks_frame_the_life_of_a_server(loop):
    handler = Parting()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: handler.conns)
        return sock

    with loop.run(main()) as sock:
        assert util.until_end(sock) == (b"good-bye", None)
    assert handler.names() == ["started", "opened", "stopping", "closed"]
    assert {thread for _, thread in handler.told} == {"MainThread"}


def test_a_hook_may_use_the_loop(loop):
    class Tasks(Hooked):
        def started(self, mux):
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(0, "ran"))

    handler = Tasks()

    async def main():
        async with pymux.aio.serve(handler, LOCAL):
            await until(lambda: hasattr(handler, "task"))
            assert await handler.task == "ran"

    loop.run(main())


def test_a_stop_at_once_tells_both(loop):
    handler = Hooked()

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        await server.stop()

    loop.run(main())
    assert handler.names() == ["started", "stopping"]


def test_a_loop_that_ends_without_a_stop_says_good_bye(loop):
    handler = Parting()

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        sock = util.connect(server.address)
        await until(lambda: handler.conns)
        return sock

    with pytest.warns(ResourceWarning, match="unclosed"):
        sock = loop.run(main())
        util.collect()
    with sock:
        assert util.until_end(sock) == (b"good-bye", None)
    assert handler.names() == ["started", "opened", "stopping", "closed"]


def test_errors_of_hooks_go_to_on_error(loop):
    told = []

    class Raising(Hooked):
        def started(self, mux):
            raise Boom("of started")

        def stopping(self, mux):
            raise Boom("of stopping")

    async def main():
        async with pymux.aio.serve(
            Raising(), LOCAL, on_error=lambda conn, error: told.append(str(error))
        ) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"hello")
                assert await recv(sock, 5) == b"hello"

    loop.run(main())
    assert told == ["of started", "of stopping"]
