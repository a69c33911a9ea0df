"""What had arrived when the time of a `timeout` block was over, and what had not."""

import contextlib
import threading

import pytest

import pymux

from . import util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


@pytest.mark.parametrize("pieces", [1, 3])
def test_no_block_beats_messages_that_had_arrived(backend, clock, pieces):
    entered = threading.Event()

    async def handler(conn):
        async with pymux.timeout(60):
            entered.set()
            got = [await conn.recv() for _ in range(pieces)]
        conn.send(b"".join(got))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        assert entered.wait(10)
        with util.held(server):
            sock.sendall(b"x\n" * pieces)
            clock.advance(100)
        assert util.recv_all(sock) == b"x" * pieces + b"\n"


async def a_block(conn):
    async with pymux.timeout(60):
        return await conn.recv()


async def a_block_with_a_limited_recv(conn):
    async with pymux.timeout(60):
        return await conn.recv(timeout=60)


async def two_blocks(conn):
    async with pymux.timeout(60), pymux.timeout(60):
        return await conn.recv()


@pytest.mark.parametrize("receive", [a_block, a_block_with_a_limited_recv, two_blocks])
def test_a_message_that_takes_several_turns_to_read_beats_a_block(
    backend, clock, receive
):
    size, told = 60000, []

    async def handler(conn):
        told.append(None)
        told.append(await receive(conn))

    with pymux.Mux(backend, arena_size=4096) as mux:
        listener = mux.listen(LOCAL, framing=pymux.Fixed(size), handler=handler)
        with util.connect(listener.address) as sock:
            util.harvest_until(mux, lambda acc: told)
            sock.sendall(bytes(size))
            clock.advance(61)
            util.harvest_until(mux, lambda acc: len(told) == 2)
    assert told == [None, bytes(size)]


def test_a_block_that_a_message_ends_in_its_last_turn_is_over(backend, clock):
    told = []

    async def handler(conn):
        told.append(None)
        async with pymux.timeout(60):
            told.append(await conn.recv())
        told.append(await conn.recv())

    with pymux.Mux(backend) as mux:
        listener = mux.listen(LOCAL, framing=LINES, handler=handler)
        with util.connect(listener.address) as sock:
            util.harvest_until(mux, lambda acc: told)
            clock.advance(61)
            mux.harvest(0)  # the time is over: one more turn
            sock.sendall(b"a\n")
            util.harvest_until(mux, lambda acc: len(told) == 2)
            sock.sendall(b"b\n")
            util.harvest_until(mux, lambda acc: len(told) == 3)
    assert told == [None, b"a", b"b"]


def test_a_peer_that_sends_without_a_pause_holds_no_block_open(backend, clock):
    taken, over = [], threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                async for _ in conn:
                    taken.append(True)
        over.set()
        conn.abort()

    def flood(sock):
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"x\n" * 10000)

    with util.serving(handler, backend, framing=LINES) as server:
        sock = util.connect(server.address)
        peer = threading.Thread(target=flood, args=(sock,))
        peer.start()
        util.wait_until(lambda: taken)
        clock.advance(61)
        assert over.wait(10)
        peer.join()
        sock.close()


def test_what_a_block_did_not_receive_stays_for_the_next_recv(backend, clock):
    entered = threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                entered.set()
                await pymux.sleep(100)
        conn.send(await conn.recv())
        conn.send(await conn.recv())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        assert entered.wait(10)
        sock.sendall(b"kept\n")
        util.wait_until(lambda: server.stats().messages_in == 1)
        clock.advance(61, server)
        assert util.recv_exactly(sock, 5) == b"kept\n"
        clock.advance(100, server)  # the sleep does not end the recv
        sock.sendall(b"later\n")
        assert util.recv_all(sock) == b"later\n"
