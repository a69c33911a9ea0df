"""When a mux in an asyncio loop harvests, and what it does not hold up."""

import asyncio
import contextlib
import contextvars
import errno
import os
import selectors
import socket
import threading
import time

import pytest

import pymux

from . import inside, util
from .loops import ask, at_rest, everything, recv, until
from .serving import echo

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


# --- when it harvests --------------------------------------------------------


def test_an_idle_server_takes_no_turn(loop):
    async def main():
        limits = pymux.Limits(idle_timeout=60)
        async with pymux.aio.serve(echo, LOCAL, limits=limits) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"x")
                assert await recv(sock, 1) == b"x"
                await at_rest(server)
                before = server.stats().harvests
                await asyncio.sleep(0.15)
                assert server.stats().harvests == before

    loop.run(main())


def test_a_timer_of_the_mux_wakes_the_loop(loop):
    ran = []

    def handler(conn, data):
        conn.mux.call_later(0.02, ran.append, data)
        conn.mux.call_later(0.04, conn.send, b"later")

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"now", 5) == b"later"
            assert ran == [b"now"]

    loop.run(main())


def test_a_file_that_the_mux_watches_wakes_the_loop(loop):
    read, write = os.pipe()
    found = []

    def ready(fd, events):
        found.append((threading.get_ident(), os.read(fd, 1)))

    def handler(conn, data):
        conn.mux.watch(read, selectors.EVENT_READ, ready)
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"now", 3) == b"now"
            os.write(write, b"abc")
            await until(lambda: len(found) == 3)
            await at_rest(server)

    loop.run(main())
    assert found == [(threading.get_ident(), byte) for byte in (b"a", b"b", b"c")]
    os.close(read)
    os.close(write)


def test_a_timer_set_from_elsewhere_wakes_the_loop(loop):
    async def main():
        connected = []

        class Object:
            def opened(self, conn):
                connected.append(conn)

        async with pymux.aio.serve(Object(), LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: connected)
                await at_rest(server)
                connected[0].mux.call_later(0.01, connected[0].send, b"tick")
                assert await recv(sock, 4) == b"tick"

    loop.run(main())


def test_an_earlier_timer_moves_the_loops_timer_forward(loop):
    async def main():
        connected = []

        class Object:
            def opened(self, conn):
                conn.mux.call_later(60, print)
                connected.append(conn)

        async with pymux.aio.serve(Object(), LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: connected)
                await at_rest(server)
                connected[0].mux.call_later(0.01, connected[0].send, b"tick")
                assert await recv(sock, 4) == b"tick"

    loop.run(main())


def test_an_idle_connection_is_closed_in_time(loop):
    ends = util.Ends()

    async def main():
        limits = pymux.Limits(idle_timeout=0.05)
        async with pymux.aio.serve(ends, LOCAL, limits=limits) as server:
            with util.connect(server.address):
                await until(lambda: ends.ended)
        assert ends.errors() == [errno.ETIMEDOUT]

    loop.run(main())


def test_what_is_sent_from_elsewhere_leaves_by_itself(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address) as sock, util.connect(server.address):
                await until(lambda: len(ends.open) == 2)
                await at_rest(server)
                first = next(c for c in ends.open if c.peer == sock.getsockname())
                first.send(b"one")
                assert await recv(sock, 3) == b"one"
                asyncio.get_running_loop().call_soon(first.send, b"two")
                assert await recv(sock, 3) == b"two"
                assert first.mux.send_many(ends.open, b"many") == 2
                assert await recv(sock, 4) == b"many"
                first.close()
                assert await asyncio.to_thread(util.recv_all, sock) == b""
        assert len(ends.ended) == 2

    loop.run(main())


def test_pausing_from_elsewhere_holds_and_resuming_goes_on(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: ends.open)
                ends.open[0].pause()
                await at_rest(server)
                sock.sendall(b"held")
                await at_rest(server)
                assert server.stats().messages_in == 0
                ends.open[0].resume()
                assert await recv(sock, 4) == b"held"

    loop.run(main())


def test_a_batch_gathers_min_messages_by_the_loops_timer(loop):
    sizes = []

    @pymux.batched(min_messages=3, max_delay=30)
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            with util.connect(server.address) as one, util.connect(server.address):
                await until(lambda: server.stats().connections == 2)
                for word in b"a\n", b"b\n":
                    one.sendall(word)
                    await at_rest(server)
                assert sizes == []
                one.sendall(b"c\n")
                assert await recv(one, 6) == b"a\nb\nc\n"
        assert sizes == [3]

    loop.run(main())


def test_a_batch_gathers_no_longer_than_max_delay(loop):
    sizes, waits = [], []

    @pymux.batched(min_messages=3, max_delay=0.05)
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            with (
                util.connect(server.address) as one,
                util.connect(server.address) as two,
            ):
                await until(lambda: server.stats().connections == 2)
                await until(lambda: util.is_up(one) and util.is_up(two))
                begun = time.monotonic()
                one.sendall(b"a\n")
                assert await recv(one, 2) == b"a\n"
                waits.append(time.monotonic() - begun)
        assert sizes == [1]
        assert waits[0] >= 0.05

    loop.run(main())


