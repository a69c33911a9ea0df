"""Context variables in an asyncio loop: which handler sees what."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

import pymux

from . import util
from .loops import at_rest, converse, until

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
WHO = contextvars.ContextVar("WHO", default="nobody")


@pytest.mark.parametrize("form", ["function", "batch", "object"])
def test_what_a_handler_sets_is_not_seen_by_the_next(loop, form):
    seen = []

    def function(conn, data):
        seen.append(WHO.get())
        WHO.set(data.decode())
        return data

    @pymux.batched
    def batch(batch):
        batch.reply([function(*row) for row in batch])

    class Object:
        def opened(self, conn):
            function(conn, b"opened")

        def received(self, conn, data):
            return function(conn, data)

        def closed(self, conn, error):
            function(conn, b"closed")

    handler = {"function": function, "batch": batch, "object": Object()}[form]

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            for name in (b"alice", b"bob", b"carol"):
                await converse(server.address, name)
        assert set(seen) == {"nobody"}
        assert WHO.get() == "nobody"

    loop.run(main())


def test_what_a_timer_sets_is_seen_by_nobody(loop):
    seen = []

    def handler(conn, data):
        conn.mux.call_later(0, WHO.set, "the timer")
        conn.mux.call_later(0.001, lambda: seen.append(WHO.get()))
        seen.append(WHO.get())
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            for _ in range(3):
                await converse(server.address)
                await until(lambda: len(seen) % 2 == 0)
        assert seen == ["nobody"] * 6

    loop.run(main())


def test_handlers_start_from_the_context_in_which_their_server_was_started(loop):
    seen = []

    async def handler(conn):
        seen.append(WHO.get())
        WHO.set("a task")

    async def main():
        WHO.set("the starter")
        async with pymux.aio.serve(handler, LOCAL) as server:
            WHO.set("later")
            for _ in range(3):
                got = await asyncio.to_thread(util.everything, server.address, b"")
                assert got == b""
        assert seen == ["the starter"] * 3

    loop.run(main())


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="references are not counted here"
)
def test_nothing_is_kept_of_the_context_of_who_dialled_first(loop, echo_server):
    class Request:
        pass

    async def first():
        request = Request()
        WHO.set(request)
        refs.append(weakref.ref(request))
        conns.append(await pymux.aio.connect(echo_server.address, framing=LINES))
        conns[0].send(b"x")
        assert await conns[0].recv(20) == b"x"

    async def main():
        gc.disable()
        try:
            await asyncio.ensure_future(first())
            await until(lambda: refs[0]() is None)
            conns[0].mux.call_later(0, lambda: seen.append(WHO.get()))
            await until(lambda: seen)
            assert seen == ["nobody"]
        finally:
            gc.enable()
            conns[0].close()

    refs, conns, seen = [], [], []
    loop.run(main())


def test_a_tasks_own_context_is_the_same_after_its_waits(loop, echo_server):
    async def talk(name):
        WHO.set(name)
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        async with conn:
            for _ in range(10):
                conn.send(name)
                assert await conn.recv(20) == name
                assert WHO.get() is name
                await conn.drain()
        assert WHO.get() is name

    async def main():
        await asyncio.gather(*(talk(b"%d" % k) for k in range(20)))
        assert WHO.get() == "nobody"

    loop.run(main())


def test_nobody_runs_in_the_context_of_who_sent_last(loop):
    who = contextvars.ContextVar("who", default="nobody")
    seen = []

    class Object:
        def opened(self, conn):
            conns.append(conn)
            seen.append(who.get())

    async def main():
        async with pymux.aio.serve(Object(), LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: conns)
                await at_rest(server)
                who.set("alice")
                conns[0].mux.call_later(0, lambda: seen.append(who.get()))
                await until(lambda: len(seen) == 2)
                with util.connect(server.address):
                    await until(lambda: len(seen) == 3)
        assert set(seen) == {"nobody"}

    conns = []
    loop.run(main())
