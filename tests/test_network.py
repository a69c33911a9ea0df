"""Across a real network: delay, loss, reordering, a small MTU, a link that is cut."""

import asyncio
import contextlib
import errno
import hashlib
import random
import socket
import struct
import sys
import threading
import time

import pytest

import pymux

from . import util
from .network import HOSTS, link

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

MIB = 1 << 20
WEATHER = {"delay": 0.002, "loss": 0.002, "reorder": 0.01}
LIMITS = pymux.Limits(keepalive=(1, 1, 1))
VANISHED = 2  # seconds, by these limits: 1 + 1 * 1
PATIENCE = 12  # seconds in which a loaded machine gets round to it


@contextlib.contextmanager
def serving(net, handler, backend, **options):
    """A server on host 1."""
    with net.inside(1):
        server = pymux.Server(handler, (HOSTS[1], 0), backend=backend, **options)
        server.start()
    try:
        yield server
    finally:
        server.stop(0)


@pytest.fixture(params=["veth", "relay"])
def calm(request):
    """A link of each kind on a fine day."""
    with link(request.param) as net:
        yield net


@pytest.fixture
def silence():
    """A link that loses everything in silence when it is cut."""
    with link("relay") as net:
        yield net


@pytest.fixture(params=["veth", "relay"])
def rough(request):
    """A link of each kind with delay, loss, reordering and a small MTU."""
    with link(request.param, mtu=600, **WEATHER) as net:
        yield net


def send_all(sock, data):
    """In a thread: send everything, and the end."""

    def run():
        with contextlib.suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def both_ways(net, server, data):
    """What comes back for data, by a socket that sends and reads at once."""
    with net.connect(server.address) as sock:
        sender = send_all(sock, data)
        got = util.recv_all(sock)
        sender.join()
    return got


# -- weather -----------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_every_client_of_an_echo_gets_its_bytes_back_in_bad_weather(rough, backend):
    rng = random.Random(1)
    streams = [rng.randbytes(rng.randrange(1, 60_000)) for _ in range(20)]
    with serving(rough, lambda conn, data: data, backend) as server:
        socks = [rough.connect(server.address) for _ in streams]
        with contextlib.ExitStack() as stack:
            for sock in socks:
                stack.enter_context(sock)
            senders = [send_all(*pair) for pair in zip(socks, streams)]
            assert [util.recv_all(sock) for sock in socks] == streams
            for sender in senders:
                sender.join()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", ["function", "coroutine", "batch"])
def test_pipelined_lines_are_answered_in_order_in_bad_weather(rough, form):
    rng = random.Random(2)
    text = [b"%d %s" % (k, b"x" * rng.randrange(200)) for k in range(10_000)]
    handler = util.in_form(form, bytes.upper)
    with serving(rough, handler, None, framing=pymux.Lines()) as server:
        got = both_ways(rough, server, b"\n".join(text) + b"\n")
    assert got.upper() == got
    assert got.split() == b"\n".join(text).upper().split()


@pytest.mark.timeout(300)
def test_64_mib_each_way_arrive_whole_in_bad_weather(rough):
    data = random.Random(3).randbytes(64 * MIB)
    with serving(rough, lambda conn, data: data, None) as server:
        got = both_ways(rough, server, data)
    assert len(got) == len(data)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


# -- a link that is cut ------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_stream_goes_on_where_it_was_when_a_cut_link_is_mended(calm, backend):
    data = random.Random(4).randbytes(32 * MIB)
    with (
        serving(calm, lambda conn, data: data, backend) as server,
        calm.connect(server.address) as sock,
    ):
        sender = send_all(sock, data)
        got = bytearray(util.recv_exactly(sock, MIB))
        calm.cut()
        settled = []

        def nothing_moves():
            settled.append(server.stats().bytes_in)
            time.sleep(0.05)
            return len(settled) > 5 and settled[-1] == settled[-5]

        util.wait_until(nothing_moves)
        assert settled[-1] < len(data)
        calm.mend()
        got += util.recv_all(sock)
        sender.join()
        assert bytes(got) == data
        assert server.stats().accepted == 1


# -- a host that vanishes ----------------------------------------------------------


def leave(sock):
    """Close a socket whose host is cut off, without a word."""
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


