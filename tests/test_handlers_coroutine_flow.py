"""Coroutine handlers whose peers are slow, or lost: drain, backpressure, the errors."""

import errno
import socket

import pytest

import pymux
from tests import util

LINES = pymux.Lines()
FEW = pymux.Limits(high_water=20_000, low_water=5_000)
# So much that what a test sends stops neither side.
SLACK = pymux.Limits(high_water=1 << 30, max_output=1 << 30)


@pytest.mark.parametrize("how", ["recv", "iteration", "drain"])
def test_a_lost_connection_delivers_its_messages_then_raises(backend, how):
    gate, got, caught = util.Gate(), [], []

    async def handler(conn):
        conn.send(b"x" * (8 << 20))
        await gate.wait()
        try:
            if how == "iteration":
                async for data in conn:
                    got.append(data)
            else:
                got.extend([await conn.recv(), await conn.recv()])
                await getattr(conn, how)()
        except pymux.ConnectionClosed as error:
            caught.append(error)
            raise

    with util.serving(handler, backend, framing=LINES, limits=SLACK) as server:
        sock = util.connect(server.address)
        sock.sendall(b"a\nb\n")
        util.wait_until(lambda: server.stats().messages_in == 2)
        util.reset(sock)
        util.settle(server)
        gate.open()
        util.wait_until(lambda: server.stats().connections == 0)
    assert got == [b"a", b"b"]
    (error,) = caught
    assert isinstance(error, ConnectionError)
    assert error.errno == errno.ECONNRESET
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == errno.ECONNRESET


def test_recv_that_waits_raises_when_the_connection_is_lost(backend):
    caught = []

    async def handler(conn):
        conn.send(b"ready")
        try:
            await conn.recv()
        except pymux.ConnectionClosed as error:
            caught.append(error.errno)

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        assert util.recv_exactly(sock, 5) == b"ready"
        util.reset(sock)
        util.wait_until(lambda: caught)
    assert caught == [errno.ECONNRESET]


def test_drain_that_waits_raises_when_the_connection_is_lost(backend):
    caught = []

    async def handler(conn):
        conn.send(b"x" * (8 << 20))
        try:
            await conn.drain()
        except pymux.ConnectionClosed as error:
            caught.append(error.errno)

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: server.stats().bytes_out > 0)
        util.settle(server)
        util.reset(sock)
        util.wait_until(lambda: caught)
    assert caught == [errno.ECONNRESET]


def test_drain_returns_at_once_up_to_high_water(backend):
    queued = []

    async def handler(conn):
        conn.send(b"x" * FEW.high_water)
        before = conn.mux.stats().harvests
        await conn.drain()
        queued.append(conn.mux.stats().harvests - before)
        await conn.recv()

    with util.serving(handler, backend, limits=FEW) as server:
        assert len(util.everything(server.address, b"")) == FEW.high_water
    assert queued == [0]


def test_drain_waits_for_low_water(backend, tmp_path):
    queued = []

    async def handler(conn):
        conn.send(b"x" * (1 << 20))
        assert conn.queued > FEW.high_water
        await conn.drain()
        queued.append(conn.queued)

    with (
        util.serving(handler, backend, tmp_path / "s", limits=FEW) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().bytes_out > 0)
        util.settle(server)
        assert queued == []
        assert len(util.recv_all(sock)) == 1 << 20
    assert queued[0] <= FEW.low_water


def test_a_sender_that_drains_never_holds_much_more_than_high_water(backend, tmp_path):
    most = []

    async def handler(conn):
        for _ in range(500):
            conn.send(b"x" * 5000)
            most.append(conn.queued)
            await conn.drain()

    with (
        util.serving(handler, backend, tmp_path / "s", limits=FEW) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().queued > FEW.high_water)
        assert len(util.recv_all(sock)) == 500 * 5000
    assert max(most) <= FEW.high_water + 5000


def test_messages_not_taken_pause_reading(backend, tmp_path):
    gate, total = util.Gate(), 8 << 20

    async def handler(conn):
        await gate.wait()
        size = 0
        async for data in conn:
            size += len(data)
        conn.send(b"%d" % size)

    with (
        util.serving(handler, backend, tmp_path / "s", limits=FEW) as server,
        util.connect(server.address) as sock,
    ):
        sent = util.fill(sock, total)
        while True:
            util.settle(server)
            more = util.fill(sock, total - sent)
            if not more:
                break
            sent += more
        # A harvest's read over high water, and what the kernel holds.
        assert server.stats().bytes_in <= FEW.high_water + (256 << 10)
        assert sent < total
        gate.open()
        sock.sendall(bytes(total - sent))
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b"%d" % total


def test_many_empty_messages_not_taken_pause_reading_too(backend, tmp_path):
    """Each counts 64 bytes more than its length."""
    gate, total = util.Gate(), 1 << 18

    async def handler(conn):
        await gate.wait()
        count = 0
        async for _data in conn:
            count += 1
        conn.send(b"%d" % count)

    limits = pymux.Limits(high_water=6400, low_water=640)
    with (
        util.serving(
            handler, backend, tmp_path / "s", framing=LINES, limits=limits
        ) as server,
        util.connect(server.address) as sock,
    ):
        sent = util.fill(sock, total, b"\n")
        util.settle(server)
        # One harvest's messages at most beyond the hundred that reach high water.
        assert 100 <= server.stats().messages_in <= 100 + 4096
        gate.open()
        sock.sendall(b"\n" * (total - sent))
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b"%d\n" % total


def test_connection_closed_that_escapes_is_not_logged(backend):
    async def handler(conn):
        while True:
            conn.send(b"x" * 100_000)
            await conn.drain()

    with util.serving(handler, backend) as server:
        for _ in range(3):
            sock = util.connect(server.address)
            util.recv_exactly(sock, 1000)
            util.reset(sock)
        util.wait_until(lambda: server.stats().connections == 0)
        assert server.stats().accepted == 3


IDLE = pymux.Limits(high_water=20_000, low_water=5_000, idle_timeout=0.05)


def test_a_silent_peer_is_an_error_of_recv(backend):
    caught = []

    async def handler(conn):
        try:
            await conn.recv()
        except pymux.ConnectionClosed as error:
            caught.append(error.errno)

    with (
        util.serving(handler, backend, limits=IDLE) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: caught)
    assert caught == [errno.ETIMEDOUT]


def test_the_idle_clock_stands_still_while_messages_are_not_taken(backend):
    async def handler(conn):
        await pymux.sleep(0.2)
        size = 0
        while size < 30_000:
            size += len(await conn.recv())
        conn.send(b"all")

    with (
        util.serving(handler, backend, limits=IDLE) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(bytes(30_000))
        assert util.recv_all(sock) == b"all"
