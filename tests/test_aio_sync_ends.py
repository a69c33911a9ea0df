"""In asyncio too, the end of its connection ends a handler's wait for an `Event` or in
a `Queue`."""

import asyncio
import contextlib
import errno

import pytest

import pymux

from . import inside, util
from .loops import at_rest, everything, recv, until
from .serving import Told, Waits

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)


@pytest.fixture(params=["event", "get", "put"])
def wait(request):
    return request.param


@pytest.mark.parametrize("end", ["reset", "closed", "aborted", "mux closed"])
def test_the_end_is_raised_where_the_handler_waits(loop, wait, end):
    waits, conns, ends, told = Waits(), [], [], Told()

    async def handler(conn):
        conns.append(conn)
        try:
            await waits.named[wait]()
        except pymux.ConnectionClosed as error:
            ends.append(error)
            raise

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, on_error=told.on_error)
        sock = util.connect(server.address)
        await until(lambda: conns)
        await at_rest(server)
        if end == "reset":
            util.reset(sock)
        elif end == "mux closed":
            conns[0].mux.close()
        else:
            conns[0].close() if end == "closed" else conns[0].abort()
            sock.close()
        await until(lambda: ends or end == "mux closed")
        if end != "mux closed":
            await until(lambda: not inside.keeps_ends(server))
        await server.stop()
        sock.close()

    loop.run(main())
    if end == "mux closed":  # the server has ended, and cancels its handlers
        assert len(ends) <= 1
    else:
        assert ends[0].connection is conns[0]
        assert ends[0].errno == (errno.ECONNRESET if end == "reset" else None)
    assert (len(waits.empty), len(waits.full)) == (0, 1)
    assert told.errors == []


def test_tasks_do_not_pile_up_behind_peers_that_go(loop, wait):
    waits, begun, alive = Waits(), [], set()

    async def handler(conn):
        begun.append(conn)
        alive.add(conn)
        try:
            await waits.named[wait]()
        finally:
            alive.discard(conn)

    async def main():
        limits = pymux.Limits(max_connections=3)
        async with pymux.aio.serve(handler, LOCAL, limits=limits) as server:
            for k in range(20):
                sock = util.connect(server.address)
                await until(lambda k=k: len(begun) > k)
                util.reset(sock)
            await until(lambda: not alive and not inside.keeps_ends(server))

    loop.run(main())


def test_the_end_of_the_peers_stream_ends_no_wait(loop, wait):
    waits, begun = Waits(), []

    async def handler(conn):
        begun.append(conn)
        await waits.named[wait]()
        conn.send(b"went on")

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: begun)
                sock.shutdown(1)
                await at_rest(server)
                waits.go_on()
                assert await recv(sock, 7) == b"went on"

    loop.run(main())


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_item_goes_past_a_getter_whose_connection_has_gone(loop, when):
    items, waiting = pymux.Queue(), []

    async def handler(conn):
        waiting.append(conn)
        conn.send(await items.get())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            gone = util.connect(server.address)
            await until(lambda: len(waiting) == 1)
            with util.connect(server.address) as stays:
                await until(lambda: len(waiting) == 2)
                if when == "before":
                    util.reset(gone)
                    await until(lambda: server.stats().connections == 1)
                    items.put_nowait(b"item")
                else:
                    items.put_nowait(b"item")  # wakes the first one
                    waiting[0].close()
                assert await recv(stays, 4) == b"item"
            gone.close()

    loop.run(main())


def test_a_wait_that_begins_after_the_end_is_told_once(loop, wait):
    waits, release, begun, notes = Waits(), asyncio.Event(), [], []

    async def handler(conn):
        begun.append(conn)
        await release.wait()
        try:
            with pytest.raises(pymux.ConnectionClosed):
                await waits.named[wait]()
            notes.append("told")
        finally:
            await waits.named[wait]()
            notes.append("cleaned up")

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            util.reset(util.connect(server.address))
            await until(lambda: begun and server.stats().connections == 0)
            release.set()
            await until(lambda: notes)
            await at_rest(server)
            assert notes == ["told"]
            waits.go_on()
            await until(lambda: len(notes) == 2)

    loop.run(main())


