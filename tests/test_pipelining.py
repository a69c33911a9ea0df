"""Peers that ask for much at once: their answers are owed, whatever their size."""

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

import pymux

from . import util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
ANSWER = b"v" * 8191  # with its delimiter 8 KiB,
COUNT = 3000  # so together more than the default max_output
LARGE = b"w" * 20_479  # handed over while the handler runs

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def returned(conn, data):
    return data and ANSWER


def sent(conn, data):
    conn.send(ANSWER)


def large(conn, data):
    return LARGE


def in_halves(conn, data):
    conn.send(ANSWER[:4000])
    return ANSWER[4001:]


async def coroutine(conn):
    async for _ in conn:
        conn.send(ANSWER)


async def by_recv(conn):
    while await conn.recv() is not None:
        conn.send(ANSWER)


async def after_others(conn):
    # Most messages wait for it, and are answered in later turns.
    async for _ in conn:
        await pymux.sleep(0)
        conn.send(ANSWER)


async def in_pieces_after_others(conn):
    async for _ in conn:
        await pymux.sleep(0)
        conn.send(ANSWER[:4000])
        conn.send(ANSWER[4001:])


async def all_at_the_end(conn):
    for _ in range(COUNT):
        await conn.recv()
    await pymux.sleep(0)
    for _ in range(COUNT):
        conn.send(ANSWER)
    await conn.recv()


async def with_drain(conn):
    async for _ in conn:
        conn.send(ANSWER)
        await conn.drain()


@pymux.batched
def replies(batch):
    batch.reply([ANSWER] * len(batch))


@pymux.batched
def one_buffer(batch):
    size = len(ANSWER)
    batch.reply_data(ANSWER * len(batch), [k * size for k in range(len(batch) + 1)])


@pymux.batched
def sends(batch):
    for conn in batch.conns:
        conn.send(ANSWER)


class Object:
    def received(self, conn, data):
        conn.send(ANSWER)


class BatchedObject:
    @pymux.batched
    def received(self, batch):
        batch.reply([ANSWER] * len(batch))


HANDLERS = [
    returned,
    sent,
    large,
    in_halves,
    coroutine,
    by_recv,
    after_others,
    in_pieces_after_others,
    all_at_the_end,
    with_drain,
    replies,
    one_buffer,
    sends,
    Object(),
    BatchedObject(),
]


def name_of(handler):
    return getattr(handler, "__name__", type(handler).__name__)


def whole(handler):
    """Bytes of all the answers that a handler gives."""
    return COUNT * (len(LARGE if handler is large else ANSWER) + 1)


def ask(address, size):
    """What a peer gets that asks COUNT times in one breath, and reads."""
    with util.connect(address) as sock:
        sock.sendall(b"get\n" * COUNT)
        return len(util.recv_exactly(sock, size))


@pytest.mark.parametrize("handler", HANDLERS, ids=name_of)
def test_who_pipelines_and_reads_gets_every_answer(backend, handler):
    with util.serving(handler, backend, framing=LINES) as server:
        assert ask(server.address, whole(handler)) == whole(handler)
        assert server.stats().reset == 0


@guests
@pytest.mark.parametrize("handler", HANDLERS, ids=name_of)
def test_who_pipelines_gets_every_answer_inside_asyncio(loop, handler):
    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            got = await asyncio.to_thread(ask, server.address, whole(handler))
            assert got == whole(handler)
            assert server.stats().reset == 0

    loop.run(main())


def test_who_pipelines_to_a_mux_used_by_hand_gets_every_answer(mux):
    conn, peer = util.pair(mux, LINES)
    with peer:
        peer.sendall(b"get\n" * COUNT)
        acc = util.harvest_until(mux, lambda acc: len(acc.messages) == COUNT)
        assert not conn.queued
        batches = acc.messages
        # What it has been given in the last batch is answered by what follows.
        for _ in batches:
            conn.send(ANSWER)
        queued = conn.queued
        mux.harvest(0)
        assert not conn.closed
        assert queued > pymux.Limits().max_output