# --- timeouts and turns --------------------------------------------------------


@pytest.mark.parametrize("what", [b"in time", None])
def test_what_came_while_the_loop_was_blocked_is_no_timeout(loop, what):
    seen = []

    async def handler(conn):
        await conn.recv()
        conn.send(b"ready")
        try:
            seen.append(await conn.recv(timeout=0.5))
        except TimeoutError:
            seen.append("timeout")

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            conn = await pymux.aio.connect(server.address, framing=LINES)
            conn.send(b"hello")
            assert await conn.recv() == b"ready"
            if what:
                conn.send(what)
            else:
                conn.send_eof()
            inside.submit(conn.mux)
            time.sleep(0.7)  # what a guest has to live with
            await until(lambda: seen)
            conn.close()

    loop.run(main())
    assert seen == [what]


def test_a_timeout_that_is_one_is_raised_in_time(loop):
    async def main():
        async with pymux.aio.serve(echo, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            for timeout in (0, 0.01):
                before = loop_time()
                with pytest.raises(TimeoutError):
                    await conn.recv(timeout=timeout)
                assert timeout - 0.002 <= loop_time() - before < 5
            conn.send(b"on")
            assert await conn.recv(timeout=10) == b"on"
            conn.close()

    def loop_time():
        return asyncio.get_running_loop().time()

    loop.run(main())


def test_handlers_of_a_timeouts_turn_do_not_run_in_its_context(loop):
    """The turn that looks for what came in time is nobody's either."""
    seen = []
    who = contextvars.ContextVar("who", default="nobody")

    def notes(conn, data):
        seen.append(who.get())

    async def asks(conn):
        who.set("somebody")
        for k in range(5):
            # between the loop's look at the descriptors and the end of the timeout
            asyncio.get_running_loop().call_later(0, sock.sendall, b"x")
            with pytest.raises(TimeoutError):
                await conn.recv(timeout=0)
            await until(lambda: len(seen) == k + 1)  # noqa: B023 (asked now)

    async def main():
        nonlocal sock
        places = [pymux.Endpoint(LOCAL, handler=fn) for fn in (notes, asks)]
        async with pymux.aio.serve(None, places) as server:
            noted, asked = server.addresses
            with util.connect(noted) as sock:
                await until(lambda: server.stats().connections)
                with util.connect(asked):
                    await until(lambda: len(seen) == 5)

    sock = None
    loop.run(main())
    assert seen == ["nobody"] * 5


async def drains(conn):
    conn.send(b"tick")
    await conn.drain()


async def only_drains(conn):
    await conn.drain()


async def receives_in_vain(conn):
    with contextlib.suppress(TimeoutError):
        await conn.recv(timeout=0)


async def receives_behind_the_end(conn):
    with contextlib.suppress(pymux.ConnectionClosed):
        await conn.recv()


@pytest.mark.parametrize(
    "ask", [drains, only_drains, receives_in_vain, receives_behind_the_end]
)
def test_a_loop_of_awaits_does_not_block_the_loop(loop, ask):
    over = []

    async def handler(conn):
        if await conn.recv() != b"loop":
            conn.send(b"served")
            return
        if ask is receives_behind_the_end:
            assert await conn.recv() is None
        conn.send(b"looping")
        with contextlib.suppress(pymux.ConnectionClosed):
            while not over:
                await ask(conn)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, drain_timeout=0) as server:
            sock = await asyncio.to_thread(util.connect, server.address)
            with sock:
                sock.sendall(b"loop")
                if ask is receives_behind_the_end:
                    sock.shutdown(socket.SHUT_WR)
                await asyncio.to_thread(util.recv_exactly, sock, 7)
                for _ in range(3):
                    assert await ask_(server.address, b"x") == b"served"
                over.append(True)

    async def ask_(address, data):
        return await asyncio.to_thread(util.exchange, address, data, 6)

    loop.run(main())


@pytest.mark.parametrize("burst", [1, 20_000])
def test_a_stream_to_a_peer_that_is_gone_is_told(loop, burst):
    ends = []

    async def handler(conn):
        await conn.recv()
        try:
            while True:
                for _ in range(burst):
                    conn.send(b"tick")
                await conn.drain()
        except pymux.ConnectionClosed as error:
            ends.append(error.errno)
            raise

    async def main():
        async with pymux.aio.serve(handler, LOCAL, drain_timeout=0) as server:
            sock = await asyncio.to_thread(util.connect, server.address)
            sock.sendall(b"stream")
            await asyncio.to_thread(util.recv_exactly, sock, 1000)
            util.reset(sock)
            await until(lambda: ends)

    loop.run(main())
    assert ends == [errno.ECONNRESET]


@pytest.mark.parametrize("what", ["recv", "drain"])
def test_who_goes_on_asking_a_connection_of_the_past_blocks_nobody(loop, what):
    kept = []

    async def handler(conn):
        kept.append(conn)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            await everything(server.address, b"")
            await until(lambda: server.stats().connections == 0)

            async def ask():
                while True:
                    with contextlib.suppress(pymux.ConnectionClosed):
                        await getattr(kept[0], what)()

            asking = asyncio.ensure_future(ask())
            for _ in range(5):
                await asyncio.sleep(0.001)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

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
