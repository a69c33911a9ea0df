"""How an asyncio loop waits while a batch gathers: it does not wake for each event."""

import asyncio
import contextlib
import threading

import pytest

import pymux

from . import inside, util
from .loops import ask, at_rest, recv, run_bare, until
from .serving import echo

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
LONG = 30  # seconds: longer than a test may take
GRAIN = 0.001  # seconds: loops count milliseconds


def gatherer(min_messages=1_000_000, max_delay=LONG):
    """A handler, and the sizes of its batches."""
    sizes = []

    @pymux.batched(min_messages=min_messages, max_delay=max_delay)
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    return handler, sizes


@contextlib.asynccontextmanager
async def gathering(handler, **options):
    """A server whose batch has one message; two clients, of which one has sent it."""
    async with pymux.aio.serve(handler, LOCAL, framing=LINES, **options) as server:
        with util.connect(server.address) as one, util.connect(server.address) as two:
            await until(lambda: server.stats().connections == 2)
            await until(lambda: util.is_up(one) and util.is_up(two))
            one.sendall(b"a\n")
            await until(lambda: server.stats().messages_in == 1)
            yield server, one, two


def test_a_loop_does_not_wake_for_each_event_while_a_batch_gathers(loop):
    handler, sizes = gatherer()
    lines = 1000

    async def main():
        time = asyncio.get_running_loop().time
        async with gathering(handler) as (server, one, _):
            before, begun = server.stats().harvests, time()
            for _ in range(lines):
                one.sendall(b"b\n")
                await asyncio.sleep(0)  # an event in each step of the loop
            turns = server.stats().harvests - before
            assert turns <= (time() - begun) / GRAIN + 2
            await until(lambda: server.stats().messages_in == lines + 1)
            assert sizes == []

    loop.run(main())
    assert sizes == [lines + 1]


def test_a_loop_at_rest_takes_no_turns_while_a_batch_gathers(loop):
    handler, _ = gatherer()

    async def main():
        async with gathering(handler) as (server, one, _):
            before = server.stats().harvests
            await asyncio.sleep(0.1)
            assert server.stats().harvests < before + 10  # ends of slices, no loop
            one.sendall(b"b\n")
            await until(lambda: server.stats().messages_in == 2)

    loop.run(main())


def test_enough_messages_end_the_gathering(loop):
    handler, sizes = gatherer(3)

    async def main():
        async with gathering(handler) as (_, one, two):
            one.sendall(b"b\n")
            two.sendall(b"c\n")
            assert await recv(one, 4) == b"a\nb\n"
            assert await recv(two, 2) == b"c\n"

    loop.run(main())
    assert sizes == [3]


def test_a_row_from_each_connection_ends_the_gathering(loop):
    handler, sizes = gatherer()

    async def main():
        async with gathering(handler) as (_, one, two):
            two.sendall(b"b\n")
            assert await recv(one, 2) == b"a\n"
            assert await recv(two, 2) == b"b\n"
            for _ in range(5):  # peers that wait for their answers
                for sock in one, two:
                    sock.sendall(b"on\n")
                for sock in one, two:
                    assert await recv(sock, 3) == b"on\n"

    loop.run(main())
    assert sizes[0] == 2


@pytest.mark.parametrize("how", ["wakeup", "call", "timer"])
def test_what_wakes_the_mux_ends_the_gathering(loop, how):
    handler, sizes = gatherer()
    ran = []

    class Started:
        def __init__(self):
            self.received = handler

        def started(self, mux):
            self.mux = mux

    started = Started()

    async def main():
        async with gathering(started) as (server, one, _):
            await at_rest(server)
            mux = started.mux
            if how == "wakeup":
                threading.Thread(target=mux.wakeup).start()
            elif how == "call":
                call = mux.call_threadsafe
                threading.Thread(target=call, args=(ran.append, 1)).start()
            else:
                mux.call_later(0.02, ran.append, 1)
            assert await recv(one, 2) == b"a\n"
            assert ran == ([] if how == "wakeup" else [1])

    loop.run(main())
    assert sizes == [1]


def test_what_was_sent_from_elsewhere_leaves_while_a_batch_gathers(loop):
    handler, sizes = gatherer()
    opened = []

    class Opened:
        received = staticmethod(handler)

        def opened(self, conn):
            opened.append(conn)

    async def main():
        async with gathering(Opened()) as (_, one, two):
            for conn in opened:
                conn.send(b"news")
            for sock in one, two:
                assert await recv(sock, 5) == b"news\n"
            assert sizes == []

    loop.run(main())