@pytest.mark.parametrize("state", ["silent", "unacknowledged", "paused", "stuck"])
def test_a_peer_whose_host_vanished_ends_with_etimedout(silence, backend, state):
    handler = util.Ends(lambda data: data)
    with serving(silence, handler, backend, limits=LIMITS) as server:
        sock = silence.connect(server.address)
        sock.sendall(b"hello")
        assert util.recv_exactly(sock, 5) == b"hello"
        (conn,) = handler.open
        if state == "paused":
            util.in_server(server, lambda mux: conn.pause())
        silence.cut()
        if state == "unacknowledged":
            util.in_server(server, lambda mux: conn.send(b"are you there?"))
        elif state == "stuck":
            util.in_server(server, lambda mux: conn.send(b"x" * 8_000_000))
        util.wait_until(lambda: handler.ended, VANISHED + PATIENCE)
        assert handler.errors() == [errno.ETIMEDOUT]
        assert isinstance(handler.ended[0][1], TimeoutError)
        leave(sock)


def test_who_finds_no_route_to_a_vanished_host_ends_with_etimedout_too():
    # What a neighbour's silence makes of it: EHOSTUNREACH, when the time has run out.
    handler = util.Ends(lambda data: data)
    limits = pymux.Limits(keepalive=(1, 1, 5))  # ARP gives up after 3 seconds
    with (
        link("veth") as net,
        serving(net, handler, None, limits=limits) as server,
    ):
        sock = net.connect(server.address)
        sock.sendall(b"hello")
        assert util.recv_exactly(sock, 5) == b"hello"
        net.on(0, "addr", "flush", "dev", net.devices[0])
        net.on(1, "neigh", "flush", "dev", net.devices[1])
        (conn,) = handler.open
        util.in_server(server, lambda mux: conn.send(b"are you there?"))
        util.wait_until(lambda: handler.ended, 6 + PATIENCE)
        assert handler.errors() == [errno.ETIMEDOUT]
        leave(sock)


def test_who_reads_nothing_for_as_long_ends_with_etimedout_too(silence):
    # So it is with TCP_USER_TIMEOUT: it bounds untaken bytes as well.
    handler = util.Ends(lambda data: b"x" * 8_000_000)
    with (
        serving(silence, handler, None, limits=LIMITS) as server,
        silence.connect(server.address) as sock,
    ):
        sock.sendall(b"much, please")
        util.wait_until(lambda: handler.ended, 3 * VANISHED + PATIENCE)
        assert handler.errors() == [errno.ETIMEDOUT]


def test_a_server_that_vanished_ends_an_outgoing_connection_with_etimedout(
    silence, backend
):
    with silence.inside(1):
        listener = socket.create_server((HOSTS[1], 0))
    with listener, pymux.Mux(backend) as mux:
        with silence.inside(0):
            conn = mux.connect(listener.getsockname(), limits=LIMITS)
        acc = util.harvest_until(mux, lambda acc: conn in acc.opened)
        peer, _ = listener.accept()
        silence.cut()
        util.harvest_until(
            mux, lambda acc: acc.is_closed(conn), VANISHED + PATIENCE, acc
        )
        assert acc.errno(conn) == errno.ETIMEDOUT
        leave(peer)


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_task_whose_server_vanished_is_told_with_etimedout(silence, loop):
    with silence.inside(1):
        listener = socket.create_server((HOSTS[1], 0))

    async def main():
        with silence.inside(0):
            dialled = asyncio.ensure_future(
                pymux.aio.connect(listener.getsockname(), limits=LIMITS)
            )
            await asyncio.sleep(0)  # in which it makes its socket
        conn = await dialled
        peer, _ = listener.accept()
        silence.cut()
        with pytest.raises(pymux.ConnectionClosed) as caught:
            await conn.recv(VANISHED + PATIENCE)
        assert caught.value.errno == errno.ETIMEDOUT
        leave(peer)

    with listener:
        loop.run(main())


def test_without_keepalive_a_silent_connection_outlives_a_cut(silence):
    with serving(silence, lambda conn, data: data, None) as server:
        with silence.connect(server.address) as sock:
            silence.cut()
            time.sleep(0.5)  # nothing is to happen, so there is nothing to wait for
            silence.mend()
            sock.sendall(b"still here")
            assert util.recv_exactly(sock, 10) == b"still here"
        util.wait_until(lambda: server.stats().closed == 1)


def test_a_peer_that_is_silent_but_there_stays(silence):
    handler = util.Ends(lambda data: data)
    with serving(silence, handler, None, limits=LIMITS) as server:
        with silence.connect(server.address) as sock:
            util.wait_until(lambda: handler.open)
            time.sleep(VANISHED + 1)  # that it does not end can only be waited for
            assert not handler.ended
            sock.sendall(b"quiet, no more")
            assert util.recv_exactly(sock, 14) == b"quiet, no more"
        util.wait_until(lambda: handler.ended)