@pytest.mark.parametrize("by", ["recv", "drain", "send", "spawn", "wait"])
def test_a_handler_that_was_told_may_wait_while_it_cleans_up(loop, wait, by):
    waits, release, begun, notes = Waits(), asyncio.Event(), [], []

    async def tell(conn):
        if by == "recv":
            await conn.recv()
        elif by == "wait":
            await waits.named[wait]()
        else:
            await release.wait()
            if by == "drain":
                await conn.drain()
            elif by == "send":
                conn.send(b"too late")
            else:
                pymux.spawn(conn.drain())

    async def handler(conn):
        begun.append(conn)
        try:
            with pytest.raises(pymux.ConnectionClosed):
                await tell(conn)
            notes.append("told")
        finally:
            with contextlib.suppress(TimeoutError):
                async with pymux.timeout(0):
                    await waits.named[wait]()
            await waits.named[wait]()
            notes.append("cleaned up")

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: begun)
            await at_rest(server)
            util.reset(sock)
            await until(lambda: server.stats().connections == 0)
            release.set()
            await until(lambda: notes)
            await at_rest(server)
            assert notes == ["told"]
            waits.go_on()
            await until(lambda: len(notes) == 2)
            await until(lambda: not inside.keeps_ends(server))

    loop.run(main())


def test_a_spawned_task_is_cancelled_and_its_cleanup_may_wait(loop, wait):
    waits, begun, notes = Waits(), [], []

    async def child():
        begun.append(True)
        try:
            await waits.named[wait]()
        except asyncio.CancelledError:
            notes.append("cancelled")
            await waits.named[wait]()
            notes.append("cleaned up")
            raise

    async def handler(conn):
        pymux.spawn(child())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: begun)
            util.reset(sock)
            await until(lambda: notes)
            await at_rest(server)
            assert notes == ["cancelled"]
            waits.go_on()
            await until(lambda: len(notes) == 2)

    loop.run(main())


def test_a_handler_that_an_error_of_another_task_cancels_may_wait(loop, wait):
    waits, notes, told = Waits(), [], Told()

    async def child():
        await asyncio.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        pymux.spawn(child())
        try:
            await conn.recv()
        finally:
            notes.append("cancelled")
            await waits.named[wait]()
            notes.append("cleaned up")

    async def main():
        async with pymux.aio.serve(handler, LOCAL, on_error=told.on_error) as server:
            with util.connect(server.address):
                await until(lambda: notes)
            await until(lambda: server.stats().connections == 0)
            await at_rest(server)
            assert notes == ["cancelled"]
            waits.go_on()
            await until(lambda: len(notes) == 2)

    loop.run(main())
    assert told.errors == [(True, LookupError, "of a child")]


def test_a_handler_that_a_stop_cancels_may_wait(loop, wait):
    waits, begun, notes = Waits(), [], []

    async def handler(conn):
        begun.append(True)
        try:
            await asyncio.sleep(3600)
        finally:
            notes.append("cancelled")
            await waits.named[wait]()
            notes.append("cleaned up")

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address):
            await until(lambda: begun)
            stopping = asyncio.create_task(server.stop(0))
            await until(lambda: notes)
            waits.go_on()
            await stopping

    loop.run(main())
    assert notes == ["cancelled", "cleaned up"]


def test_a_task_that_the_handler_made_itself_goes_on(loop, wait):
    waits, tasks = Waits(), []

    async def own():
        await waits.named[wait]()
        return "went on"

    async def handler(conn):
        tasks.append(asyncio.create_task(own()))
        await conn.recv()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"x") == b""
            await until(lambda: server.stats().connections == 0)
            waits.go_on()
            assert await tasks[0] == "went on"

    loop.run(main())