def test_another_handler_is_served_while_a_batch_gathers(loop):
    handler, sizes = gatherer()

    async def main():
        places = [
            pymux.Endpoint(LOCAL, handler=handler, framing=LINES),
            pymux.Endpoint(LOCAL, handler=echo),
        ]
        async with pymux.aio.serve(None, places) as server:
            first, second = server.addresses
            with util.connect(first) as one, util.connect(first):
                await until(lambda: server.stats().connections == 2)
                one.sendall(b"a\n")
                await until(lambda: server.stats().messages_in == 1)
                await at_rest(server)
                assert await ask(second, b"hello", 5) == b"hello"
                assert await recv(one, 2) == b"a\n"

    loop.run(main())
    assert sizes == [1]


def test_a_new_connection_brings_its_row_while_a_batch_gathers(loop):
    handler, sizes = gatherer(2)

    async def main():
        async with gathering(handler) as (server, one, _):
            assert await ask(server.address, b"b\n", 2) == b"b\n"
            assert await recv(one, 2) == b"a\n"

    loop.run(main())
    assert sizes == [2]


def test_a_peer_that_leaves_is_noticed_while_a_batch_gathers(loop):
    handler, sizes = gatherer()

    async def main():
        async with gathering(handler) as (_, one, two):
            two.close()  # now each connection has a row
            assert await recv(one, 2) == b"a\n"

    loop.run(main())
    assert sizes == [1]


def test_an_idle_peer_ends_in_time_while_a_batch_gathers(loop):
    handler, _ = gatherer()

    async def main():
        limits = pymux.Limits(idle_timeout=0.05)
        async with gathering(handler, limits=limits) as (server, _, two):
            assert await recv(two, 0) == b""
            await until(lambda: server.stats().closed)

    loop.run(main())


def test_a_signal_instead_of_the_end_of_a_slice_costs_max_delay_at_most(loop):
    handler, sizes = gatherer(max_delay=0.1)
    error = LookupError("a signal's handler")

    async def main():
        with inside.slice_is_over_raises(error) as slices:
            async with gathering(handler) as (_, one, _two):
                assert await recv(one, 2) == b"a\n"
            assert slices.called

    loop.run(main())
    assert sizes == [1]
    assert set(loop.errors) == {error}
    loop.errors.clear()


def test_a_stop_answers_what_has_gathered(loop):
    handler, sizes = gatherer()

    async def main():
        async with gathering(handler) as (server, one, _):
            one.sendall(b"b\n")
            await server.stop()
            assert await recv(one, 4) == b"a\nb\n"

    loop.run(main())
    assert sizes == [2]


def test_a_mux_that_closes_while_a_batch_gathers_leaves_the_loop(loop):
    seen = []

    class Closing:
        @pymux.batched(min_messages=1000, max_delay=LONG)
        def received(self, batch):
            seen.append(len(batch))

        def opened(self, conn):
            self.mux = conn.mux

    closing = Closing()

    async def main():
        async with gathering(closing) as (server, _, _two):
            await at_rest(server)
            closing.mux.close()
            await asyncio.sleep(0)

    loop.run(main())
    assert seen == []


def test_connections_end_with_a_loop_that_closes_while_a_batch_gathers(loop):
    handler, _ = gatherer()
    socks = []

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        socks.extend(util.connect(server.address) for _ in range(2))
        await until(lambda: server.stats().connections == 2)
        await until(lambda: all(map(util.is_up, socks)))
        socks[0].sendall(b"a\n")
        await until(lambda: server.stats().messages_in == 1)

    with pytest.warns(ResourceWarning):
        run_bare(loop, main())
    for sock in socks:
        with sock, contextlib.suppress(ConnectionResetError):
            assert util.recv_all(sock) == b""


def test_a_stop_waits_for_no_peer_that_left_while_a_batch_gathers(loop):
    """The answer meets a closed socket, and so may what says the end behind it."""
    handler, _ = gatherer()

    async def main():
        time = asyncio.get_running_loop().time
        async with gathering(handler, drain_timeout=20):
            begun = time()
        assert time() - begun < 10

    loop.run(main())
