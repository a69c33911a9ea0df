"""Connections that the mux makes."""

import contextlib
import errno
import socket

import pytest

import pymux

from . import util
from .processes import no_descriptor_left
from .util import assert_idle, connect, harvest_until, outgoing, recv_exactly


@pytest.fixture
def full():
    """The address of a TCP listener whose backlog is full: connects get no answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        try:
            for _ in range(64):
                sock = socket.socket()
                waiting.append(sock)
                sock.settimeout(0.1)
                try:
                    sock.connect(server.getsockname())
                except TimeoutError:
                    break
            else:
                pytest.skip("this kernel's backlog does not fill")
            yield server.getsockname()
        finally:
            for sock in waiting:
                sock.close()


@pytest.fixture
def full_unix(tmp_path):
    """(path, listening socket) of a Unix socket whose backlog is full."""
    path = str(tmp_path / "s")
    waiting = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        try:
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock = socket.socket(socket.AF_UNIX)
                    waiting.append(sock)
                    sock.setblocking(False)
                    sock.connect(path)
            yield path, server
        finally:
            for sock in waiting:
                sock.close()


def test_a_connection_that_succeeds_is_opened(mux):
    with socket.create_server(("127.0.0.1", 0)) as server:
        conn = mux.connect(server.getsockname())
        acc = harvest_until(mux, lambda acc: acc.opened)
        assert acc.opened == [conn]
        assert acc.closed == []
        assert conn.peer == server.getsockname()
        assert not conn.closed


def test_connect_returns_before_the_connection_is_opened(mux):
    with socket.create_server(("127.0.0.1", 0)) as server:
        conn = mux.connect(server.getsockname())
        assert isinstance(conn, pymux.Connection)
        assert mux.harvest(5).opened == [conn]


def test_both_ways_work(mux):
    conn, peer = outgoing(mux, pymux.Lines())
    with peer:
        conn.send(b"hello")
        mux.harvest(0)
        assert recv_exactly(peer, 6) == b"hello\n"
        peer.sendall(b"world\n")
        harvest_until(mux, lambda acc: acc.messages == [(conn, b"world")])


def test_the_addresses_are_those_of_the_socket(mux):
    conn, peer = outgoing(mux)
    with peer:
        assert conn.local == peer.getpeername()
        assert conn.peer == peer.getsockname()


def test_a_refused_connection_is_closed_and_never_opened(mux, refusing):
    conn = mux.connect(refusing)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.opened == []
    assert acc.errno(conn) == errno.ECONNREFUSED
    assert isinstance(acc.error(conn), ConnectionRefusedError)
    assert conn.closed


def test_what_was_sent_to_a_refused_connection_is_discarded(mux, refusing):
    conn = mux.connect(refusing)
    conn.send(b"into the void")
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert mux.stats().discarded > 0
    assert mux.stats().queued == 0


def test_after_a_refusal_nothing_is_left_to_do(mux, refusing):
    conn = mux.connect(refusing)
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert_idle(mux)
    assert mux.stats().connections == 0


def test_a_connection_attempt_that_gets_no_answer_times_out(mux, full, clock):
    conn = mux.connect(full, timeout=60)
    clock.advance(59, mux)
    util.assert_nothing(mux)
    clock.advance(2, mux)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.opened == []
    assert acc.errno(conn) == errno.ETIMEDOUT


def test_a_pending_attempt_does_not_spin(mux, full):
    conn = mux.connect(full, timeout=30)
    assert_idle(mux)
    assert not conn.closed
    conn.abort()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.opened == []


def test_a_timeout_does_not_touch_a_connection_that_is_made(mux, clock):
    conn, peer = outgoing(mux, timeout=60)
    with peer:
        clock.advance(100, mux)
        assert_idle(mux, 0.05)
        assert not conn.closed


def test_a_unix_socket_can_be_reached(mux, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        conn = mux.connect(path)
        harvest_until(mux, lambda acc: acc.opened == [conn])
        assert conn.peer == path


def test_a_missing_unix_socket_is_reported_not_raised(mux, tmp_path):
    conn = mux.connect(tmp_path / "nobody")
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ENOENT
    assert acc.opened == []


def test_a_full_unix_backlog_is_tried_again(mux, full_unix):
    path, server = full_unix
    conn = mux.connect(path)
    assert_idle(mux, 0.05)

    def opened(acc):
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()
        return conn in acc.opened

    server.setblocking(False)
    harvest_until(mux, opened)


def test_a_full_unix_backlog_times_out(mux, full_unix, clock):
    path, _ = full_unix
    conn = mux.connect(path, timeout=60)
    clock.advance(59, mux)
    util.assert_nothing(mux)
    clock.advance(2, mux)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ETIMEDOUT


def test_a_mux_can_connect_to_itself(mux):
    listener = mux.listen(("127.0.0.1", 0), framing=pymux.Lines())
    conn = mux.connect(listener.address, framing=pymux.Lines())
    conn.send(b"hello")
    acc = harvest_until(mux, lambda acc: acc.messages)
    acc.messages[0][0].send(b"yourself")
    acc = harvest_until(mux, lambda acc: acc.messages)
    assert acc.messages == [(conn, b"yourself")]


def test_a_descriptor_it_cannot_have_is_raised(mux):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with no_descriptor_left(), pytest.raises(OSError) as caught:
            mux.connect(server.getsockname())
        assert caught.value.errno == errno.EMFILE
        assert mux.stats().connections == 0


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_bad_timeout_is_raised(mux, timeout):
    with pytest.raises(ValueError):
        mux.connect(("127.0.0.1", 9), timeout=timeout)


def test_many_connections_can_be_made_at_once(mux):
    listener = mux.listen(("127.0.0.1", 0))
    made = [mux.connect(listener.address) for _ in range(100)]
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 200)
    assert set(made) < set(acc.opened)
    assert mux.stats().connected == 100


def test_refusals_among_successes_are_told_apart(mux, refusing):
    listener = mux.listen(("127.0.0.1", 0))
    good = [mux.connect(listener.address) for _ in range(10)]
    bad = [mux.connect(refusing) for _ in range(10)]
    acc = harvest_until(
        mux, lambda acc: len(acc.opened) == 20 and len(acc.closed) == 10
    )
    assert {conn for conn, _ in acc.closed} == set(bad)
    assert set(good) < set(acc.opened)


def test_a_peer_that_resets_at_once_is_reported(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address):
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        conn.abort()
        harvest_until(mux, lambda acc: acc.is_closed(conn))


def test_the_peer_of_a_connection_that_failed_is_whom_it_was_for(mux, tmp_path):
    with socket.socket() as nobody:  # bound, but nobody listens
        nobody.bind(("127.0.0.1", 0))
        addresses = [nobody.getsockname(), str(tmp_path / "nobody")]
        conns = [mux.connect(address) for address in addresses]
        acc = util.harvest_until(mux, lambda acc: len(acc.closed) == 2)
    assert [acc.errno(conn) for conn in conns] == [errno.ECONNREFUSED, errno.ENOENT]
    assert [conn.peer for conn in conns] == addresses
    mux.close()
    assert [conn.peer for conn in conns] == addresses


def test_whom_a_connection_was_for_is_known_before_its_failure_is_reported(
    mux, tmp_path
):
    conn = mux.connect(tmp_path / "nobody")  # fails at once, is reported later
    assert conn.peer == str(tmp_path / "nobody")
    acc = util.harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ENOENT
    assert conn.peer == str(tmp_path / "nobody")
