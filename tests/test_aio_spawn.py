"""Coroutines that a handler spawns in asyncio: tasks, and the rules of a mux's."""

import asyncio
import contextlib
import gc
import sys
import threading
import weakref

import pytest

import pymux

from . import util
from .loops import everything, recv, until
from .serving import Told

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


@pytest.fixture
def told():
    return Told()


def test_answers_leave_in_the_order_in_which_they_are_ready(loop):
    async def answer(conn, number):
        await events[number].wait()
        conn.send(b"%d" % number)
        if number:
            events[number - 1].set()

    async def handler(conn):
        async for number in conn:
            pymux.spawn(answer(conn, int(number)))
        events[2].set()

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert await everything(server.address, b"0\n1\n2\n") == b"2\n1\n0\n"

    events = [pymux.Event() for _ in range(3)]
    loop.run(main())


def test_an_error_of_one_ends_all_and_is_reported_once(loop, told):
    async def child():
        await asyncio.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        conn.send(b"before")
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child())
        await told.note_cancelled("handler", conn.recv)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, on_error=told.on_error) as server:
            with util.connect(server.address) as sock:
                assert (await asyncio.to_thread(util.until_end, sock))[0] == b"before"
                await until(lambda: len(told.notes) == 2)  # before the peer's end
            await until(lambda: server.stats().connections == 0)

    loop.run(main())
    assert sorted(told.notes) == ["handler", "other"]
    assert told.errors == [(True, LookupError, "of a child")]


@pytest.mark.parametrize("returned", [False, True])
def test_an_error_ends_the_others_while_output_waits_for_the_peer(loop, told, returned):
    async def child():
        await asyncio.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        conn.send(bytes(16 << 20))
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child())
        if not returned:
            await told.note_cancelled("handler", conn.recv)

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, on_error=told.on_error, drain_timeout=0
        ) as server:
            with util.connect_narrow(server.address):
                await until(lambda: len(told.notes) == 2 - returned)
                assert server.stats().connections == 1

    loop.run(main())
    assert sorted(told.notes) == ["handler"] * (not returned) + ["other"]


def test_an_error_while_the_handler_has_returned_ends_the_rest(loop, told):
    async def child():
        await asyncio.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child())

    async def main():
        async with pymux.aio.serve(handler, LOCAL, on_error=told.on_error) as server:
            with util.connect(server.address) as sock:
                await asyncio.to_thread(util.until_end, sock)
            await until(lambda: server.stats().connections == 0)

    loop.run(main())
    assert told.notes == ["other"]
    assert told.errors == [(True, LookupError, "of a child")]


@pytest.mark.parametrize("how", ["raise", "cancel"])
def test_an_end_of_the_handler_cancels_the_others(loop, told, how):
    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        await asyncio.sleep(0)  # it begins
        await conn.recv()
        if how == "raise":
            raise LookupError("of the handler")
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, on_error=told.on_error) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"go")
                await asyncio.to_thread(util.until_end, sock)
                await until(lambda: told.notes)  # before the peer's end

    loop.run(main())
    assert told.notes == ["child"]
    assert told.errors == (
        [(True, LookupError, "of the handler")] if how == "raise" else []
    )


@pytest.mark.parametrize("returned", [False, True])
def test_a_connection_that_is_lost_cancels_what_it_has_spawned(loop, told, returned):
    opened = []

    async def child():
        opened.append(True)
        await told.note_cancelled("child")

    async def handler(conn):
        pymux.spawn(child())
        if not returned:
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: opened)
            util.reset(sock)
            await until(lambda: told.notes)

    loop.run(main())
    assert told.notes == ["child"]


def test_one_can_be_cancelled_while_the_others_go_on(loop, told):
    async def handler(conn):
        one = pymux.spawn(told.note_cancelled("one"))
        two = pymux.spawn(told.note_cancelled("two"))
        await asyncio.sleep(0)
        one.cancel()
        await until(one.done)
        assert not two.done()
        conn.send(await conn.recv())
        two.cancel()

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert await everything(server.address, b"go on\n") == b"go on\n"

    loop.run(main())
    assert told.notes == ["one", "two"]


def test_to_await_one_says_what_to_await_instead(loop, told):
    async def handler(conn):
        await asyncio.gather(pymux.spawn(asyncio.sleep(0)))

    async def main():
        async with pymux.aio.serve(handler, LOCAL, on_error=told.on_error) as server:
            assert await everything(server.address, b"") == b""

    loop.run(main())
    ((_, kind, text),) = told.errors
    assert kind is TypeError
    assert "let it set a pymux.Event" in text


def test_one_that_is_cancelled_at_once_is_never_started(loop):
    begun, spawned = [], []

    async def child():
        begun.append(True)

    async def handler(conn):
        spawned.append(pymux.spawn(child()))
        spawned[0].cancel()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"") == b""
        assert spawned[0].done()

    loop.run(main())
    assert begun == []


