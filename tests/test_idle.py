"""`idle_timeout`: whose clock runs, and whose stands while the peer waits for us.

No test counts time: a peer is spared for as long as it takes to end three silent
ones, one after the other.
"""

import asyncio
import errno
import threading
import time

import pytest

import pymux

from . import util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
BRIEF = pymux.Limits(idle_timeout=0.05)

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def outlast(address):
    """Return when silent peers have been ended for their silence, in turn."""
    for _ in range(3):
        with util.connect(address) as silent:
            assert util.until_end(silent) == (b"", errno.ECONNRESET)


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


def spared(address, work, sent):
    """Speak, and be answered one by one, each in more than the idle time."""
    with util.connect(address) as sock:
        sock.sendall(b"".join(sent))
        for data in sent:
            assert work.begun.acquire(timeout=20)
            outlast(address)
            work.over.release()
            assert util.recv_exactly(sock, len(data)) == data.upper()
        return util.until_end(sock)


@pytest.mark.parametrize("make", CHECKED)
def test_a_coroutine_at_its_message_keeps_its_peer(backend, make):
    work = Work()
    with util.serving(make(work), backend, framing=LINES, limits=BRIEF) as server:
        end = spared(server.address, work, [b"one\n", b"two\n", b"three\n"])
        assert end == (b"", errno.ECONNRESET)  # nothing was left to do


@guests
@pytest.mark.parametrize("make", CHECKED)
def test_a_task_at_its_message_keeps_its_peer(loop, make):
    work = Work()

    async def main():
        async with pymux.aio.serve(
            make(work), LOCAL, framing=LINES, limits=BRIEF
        ) as server:
            sent = [b"one\n", b"two\n", b"three\n"]
            end = await asyncio.to_thread(spared, server.address, work, sent)
            assert end == (b"", errno.ECONNRESET)

    loop.run(main())


def test_a_coroutine_may_take_several_messages_first(backend):
    work = Work()
    handler = that_collects(work)
    with (
        util.serving(handler, backend, framing=LINES, limits=BRIEF) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\ntwo\nthree\n")
        assert work.begun.acquire(timeout=20)
        outlast(server.address)
        work.over.release()
        assert util.recv_exactly(sock, 14) == b"ONE TWO THREE\n"
        assert util.until_end(sock) == (b"", errno.ECONNRESET)


def test_a_message_that_comes_meanwhile_waits_for_us_too(backend):
    work = Work()
    handler = in_coroutine(work)
    with (
        util.serving(handler, backend, framing=LINES, limits=BRIEF) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\n")
        assert work.begun.acquire(timeout=20)
        outlast(server.address)
        sock.sendall(b"two\n")
        outlast(server.address)
        work.over.release()
        assert util.recv_exactly(sock, 4) == b"ONE\n"
        assert work.begun.acquire(timeout=20)
        outlast(server.address)
        work.over.release()
        assert util.recv_exactly(sock, 4) == b"TWO\n"
        assert util.until_end(sock) == (b"", errno.ECONNRESET)


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
def test_the_clock_runs_while_the_peer_could_act(backend, handler, said):
    with (
        util.serving(
            handler, backend, framing=LINES, limits=BRIEF, drain_timeout=0
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(said)
        util.wait_until(lambda: server.stats().closed == 1)
        assert server.stats().reset == 1


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
def test_the_clock_runs_inside_asyncio_too(loop, handler, said):
    def peer(server):
        with util.connect(server.address) as sock:
            sock.sendall(said)
            util.wait_until(lambda: server.stats().closed == 1)
            assert server.stats().reset == 1

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, framing=LINES, limits=BRIEF, drain_timeout=0
        ) as server:
            await asyncio.to_thread(peer, server)

    loop.run(main())


@guests
def test_a_task_that_has_dialled_is_not_cut_off_at_its_message(loop):
    async def main():
        done = asyncio.Event()

        async def handler(conn):
            conn.send(b"work on this")
            if await conn.recv() == b"done":
                done.set()

        async with pymux.aio.serve(handler, LOCAL) as server:
            conn = await pymux.aio.connect(server.address, limits=BRIEF)
            await conn.recv()
            for _ in range(3):  # others who have answered are idle meanwhile
                other = await pymux.aio.connect(server.address, limits=BRIEF)
                await other.recv()
                other.send(b"not yet")
                await other.wait_closed()
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


def test_those_whom_a_turn_does_not_reach_are_not_idle(backend):
    # Each turn takes longer than the timeout, and one message.
    mux = pymux.Mux(backend, max_messages=1)
    listener = mux.listen(LOCAL, limits=BRIEF)
    peers = [util.connect(listener.address) for _ in range(6)]
    try:
        acc = util.harvest_until(mux, lambda acc: len(acc.opened) == len(peers))
        for peer in peers:
            peer.sendall(b"in time")
        with util.serving(lambda conn, data: None, limits=BRIEF) as clock:
            while len(acc.messages) < len(peers):
                outlast(clock.address)
                acc.add(mux.harvest(1))
                heard = {conn for conn, _ in acc.messages}
                assert {conn for conn, _ in acc.closed} <= heard
        assert {data for _, data in acc.messages} == {b"in time"}
    finally:
        for peer in peers:
            peer.close()
        mux.close()


def test_the_time_that_a_batch_takes_is_not_its_peers(mux):
    # Nothing is unread, and nothing is answered: the peer has waited all the same.
    conn, peer = util.pair(mux, LINES, limits=BRIEF)
    with peer, util.serving(lambda conn, data: None, limits=BRIEF) as clock:
        peer.sendall(b"x\n")
        acc = util.harvest_until(mux, lambda acc: acc.messages or acc.closed)
        outlast(clock.address)
        acc.add(mux.harvest(0))
        assert not acc.closed
        assert acc.messages == [(conn, b"x")]


def test_bytes_that_leave_during_a_pause_start_the_idle_clock_again(mux):
    idle = 0.16
    conn, peer = util.pair(mux, limits=pymux.Limits(idle_timeout=idle))
    with peer:
        mux.harvest(0.1)
        conn.pause()
        mux.harvest(0)
        conn.send(b"x")
        mux.harvest(0)
        assert util.recv_exactly(peer, 1) == b"x"
        conn.resume()
        start = time.monotonic()
        acc = util.harvest_until(mux, lambda acc: acc.closed)
        assert time.monotonic() - start > idle - 0.02
    assert acc.errno(conn) == errno.ETIMEDOUT