@pytest.mark.parametrize("form", util.FORMS)
def test_a_small_answer_goes_behind_one_that_is_over_the_limit(backend, form):
    limits = pymux.Limits(max_output=100_000)
    handler = util.in_form(form, lambda data: b"y" * int(data))
    with (
        util.serving(handler, backend, framing=LINES, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        with util.held(server):
            sock.sendall(b"20000000\n1\n1\n")
        assert util.recv_exactly(sock, 20_000_005) == b"y" * 20_000_000 + b"\ny\ny\n"


def test_no_more_is_read_while_answers_are_over_high_water(backend):
    limits = pymux.Limits(max_output=100_000)
    taken = []

    def handler(conn, data):
        taken.append(data)
        return b"y" * 8_000_000

    with (
        util.serving(handler, backend, framing=LINES, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"1\n")
        util.wait_until(lambda: taken)
        sock.sendall(b"2\n")
        util.settle(server)
        assert taken == [b"1"]
        assert server.stats().queued > 100_000
        assert util.recv_exactly(sock, 16_000_002).count(b"\n") == 2


def test_who_asks_on_and_never_reads_has_the_answers_to_one_batch_queued(backend):
    most = 4096  # messages of one batch
    answer = b"v" * 1023
    with (
        util.serving(lambda conn, data: answer, backend, framing=LINES) as server,
        util.connect(server.address) as deaf,
        util.connect(server.address) as other,
    ):
        sent = 0
        while filled := util.fill(deaf, 1 << 20, b"get\n"):
            sent += filled
            util.settle(server)
        assert sent > 8 * most
        assert server.stats().queued <= most * (len(answer) + 1) + 65_536
        other.sendall(b"and I\n")
        assert util.recv_exactly(other, 1024) == answer + b"\n"
        assert server.stats().reset == 0


def test_other_output_behind_answers_is_bounded(mux):
    conn, peer = util.pair(mux, limits=pymux.Limits(max_output=100_000))
    with peer:
        peer.sendall(b"x")
        util.harvest_until(mux, lambda acc: acc.messages)
        conn.send(b"y" * 8_000_000)
        conn.send(b"y" * 8_000_000)
        mux.harvest(0)
        assert conn.queued > 100_000
        conn.send(b"not asked for")
        acc = util.harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ENOBUFS


def test_a_slow_subscriber_is_ended_beside_one_that_reads(backend):
    limits = pymux.Limits(max_output=1_000_000)
    members = []

    async def handler(conn):
        async for data in conn:
            if data == b"join":
                members.append(conn)
            else:
                conn.mux.send_many(members, b"z" * 65_535)
                conn.send(b"done")

    with (
        util.serving(handler, backend, framing=LINES, limits=limits) as server,
        util.connect(server.address) as slow,
        util.connect(server.address) as talker,
    ):
        slow.sendall(b"join\n")
        util.wait_until(lambda: members)
        said = 0
        while server.stats().connections == 2:
            talker.sendall(b"say\n")
            assert util.recv_exactly(talker, 5) == b"done\n"
            said += 1
            assert said < 1000, "it takes for ever"
        assert util.until_end(slow)[1] == errno.ECONNRESET
        assert server.stats().queued == 0


def test_a_coroutine_that_streams_without_drain_is_bounded(backend):
    limits = pymux.Limits(max_output=1_000_000)
    queued = []

    async def handler(conn):
        await conn.recv()
        while True:
            conn.send(b"z" * 65_535)
            await pymux.sleep(0)
            queued.append(conn.queued)

    with (
        util.serving(handler, backend, framing=LINES, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"begin\n")
        util.wait_until(lambda: server.stats().closed == 1)
        assert max(queued) <= 1_000_000


def test_what_the_peer_has_taken_makes_room(mux):
    # The kernel is offered what is queued before a limit is judged.
    conn, peer = util.pair(mux, limits=pymux.Limits(max_output=9_000_000))
    with peer:
        conn.send(b"x" * 9_000_000)
        mux.harvest(0)
        queued = conn.queued
        assert queued
        util.recv_exactly(peer, 9_000_000 - queued)
        conn.send(b"y" * (9_000_000 - queued))
        conn.send(b"y")
        mux.harvest(0)
        assert not conn.closed
        with ThreadPoolExecutor() as pool:
            rest = pool.submit(util.recv_exactly, peer, 9_000_001)
            util.harvest_until(mux, lambda acc: rest.done())
            assert rest.result().strip(b"x") == b"y" * (9_000_001 - queued)