def test_a_stop_waits_for_what_was_spawned_until_its_deadline(loop, told):
    gate = pymux.Event()

    async def answer(conn):
        await gate.wait()
        conn.send(b"answer")

    async def handler(conn):
        await conn.recv()
        pymux.spawn(answer(conn))

    async def stuck(conn):
        pymux.spawn(child())
        await asyncio.sleep(3600)

    async def child():
        told.notes.append("begun")
        try:
            await told.note_cancelled("stuck")
        finally:
            await asyncio.sleep(0.05)
            told.notes.append("cleaned up")

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address) as sock:
            sock.sendall(b"ask")
            await until(lambda: server.stats().messages_in == 1)
            stopping = asyncio.create_task(server.stop(30))
            await until(lambda: server.stats().listeners == 0)
            gate.set()
            assert await recv(sock, 6) == b"answer"
        await stopping
        server = await pymux.aio.serve(stuck, LOCAL)
        with util.connect(server.address):
            await until(lambda: told.notes)
            await server.stop(0)

    loop.run(main())
    assert told.notes == ["begun", "stuck", "cleaned up"]


def test_a_mux_that_a_handler_closes_cancels_what_was_spawned(loop, told):
    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        await asyncio.sleep(0)
        conn.mux.close()

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address):
            await server.wait()

    loop.run(main())
    assert told.notes == ["child"]


def test_a_spawned_one_may_stop_the_server(loop):
    async def child():
        await servers[0].stop(5)

    async def handler(conn):
        pymux.spawn(child())

    async def main():
        servers.append(await pymux.aio.serve(handler, LOCAL))
        assert await everything(servers[0].address, b"") == b""
        await servers[0].wait()

    servers = []
    loop.run(main())


def test_outside_a_handler_it_is_refused(loop):
    async def child():
        pass

    async def handler(conn):
        with pytest.raises(RuntimeError, match=r"spawn\(\) works in"):
            await asyncio.to_thread(lambda: pymux.spawn(child()))
        with pytest.raises(RuntimeError, match=r"belongs to the coroutine handler"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        later.append(asyncio.create_task(after_the_end()))
        conn.close()
        with pytest.raises(pymux.ConnectionClosed):
            pymux.spawn(child())

    async def elsewhere():
        pymux.spawn(child())

    async def after_the_end():
        await ended.wait()
        with pytest.raises(pymux.ConnectionClosed):
            pymux.spawn(child())
        return True

    async def main():
        with pytest.raises(RuntimeError, match=r"use asyncio\.TaskGroup"):
            pymux.spawn(child())
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"") == b""
        ended.set()
        assert await later[0]

    later, ended = [], pymux.Event()
    loop.run(main())


def test_tasks_that_a_handler_has_created_may_spawn_too(loop):
    async def child(conn):
        conn.send(b"of a task")

    async def handler(conn):
        async def between():
            pymux.spawn(child(conn))

        async with asyncio.TaskGroup() as group:
            group.create_task(between())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"") == b"of a task"

    loop.run(main())


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="tasks are eager from 3.12 on"
)
def test_eager_tasks_spawn_in_their_first_step():
    async def child(conn, text):
        conn.send(text)
        if text == b"2":
            await asyncio.sleep(0)
            conn.send(b"3")

    async def handler(conn):
        pymux.spawn(child(conn, b"1"))
        pymux.spawn(child(conn, b"2"))

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"") == b"123"

    asyncio.run(main())


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="references are not counted here"
)
@pytest.mark.parametrize("end", ["cancelled", "returned", "raised"])
def test_what_has_ended_is_in_no_cycle(loop, end):
    conns = []

    async def child(items):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(0.001):
                await items.get()
        if end == "cancelled":
            await items.get()
        elif end == "raised":
            raise pymux.ConnectionClosed

    async def handler(conn):
        conns.append(weakref.ref(conn))
        one = pymux.spawn(child(pymux.Queue()))
        if end == "cancelled":
            await asyncio.sleep(0.01)
            one.cancel()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"") == b""
            gc.disable()
            try:
                assert await everything(server.address, b"") == b""
                await until(lambda: len(conns) == 2 and conns[1]() is None)
            finally:
                gc.enable()

    loop.run(main())


@pytest.mark.parametrize("work", [True, False])
def test_an_idle_peer_is_one_that_no_task_works_for(loop, work):
    release, items = threading.Event(), pymux.Queue()

    async def child(conn):
        if work:
            await asyncio.to_thread(release.wait, 10)
            conn.send(b"answer")
        else:
            await items.get()

    async def handler(conn):
        async for _ in conn:
            pymux.spawn(child(conn))

    async def main():
        limits = pymux.Limits(idle_timeout=0.1)
        async with pymux.aio.serve(handler, LOCAL, limits=limits) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"ask")
                await until(lambda: server.stats().messages_in == 1)
                if work:
                    await asyncio.sleep(0.5)
                    assert server.stats().connections == 1
                    release.set()
                    assert await recv(sock, 6) == b"answer"
                await until(lambda: server.stats().connections == 0)

    loop.run(main())
