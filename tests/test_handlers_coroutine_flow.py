"""Coroutine handlers whose peers are slow, or lost: drain, backpressure, the errors."""

import contextlib
import errno
import socket
import threading
import time

import pytest

import pymux

from . import util

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


def test_drain_raises_when_the_end_waits_to_be_reported(backend, clock):
    """The stop is out of time in the turn that wakes the coroutine."""
    socks, raised = [], []
    connected = threading.Event()

    async def handler(conn):
        if not socks:
            assert connected.wait(20)
            socks.append(util.connect(conn.local))
            server.stop(60)
            await conn.recv()
            return
        clock.advance(100)  # the time of the stop is over
        conn.send(bytes(16 << 20))
        try:
            await conn.drain()
        except pymux.ConnectionClosed as error:
            raised.append(error.errno)

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address):
        connected.set()
        server.wait()
    socks[0].close()
    assert raised == [errno.ETIMEDOUT]


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


IDLE = pymux.Limits(high_water=20_000, low_water=5_000, idle_timeout=60)


def test_a_silent_peer_is_an_error_of_recv(backend, clock):
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
        util.wait_until(lambda: server.stats().connections)
        clock.advance(59, server)
        assert not caught
        clock.advance(2, server)
        util.wait_until(lambda: caught)
    assert caught == [errno.ETIMEDOUT]


def test_the_idle_clock_stands_still_while_messages_are_not_taken(backend, clock):
    gate = util.Gate()

    async def handler(conn):
        await gate.wait()
        size = 0
        while size < 30_000:
            size += len(await conn.recv())
        conn.send(b"all")

    with (
        util.serving(handler, backend, limits=IDLE) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(bytes(30_000))
        util.wait_until(lambda: server.stats().bytes_in >= IDLE.high_water)
        clock.advance(100, server)
        gate.open()
        assert util.recv_all(sock) == b"all"


# --- timeouts ------------------------------------------------------------------


def blocking(seen):
    """A handler that blocks the server for `block`, and else waits for a second
    message for a minute."""

    async def handler(conn):
        data = await conn.recv()
        if data == b"block":
            conn.send(b"blocking")
            conn.mux.call_later(0, time.sleep, 0.2)
            return
        conn.send(b"ready")
        try:
            seen.append(await conn.recv(timeout=60))
        except TimeoutError:
            seen.append(TimeoutError)

    return handler


@pytest.mark.parametrize("what", [b"in time\n", b"in ", b""])
def test_what_came_in_time_is_no_timeout(backend, clock, what):
    """A message, a half of one, the end: while the server was blocked."""
    seen = []
    with (
        util.serving(blocking(seen), backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"hello\n")
        assert util.recv_exactly(sock, 6) == b"ready\n"
        with util.held(server, lambda: clock.advance(61)):
            if what:
                sock.sendall(what)
            else:
                sock.shutdown(socket.SHUT_WR)
        util.wait_until(lambda: seen)
    assert seen == [b"in time" if b"\n" in what else None if not what else TimeoutError]


def test_what_came_in_time_is_no_timeout_behind_many_others(backend, clock):
    """It is not even read yet in the turn in which the time is over."""
    seen, total = [], 60

    async def handler(conn):
        await conn.recv()
        try:
            while (data := await conn.recv(timeout=60)) is not None:
                seen.append(len(data))
        except TimeoutError:
            seen.append("timeout")

    with util.serving(handler, backend, limits=SLACK) as server:
        socks = [util.connect(server.address) for _ in range(total)]
        for sock in socks:
            sock.sendall(b"x")
        util.wait_until(lambda: server.stats().messages_in == total)
        util.settle(server)
        with util.held(server, lambda: clock.advance(61)):
            for sock in socks:
                util.fill(sock, 120_000)
        util.wait_until(lambda: len(seen) >= total)
        util.settle(server)
        first = list(seen)
        for sock in socks:
            sock.close()
    assert sum(one for one in first if one != "timeout") >= total * 60_000


def test_recv_with_no_time_at_all_looks_once(backend):
    seen = []

    async def handler(conn):
        await conn.recv()
        sock.sendall(b"second\n")  # with the kernel now, and not received
        seen.append(await conn.recv(timeout=0))
        with contextlib.suppress(TimeoutError):
            seen.append(await conn.recv(timeout=0))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"first\n")
        assert util.recv_all(sock) == b""
    assert seen == [b"second"]


def test_a_flood_of_others_does_not_put_off_a_timeout(backend):
    over = []

    async def handler(conn):
        if await conn.recv() == b"flood":
            async for _ in conn:
                pass
        else:
            with contextlib.suppress(TimeoutError):
                await conn.recv(timeout=0.05)
            over.append(True)

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as flood,
        util.connect(server.address) as waits,
    ):
        flood.sendall(b"flood\n")
        waits.sendall(b"wait\n")
        deadline = time.monotonic() + 10
        while not over:
            assert time.monotonic() < deadline
            flood.sendall(b"x" * 50 + b"\n" + b"\n" * 5000)


def test_a_peer_that_sends_piece_by_piece_does_not_put_off_a_timeout(backend):
    over = []

    async def handler(conn):
        await conn.recv()
        with contextlib.suppress(TimeoutError):
            await conn.recv(timeout=0.1)
        over.append(True)

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x\n")
        deadline = time.monotonic() + 10
        while not over:
            assert time.monotonic() < deadline
            sock.sendall(b"x")


# --- turns ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 40])
@pytest.mark.parametrize("peer", ["reads", "resets"])
def test_a_stream_that_drains_lets_the_others_be_served(backend, size, peer):
    ends = []

    async def handler(conn):
        if await conn.recv() == b"ask":
            conn.send(b"answer")
            return
        try:
            while not over:
                conn.send(b"x" * size)
                await conn.drain()
        except pymux.ConnectionClosed as error:
            ends.append(error.errno)
            raise

    over = []
    with util.serving(handler, backend, drain_timeout=0) as server:
        reader = util.connect(server.address)
        try:
            reader.sendall(b"stream")
            util.recv_exactly(reader, 100)
            if peer == "resets":
                util.reset(reader)
                util.wait_until(lambda: ends)
            for _ in range(3):
                assert util.everything(server.address, b"ask") == b"answer"
            assert ends == ([errno.ECONNRESET] if peer == "resets" else [])
        finally:
            over.append(True)
            reader.close()


def test_drain_waits_a_turn_after_so_much_that_the_log_was_handed_over(backend):
    turns = []

    async def handler(conn):
        for many in (8, 9000):
            for _ in range(many):
                conn.send(b"")
            before = conn.mux.stats().harvests
            await conn.drain()
            turns.append(conn.mux.stats().harvests - before)

    with util.serving(handler, backend, framing=LINES, limits=SLACK) as server:
        assert len(util.everything(server.address, b"")) == 9008
    assert turns == [0, 1]
