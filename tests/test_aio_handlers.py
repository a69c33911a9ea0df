"""Coroutine handlers as tasks of asyncio: what they may await, and what they raise."""

import asyncio
import errno
import socket

import pytest

import pymux

from . import inside, util
from .loops import ask, at_rest, everything, recv, until

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


def test_a_handler_is_a_task_that_may_await_anything(loop):
    async def handler(conn):
        me = asyncio.current_task()
        assert me is not None
        async for data in conn:
            await asyncio.sleep(0)
            one, two = await asyncio.gather(
                asyncio.to_thread(data.upper), asyncio.sleep(0.001, b"!")
            )
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
            except TimeoutError:
                conn.send(one + two)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"hello", 6) == b"HELLO!"

    loop.run(main())


def test_timeouts_and_task_groups_work_in_a_handler(loop):
    async def handler(conn):
        try:
            async with asyncio.timeout(0.01):
                await conn.recv()
        except TimeoutError:
            conn.send(b"slow ")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(conn.recv())
        conn.send(task.result())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 5) == b"slow "
                sock.sendall(b"but here")
                assert await recv(sock, 8) == b"but here"

    loop.run(main())


def test_pymuxs_own_sleep_and_to_thread_work_in_a_handler_too(loop):
    async def handler(conn):
        async for data in conn:
            await pymux.sleep(0.001)
            conn.send(await pymux.to_thread(bytes.upper, data))

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"hello", 5) == b"HELLO"

    loop.run(main())


def test_cancelling_a_handler_closes_its_connection_flushed(loop):
    tasks = []

    async def handler(conn):
        tasks.append(asyncio.current_task())
        conn.send(b"before")
        await asyncio.sleep(60)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: tasks)
                tasks[0].cancel()
                assert await asyncio.to_thread(util.recv_all, sock) == b"before"
            await until(lambda: server.stats().connections == 0)

    loop.run(main())


def test_a_failing_handler_is_reported_to_the_loops_exception_handler(loop):
    async def handler(conn):
        conn.send(b"answered")
        raise ValueError(await conn.recv())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"question") == b"answered"
        (error,) = loop.errors
        assert repr(error) == "ValueError(b'question')"
        loop.errors.clear()

    loop.run(main())


def test_a_failing_handler_is_given_to_on_error_instead(loop):
    seen = []

    async def handler(conn):
        raise ValueError("mine")

    async def main():
        options = {"on_error": lambda conn, error: seen.append((conn, error))}
        async with pymux.aio.serve(handler, LOCAL, **options) as server:
            assert await everything(server.address, b"") == b""
            await until(lambda: seen)
        ((conn, error),) = seen
        assert isinstance(conn, pymux.Connection)
        assert str(error) == "mine"

    loop.run(main())


def test_a_function_that_fails_is_logged_and_ends_its_connection_only(loop, logged):
    def handler(conn, data):
        if data == b"bad":
            raise ValueError("bad")
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await everything(server.address, b"bad") == b""
                sock.sendall(b"good")
                assert await recv(sock, 4) == b"good"
        assert len(logged) == 1

    loop.run(main())


def test_a_lost_connection_raises_in_recv_and_is_nobodys_error(loop):
    seen = []

    async def handler(conn):
        try:
            while await conn.recv() is not None:
                pass
        except pymux.ConnectionClosed as error:
            seen.append(error.errno)
            raise

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            sock.sendall(b"x")
            await until(lambda: server.stats().messages_in)
            util.reset(sock)
            await until(lambda: seen)
            await until(lambda: not server.stats().connections)
        assert seen == [errno.ECONNRESET]

    loop.run(main())


def test_recv_times_out_and_leaves_the_connection_as_it_was(loop):
    async def handler(conn):
        for timeout in 0, 0.01:
            with pytest.raises(TimeoutError):
                await conn.recv(timeout)
        with pytest.raises(ValueError, match="-1"):
            await conn.recv(-1)
        conn.send(b"?")
        conn.send(await conn.recv(20))

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_a_second_recv_at_once_is_refused(loop):
    async def handler(conn):
        first = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one at a time"):
            await conn.recv()
        conn.send(b"?")
        conn.send(await first)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_a_cancelled_recv_loses_no_message(loop):
    async def handler(conn):
        first = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        conn.send(b"?")
        while not inside.has_untaken(conn):
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        conn.send(await conn.recv())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_recv_wakes_when_another_task_closes_the_connection(loop):
    async def main():
        done = []

        async def handler(conn):
            asyncio.get_running_loop().call_later(0.01, conn.close)
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()
            done.append(conn)

        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: done)

    loop.run(main())


