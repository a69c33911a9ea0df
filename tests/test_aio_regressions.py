"""What a review of `pymux.aio` found, each once more."""

import asyncio
import contextvars
import errno
import sys
import threading

import pytest

import pymux

from . import inside, util
from .loops import until

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


def test_child_tasks_end_when_their_handler_has_returned(loop):
    ends = []

    async def child(wait):
        try:
            ends.append(await wait())
        except pymux.ConnectionClosed as error:
            ends.append(error)

    async def handler(conn):
        for wait in conn.recv, conn.wait_closed:
            children.append(asyncio.ensure_future(child(wait)))
        await asyncio.sleep(0.01)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            got = await asyncio.to_thread(util.everything, server.address, b"")
            assert got == b""
            await until(lambda: len(ends) == 2)

    children = []
    loop.run(main())


def test_nothing_is_kept_of_outgoing_connections_that_ended(loop):
    async def main():
        async with pymux.aio.serve(lambda conn, data: data, LOCAL) as server:
            for _ in range(20):
                conn = await pymux.aio.connect(server.address)
                conn.close()
                await conn.wait_closed()
            await until(lambda: not inside.places_in_use(conn.mux))
            assert not inside.keeps_tasks(conn.mux)

    loop.run(main())


@pytest.mark.parametrize("how", ["reply", "reply_data"])
def test_a_batch_answered_from_elsewhere_is_sent(loop, how):
    @pymux.batched
    def handler(batch):
        answer = batch.messages if how == "reply" else bytes(batch.data)
        asyncio.get_running_loop().call_soon(getattr(batch, how), answer)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            got = await asyncio.to_thread(util.exchange, server.address, b"late", 4)
            assert got == b"late"

    loop.run(main())


def test_handlers_are_cancelled_once_and_clean_up_in_peace(loop):
    seen = []

    async def handler(conn):
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                await asyncio.sleep(0.005)
            seen.append("clean")

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        socks = [util.connect(server.address) for _ in range(3)]
        await until(lambda: server.stats().connections == 3)
        await asyncio.sleep(0.01)
        await server.stop(0)
        assert seen == ["clean"] * 3
        for sock in socks:
            sock.close()

    loop.run(main())


@pytest.mark.parametrize("form", ["function", "batch"])
def test_a_cancelled_error_of_a_handler_ends_its_connection_only(loop, logged, form):
    def function(conn, data):
        if data == b"bad":
            raise asyncio.CancelledError
        return data

    @pymux.batched
    def batch(batch):
        if b"bad" in batch.messages:
            raise asyncio.CancelledError
        batch.reply(batch.messages)

    async def main():
        handler = function if form == "function" else batch
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert (
                await asyncio.to_thread(util.everything, server.address, b"bad\n")
                == b""
            )
            got = await asyncio.to_thread(util.exchange, server.address, b"good\n", 5)
            assert got == b"good\n"
        assert len(logged) == 1

    loop.run(main())


def test_a_timer_that_raises_ends_no_outgoing_connection(loop):
    def fail():
        raise ValueError("the timer's")

    async def main():
        async with pymux.aio.serve(lambda conn, data: data, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            conn.mux.call_later(0, fail)
            await until(lambda: loop.errors)
            conn.send(b"still here")
            assert await conn.recv(10) == b"still here"
            other = conn.mux.connect(server.address)
            other.send(b"this one too")
            await until(lambda: inside.has_task(other))
            assert await other.recv(10) == b"this one too"
            conn.close()
            other.close()
        assert str(loop.errors.pop()) == "the timer's"

    loop.run(main())


def test_handlers_that_are_reset_in_the_end_see_closed_connections(loop):
    seen = []

    async def handler(conn):
        async with conn:
            try:
                if not seen:
                    seen.append(None)
                    await asyncio.sleep(60)
                await conn.recv()
            except BaseException as error:
                seen.append(type(error))
                raise

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        socks = []
        for _ in range(2):
            socks.append(util.connect(server.address))
            await until(lambda: server.stats().connections == len(socks))
            await asyncio.sleep(0.01)
        socks[1].sendall(b"")
        await server.stop(0)
        kinds = set(seen[1:])
        assert kinds <= {asyncio.CancelledError, pymux.ConnectionClosed}
        for sock in socks:
            sock.close()

    loop.run(main())


def test_a_half_imported_asyncio_does_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncio", type(sys)("asyncio"))
    assert inside.running_asyncio() is None


def test_a_blocking_server_in_a_running_loop_sleeps_by_itself(loop):
    async def handler(conn):
        await pymux.sleep(0.001)
        conn.send(await pymux.to_thread(bytes.upper, await conn.recv()))

    async def main():
        server = pymux.Server(handler, LOCAL)
        got = []

        def client():
            util.wait_until(lambda: inside.mux_of(server) is not None)
            got.append(util.exchange(server.address, b"hello", 5))
            server.stop()

        thread = threading.Thread(target=client)
        thread.start()
        server.run()
        thread.join()
        assert got == [b"HELLO"]

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
                await asyncio.sleep(0.01)
                who.set("alice")
                conns[0].mux.call_later(0, lambda: seen.append(who.get()))
                with util.connect(server.address):
                    await until(lambda: len(seen) == 3)
        assert set(seen) == {"nobody"}

    conns = []
    loop.run(main())


def test_a_task_factory_that_raises_leaves_the_server_to_be_stopped(loop):
    async def handler(conn):
        pass

    def factory(loop, coroutine, **options):
        if getattr(coroutine, "__name__", "") == "handler":
            raise ValueError("no task today")
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        asyncio.get_running_loop().set_task_factory(factory)
        assert await asyncio.to_thread(util.everything, server.address, b"") == b""
        await server.stop()
        assert str(loop.errors.pop()) == "no task today"

    loop.run(main())


def test_a_stopped_server_is_not_entered_again(loop):
    async def main():
        server = await pymux.aio.serve(lambda conn, data: data, LOCAL)
        await server.stop()
        with pytest.raises(RuntimeError, match="one life"):
            async with server:
                pass

    loop.run(main())


def test_a_server_whose_loop_is_closed_can_be_stopped_in_another(loop):
    async def start():
        return await pymux.aio.serve(lambda conn, data: data, LOCAL)

    async def stop(server):
        await server.stop()
        await server.stop()

    server = loop.run(start())
    loop.run(stop(server))


def test_wait_closed_is_for_those_who_can_be_waited_for(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: ends.open)
                with pytest.raises(RuntimeError, match="handler"):
                    await ends.open[0].wait_closed()

    loop.run(main())


def test_a_reset_still_tells_why_it_came(loop):
    seen = []

    async def handler(conn):
        try:
            await conn.recv()
        except pymux.ConnectionClosed as error:
            seen.append(error.errno)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: server.stats().connections)
            await asyncio.sleep(0.01)
            util.reset(sock)
            await until(lambda: seen)
        assert seen == [errno.ECONNRESET]

    loop.run(main())
