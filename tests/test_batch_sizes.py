"""How much a batch holds: `arena_size` and `max_messages` of servers."""

import asyncio
import contextlib
import threading

import pytest

import pymux

from . import util

HERE = ("127.0.0.1", 0)
LARGE = 100_000
PEERS = 16
FRAMING = pymux.LengthPrefix(4, max_size=LARGE)
LONG = 30


def frame(letter):
    return LARGE.to_bytes(4, "big") + bytes([letter]) * LARGE


@contextlib.contextmanager
def senders(address):
    """Clients that each send one large message, all at a time."""
    socks = [util.connect(address) for _ in range(PEERS)]
    threads = [
        threading.Thread(target=sock.sendall, args=(frame(k),))
        for k, sock in enumerate(socks)
    ]
    with contextlib.ExitStack() as stack:
        for sock in socks:
            stack.enter_context(sock)
        for thread in threads:
            thread.start()
        yield socks
        for thread in threads:
            thread.join()


def gatherer(min_messages, max_delay=LONG):
    """A handler, and the sizes of its batches."""
    sizes = []

    @pymux.batched(min_messages=min_messages, max_delay=max_delay)
    def handler(batch):
        sizes.append(len(batch))
        assert all(len(data) == LARGE for data in batch.messages)
        batch.reply([data[:1] for data in batch.messages])

    return handler, sizes


ANSWER = (1).to_bytes(4, "big")


def test_large_messages_of_many_connections_are_one_batch(backend):
    handler, sizes = gatherer(PEERS)
    with (
        util.serving(handler, backend, framing=FRAMING, arena_size=4 << 20) as server,
        senders(server.address) as socks,
    ):
        for k, sock in enumerate(socks):
            assert util.recv_exactly(sock, 5) == ANSWER + bytes([k])
    assert sizes == [PEERS]


def test_an_arena_bounds_the_large_messages_of_a_batch(backend):
    handler, sizes = gatherer(PEERS, 0.05)
    with (
        util.serving(handler, backend, framing=FRAMING, arena_size=450_000) as server,
        senders(server.address) as socks,
    ):
        for k, sock in enumerate(socks):
            assert util.recv_exactly(sock, 5) == ANSWER + bytes([k])
    assert sum(sizes) == PEERS
    assert max(sizes) <= 4


def test_a_batch_has_no_more_than_max_messages(backend):
    sizes = []

    @pymux.batched
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    lines = b"x\n" * 100
    with util.serving(
        handler, backend, framing=pymux.Lines(), max_messages=7
    ) as server:
        assert util.exchange(server.address, lines, len(lines)) == lines
    assert sum(sizes) == 100
    assert max(sizes) == 7


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_large_messages_gather_in_asyncio_too(loop):
    handler, sizes = gatherer(PEERS)

    async def main():
        async with pymux.aio.serve(
            handler, HERE, framing=FRAMING, arena_size=4 << 20
        ) as server:
            got = await asyncio.to_thread(collect, server.address)
        assert got == [ANSWER + bytes([k]) for k in range(PEERS)]

    def collect(address):
        with senders(address) as socks:
            return [util.recv_exactly(sock, 5) for sock in socks]

    loop.run(main())
    assert sizes == [PEERS]


@pytest.mark.parametrize("name", ["arena_size", "max_messages"])
@pytest.mark.parametrize("make", [pymux.Server, pymux.aio.serve])
def test_sizes_are_checked_when_a_server_is_made(make, name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        make(print, HERE, **{name: 0})
    with pytest.raises(TypeError, match=f"{name} is '9'"):
        make(print, HERE, **{name: "9"})
