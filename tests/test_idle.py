"""`idle_timeout`: whose clock runs, and whose stands while the peer waits for us.

The tests move the clock on. While a peer is to be spared, a silent one is ended: so
the time has gone by for the server.
"""

import asyncio
import errno
import threading

import pytest

import pymux

from . import util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
MINUTE = pymux.Limits(idle_timeout=60)
LONGER = 100  # seconds, more than the idle time

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


IDLE = (b"", errno.ECONNRESET)  # how the stream of a peer ends that was idle


def outlast(clock, server):
    """Let more than the idle time go by: a silent peer has been ended for it."""
    with util.connect(server.address) as silent:
        assert clock.outlast(silent, LONGER, server) == IDLE


def ended(clock, server):
    """Let time go by until the server has ended its only connection for idleness."""

    def over():
        clock.advance(LONGER, server)
        return server.stats().closed

    util.wait_until(over)
    assert server.stats().reset == 1


class Work:
    """What a handler is at, in a thread: each message, until the test lets it on."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.over = threading.Semaphore(0)

    def do(self, data):
        self.begun.release()
        assert self.over.acquire(timeout=20)
        return data.upper()


def in_coroutine(work):
    async def handler(conn):
        async for data in conn:
            conn.send(await pymux.to_thread(work.do, data))

    return handler


def with_drain(work):
    async def handler(conn):
        while (data := await conn.recv()) is not None:
            await conn.drain()
            conn.send(await pymux.to_thread(work.do, data))
            await conn.drain()

    return handler


def by_sleeping(work):
    async def handler(conn):
        async for data in conn:
            work.begun.release()
            while not work.over.acquire(blocking=False):
                await pymux.sleep(0.001)
            conn.send(data.upper())

    return handler


def that_collects(work):
    # One answer to all that was asked.
    async def handler(conn):
        messages = [await conn.recv() for _ in range(3)]
        conn.send(await pymux.to_thread(work.do, b" ".join(messages)))
        await conn.recv()

    return handler


CHECKED = [in_coroutine, with_drain, by_sleeping]


def spared(clock, server, work, sent):
    """Speak, and be answered one by one, each in more than the idle time. Then
    nothing is left to do for the server; how the stream ends."""
    with util.connect(server.address) as sock:
        sock.sendall(b"".join(sent))
        for data in sent:
            assert work.begun.acquire(timeout=20)
            outlast(clock, server)
            work.over.release()
            assert util.recv_exactly(sock, len(data)) == data.upper()
        return clock.outlast(sock, LONGER, server)


@pytest.mark.parametrize("make", CHECKED)
def test_a_coroutine_at_its_message_keeps_its_peer(backend, clock, make):
    work = Work()
    with util.serving(make(work), backend, framing=LINES, limits=MINUTE) as server:
        sent = [b"one\n", b"two\n", b"three\n"]
        assert spared(clock, server, work, sent) == IDLE


@guests
@pytest.mark.parametrize("make", CHECKED)
def test_a_task_at_its_message_keeps_its_peer(loop, clock, make):
    work = Work()

    async def main():
        async with pymux.aio.serve(
            make(work), LOCAL, framing=LINES, limits=MINUTE
        ) as server:
            sent = [b"one\n", b"two\n", b"three\n"]
            end = await asyncio.to_thread(spared, clock, server, work, sent)
            assert end == IDLE

    loop.run(main())


def test_a_coroutine_may_take_several_messages_first(backend, clock):
    work = Work()
    handler = that_collects(work)
    with (
        util.serving(handler, backend, framing=LINES, limits=MINUTE) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\ntwo\nthree\n")
        assert work.begun.acquire(timeout=20)
        outlast(clock, server)
        work.over.release()
        assert util.recv_exactly(sock, 14) == b"ONE TWO THREE\n"
        assert clock.outlast(sock, LONGER, server) == IDLE


def test_a_message_that_comes_meanwhile_waits_for_us_too(backend, clock):
    work = Work()
    handler = in_coroutine(work)
    with (
        util.serving(handler, backend, framing=LINES, limits=MINUTE) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\n")
        assert work.begun.acquire(timeout=20)
        outlast(clock, server)
        sock.sendall(b"two\n")
        outlast(clock, server)
        work.over.release()
        assert util.recv_exactly(sock, 4) == b"ONE\n"
        assert work.begun.acquire(timeout=20)
        outlast(clock, server)
        work.over.release()
        assert util.recv_exactly(sock, 4) == b"TWO\n"
        assert clock.outlast(sock, LONGER, server) == IDLE


async def answers_then_sleeps(conn):
    conn.send(await conn.recv())
    await pymux.sleep(1000)


async def takes_and_asks_for_more(conn):
    async for _ in conn:
        pass


async def never_asks(conn):
    await pymux.sleep(1000)


async def waits_for_its_peer_to_read(conn):
    await conn.recv()
    conn.send(b"x" * 20_000_000)
    await conn.drain()


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (answers_then_sleeps, b"one\n"),
        (takes_and_asks_for_more, b"one\ntwo\n"),
        (takes_and_asks_for_more, b""),
        (never_asks, b""),
        (waits_for_its_peer_to_read, b"one\n"),
    ],
)
def test_the_clock_runs_while_the_peer_could_act(backend, clock, handler, said):
    with (
        util.serving(
            handler, backend, framing=LINES, limits=MINUTE, drain_timeout=0
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(said)
        ended(clock, server)


@guests
@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (answers_then_sleeps, b"one\n"),
        (takes_and_asks_for_more, b"one\ntwo\n"),
        (never_asks, b""),
        (waits_for_its_peer_to_read, b"one\n"),
    ],
)
def test_the_clock_runs_inside_asyncio_too(loop, clock, handler, said):
    def peer(server):
        with util.connect(server.address) as sock:
            sock.sendall(said)
            ended(clock, server)

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, framing=LINES, limits=MINUTE, drain_timeout=0
        ) as server:
            await asyncio.to_thread(peer, server)

    loop.run(main())


@guests
def test_a_task_that_has_dialled_is_not_cut_off_at_its_message(loop, clock):
    async def main():
        done = asyncio.Event()

        async def handler(conn):
            conn.send(b"work on this")
            if await conn.recv() == b"done":
                done.set()

        async with pymux.aio.serve(handler, LOCAL) as server:
            conn = await pymux.aio.connect(server.address, limits=MINUTE)
            await conn.recv()
            # another that has answered is idle meanwhile
            other = await pymux.aio.connect(server.address, limits=MINUTE)
            await other.recv()
            other.send(b"not yet")
            closed = asyncio.ensure_future(other.wait_closed())
            while not closed.done():
                clock.advance(LONGER)
                conn.mux.wakeup()
                await asyncio.sleep(0.001)
            conn.send(b"done")
            await done.wait()
            conn.close()

    loop.run(main())


def test_who_reads_an_answer_slowly_is_not_idle(backend):
    """All of it is with the kernel at once, so that no send tells of the reader."""
    answer = b"x" * (2 << 20)
    limits = pymux.Limits(idle_timeout=1)
    with (
        util.serving(lambda conn, data: answer, backend, limits=limits) as server,
        util.connect(server.address) as sock,
        util.connect(server.address) as silent,
    ):
        sock.sendall(b"go")
        left = len(answer)
        over = threading.Event()

        def wait_for_two_ends():
            util.until_end(silent)
            with util.connect(server.address) as other:
                util.until_end(other)
            over.set()

        waiting = threading.Thread(target=wait_for_two_ends)
        waiting.start()
        while left:
            got = sock.recv(min(left, 16_384))
            assert got
            left -= len(got)
            over.wait(0.02)
        waiting.join()


def test_those_whom_a_turn_does_not_reach_are_not_idle(backend, clock):
    # Each turn takes one message, and the next comes after more than the idle time.
    mux = pymux.Mux(backend, max_messages=1)
    listener = mux.listen(LOCAL, limits=MINUTE)
    peers = [util.connect(listener.address) for _ in range(6)]
    try:
        acc = util.harvest_until(mux, lambda acc: len(acc.opened) == len(peers))
        for peer in peers:
            peer.sendall(b"in time")
        while len(acc.messages) < len(peers):
            clock.advance(LONGER)
            acc.add(mux.harvest(1))
            heard = {conn for conn, _ in acc.messages}
            assert {conn for conn, _ in acc.closed} <= heard
        assert {data for _, data in acc.messages} == {b"in time"}
    finally:
        for peer in peers:
            peer.close()
        mux.close()


def test_the_time_that_a_batch_takes_is_not_its_peers(mux, clock):
    # Nothing is unread, and nothing is answered: the peer has waited all the same.
    conn, peer = util.pair(mux, LINES, limits=MINUTE)
    with peer:
        peer.sendall(b"x\n")
        acc = util.harvest_until(mux, lambda acc: acc.messages or acc.closed)
        clock.advance(LONGER)
        acc.add(mux.harvest(0))
        assert not acc.closed
        assert acc.messages == [(conn, b"x")]


def test_bytes_that_leave_during_a_pause_start_the_idle_clock_again(mux, clock):
    conn, peer = util.pair(mux, limits=MINUTE)
    with peer:
        clock.advance(50, mux)
        conn.pause()
        mux.harvest(0)
        conn.send(b"x")
        mux.harvest(0)
        assert util.recv_exactly(peer, 1) == b"x"
        conn.resume()
        clock.advance(50, mux)
        util.assert_nothing(mux)
        clock.advance(20, mux)
        acc = util.harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ETIMEDOUT