def test_drain_waits_until_output_is_under_low_water(loop):
    queued = []

    async def handler(conn):
        await conn.drain()  # nothing to wait for
        conn.send(b"x" * 8_000_000)
        queued.append(conn.queued)
        await conn.drain()
        queued.append(conn.queued)

    async def main():
        limits = pymux.Limits(high_water=50_000, low_water=10_000)
        async with pymux.aio.serve(handler, LOCAL, limits=limits) as server:
            with util.connect(server.address) as sock:
                await until(lambda: queued)
                await at_rest(server)
                assert len(queued) == 1
                assert queued[0] > 50_000
                assert len(await recv(sock, 8_000_000)) == 8_000_000
                await until(lambda: len(queued) == 2)
        assert queued[1] <= 10_000

    loop.run(main())


async def send_much(conn, raised):
    conn.send(b"x" * 8_000_000)
    try:
        await conn.drain()
    except pymux.ConnectionClosed as error:
        raised.append(error.errno)


def test_drain_raises_when_the_connection_is_lost(loop):
    raised = []

    async def handler(conn):
        await send_much(conn, raised)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: server.stats().bytes_out)
            util.reset(sock)
            await until(lambda: raised)
        assert raised == [errno.ECONNRESET]

    loop.run(main())


def test_drain_raises_when_the_loss_waits_to_be_reported(loop):
    raised = []

    async def handler(conn):
        if await conn.recv() != b"go":
            return
        util.reset(socks[0])
        await send_much(conn, raised)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            socks.append(util.connect(server.address))
            socks[0].sendall(b"go")
            await until(lambda: raised or not server.stats().connections)
        assert raised == [errno.ECONNRESET]

    socks = []
    loop.run(main())


def test_messages_not_taken_pause_reading_and_all_of_them_arrive(loop):
    took = []

    async def handler(conn):
        await gate.wait()
        async for data in conn:
            took.append(data)
            if len(took) % 1000 == 0:
                await asyncio.sleep(0)

    async def main():
        nonlocal gate
        gate = asyncio.Event()
        limits = pymux.Limits(high_water=20_000, low_water=5_000)
        options = {"framing": LINES, "limits": limits}
        async with pymux.aio.serve(handler, LOCAL, **options) as server:
            data = b"".join(b"%060d\n" % k for k in range(50_000))
            left = data
            with util.connect(server.address) as sock:
                await until(lambda: util.is_up(sock))
                while left and (taken := util.fill(sock, len(left), left)):
                    left = left[taken:]
                    await at_rest(server)
                assert 100 < server.stats().messages_in < 50_000
                gate.set()
                await asyncio.to_thread(sock.sendall, left)
                sock.shutdown(socket.SHUT_WR)
                assert await asyncio.to_thread(util.recv_all, sock) == b""
        assert took == data.split(b"\n")[:-1]

    gate = None
    loop.run(main())


def test_recv_on_a_function_servers_connection_says_whose_it_is(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: ends.open)
                with pytest.raises(RuntimeError, match="handler"):
                    await ends.open[0].recv()

    loop.run(main())


def test_the_mux_of_a_guest_is_not_to_be_harvested(loop):
    seen = []

    def handler(conn, data):
        try:
            conn.mux.harvest(0)
        except RuntimeError as error:
            seen.append(str(error))
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"x", 1) == b"x"
        assert "asyncio loop" in seen[0]

    loop.run(main())


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
        await asyncio.sleep(0)  # in which they begin

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            got = await asyncio.to_thread(util.everything, server.address, b"")
            assert got == b""
            await until(lambda: len(ends) == 2)

    children = []
    loop.run(main())


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
            await at_rest(server)
            util.reset(sock)
            await until(lambda: seen)
        assert seen == [errno.ECONNRESET]

    loop.run(main())
