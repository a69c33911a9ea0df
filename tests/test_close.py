"""`close`: what was sent is delivered, and a peer that makes no progress is reset."""

import contextlib
import errno
import socket

import pytest

import pymux

from .peers import Reader, wait_until_read
from .util import (
    Harvested,
    assert_idle,
    assert_nothing,
    connect,
    connect_narrow,
    fill,
    harvest_until,
    listening,
    pair,
    recv_all,
    until_end,
)

LARGE = 3_900_000
MINUTE = pymux.Limits(close_timeout=60)


# -- close -------------------------------------------------------------------------


def test_close_flushes_what_was_sent(mux, raw):
    conn, peer = raw
    conn.send(b"goodbye")
    conn.close()
    mux.harvest(0)
    assert until_end(peer) == (b"goodbye", None)


def test_close_is_reported_without_an_error(mux, raw):
    conn, peer = raw
    conn.close()
    mux.harvest(0)
    assert recv_all(peer) == b""
    peer.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None


def test_closing_twice_is_reported_once(mux, raw):
    conn, peer = raw
    conn.close()
    conn.close()
    mux.harvest(0)
    peer.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    conn.close()
    for _ in range(3):
        acc.add(mux.harvest(0))
    assert len(acc.closed) == 1


def test_a_large_answer_with_unread_input_arrives_whole(mux, raw):
    conn, peer = raw
    data = bytes(range(250)) * (LARGE // 250)
    fill(peer, 500_000)
    conn.send(data)
    conn.close()
    mux.harvest(0)
    reader = Reader(peer)
    wait_until_read(mux, reader)
    assert reader.join() == (data, None)


def test_input_that_goes_on_after_close_does_not_destroy_the_answer(mux, raw):
    conn, peer = raw
    conn.send(b"y" * LARGE)
    conn.close()
    mux.harvest(0)
    got = 0
    while got < LARGE:
        fill(peer, 10_000)
        mux.harvest(0)
        peer.settimeout(5)
        got += len(peer.recv(100_000))
    assert got == LARGE
    assert peer.recv(1) == b""


def test_after_close_no_message_comes_any_more(mux):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        conn.close()
        mux.harvest(0)
        peer.sendall(b"too late\n")
        peer.shutdown(socket.SHUT_WR)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.received(conn) == b""


def test_close_waits_for_the_peers_end(mux, raw):
    conn, peer = raw
    conn.close()
    mux.harvest(0)
    assert recv_all(peer) == b""
    assert_idle(mux)
    assert mux.stats().connections == 1
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert mux.stats().connections == 0


def test_a_close_that_cannot_flush_ends_with_a_timeout(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        conn.send(b"x" * 8_000_000)
        conn.close()
        clock.advance(59, mux)
        assert_nothing(mux)
        clock.advance(2, mux)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ETIMEDOUT
        data, error = until_end(peer)
        assert len(data) < 8_000_000
        assert error == errno.ECONNRESET


def test_a_close_whose_peer_never_ends_is_reset_in_time(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        conn.send(b"all of it")
        conn.close()
        mux.harvest(0)
        assert recv_all(peer) == b"all of it"
        clock.advance(59, mux)
        assert_nothing(mux)
        clock.advance(2, mux)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ETIMEDOUT


def test_a_peer_that_sends_for_ever_cannot_stretch_the_close(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        conn.close()
        for _ in range(59):
            fill(peer, 1000)
            clock.advance(1, mux)
            assert_nothing(mux)
        clock.advance(2, mux)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ETIMEDOUT


def test_a_close_timeout_of_zero_does_not_linger(mux):
    conn, peer = pair(mux, limits=pymux.Limits(close_timeout=0))
    with peer:
        conn.close()
        harvest_until(mux, lambda acc: acc.is_closed(conn))


def test_close_of_a_connection_whose_peer_has_ended_is_immediate(mux):
    conn, peer = pair(mux, half_open=True)
    with peer:
        peer.shutdown(socket.SHUT_WR)
        harvest_until(mux, lambda acc: acc.ended)
        conn.send(b"goodbye")
        conn.close()
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.error(conn) is None
        assert until_end(peer) == (b"goodbye", None)


def test_a_lingering_close_that_is_reset_says_so(mux, raw):
    conn, peer = raw
    conn.send(b"x" * 8_000_000)
    conn.close()
    mux.harvest(0)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNRESET


def test_close_before_opened_still_flushes(mux):
    with listening() as server:
        server.settimeout(10)
        conn = mux.connect(server.getsockname())
        conn.send(b"in and out")
        conn.close()
        mux.harvest(0)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(10)
            reader = Reader(peer)
            wait_until_read(mux, reader)
            assert reader.join() == (b"in and out", None)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.error(conn) is None


def test_close_while_paused_still_flushes(mux, raw):
    conn, peer = raw
    conn.pause()
    peer.sendall(b"unread")
    conn.send(b"goodbye")
    conn.close()
    mux.harvest(0)
    assert until_end(peer) == (b"goodbye", None)
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))


# -- progress ----------------------------------------------------------------------


def met(mux, place, **options):
    """(Connection, narrow socket) of a connection accepted there."""
    listener = mux.listen(place, **options)
    peer = connect_narrow(listener.address)
    acc = harvest_until(mux, lambda acc: acc.opened)
    listener.close()
    return acc.opened[0], peer


ENDS = {
    "close": lambda conn, peer: conn.close(),
    "close after send_eof": lambda conn, peer: (conn.send_eof(), conn.close()),
    "the peer's half-close": lambda conn, peer: peer.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_steady_reader_gets_everything_however_long_it_takes(mux, place, clock, end):
    """Each step of the reader is progress, though all of them take many times
    close_timeout. Reader and mux take turns, so that neither waits alone."""
    size, steps = 6_000_000, 30
    conn, peer = met(mux, place, limits=MINUTE)
    with peer:
        conn.send(b"x" * size)
        ENDS[end](conn, peer)
        mux.harvest(0)
        got = step = 0
        while piece := peer.recv(size // steps):
            got += len(piece)
            if got * steps // size > step:
                clock.advance(20)
            mux.harvest(0)
            step = got * steps // size
        assert got == size
        assert clock.ahead > 2 * MINUTE.close_timeout


def test_a_reader_that_stops_half_way_is_reset(mux, place, clock):
    conn, peer = met(mux, place, limits=MINUTE)
    with peer:
        conn.send(b"x" * 12_000_000)
        conn.close()
        acc = Harvested()
        for _ in range(20):
            peer.recv(150_000)
            acc.add(mux.harvest(0.01))
        assert not acc.closed

        def closed(acc):
            clock.advance(20)
            return acc.is_closed(conn)

        harvest_until(mux, closed, into=acc)
        assert acc.errno(conn) == errno.ETIMEDOUT
        assert mux.stats().reset == 1


# -- those that linger -------------------------------------------------------------


@contextlib.contextmanager
def goodbye(mux, listener, acc, said=b"bye", connect=connect):
    """(Connection, socket): told so, and closed by the mux; the peer stays."""
    with connect(listener.address) as peer:
        before = len(acc.opened)
        harvest_until(mux, lambda acc: len(acc.opened) > before, into=acc)
        conn = acc.opened[-1]
        conn.send(said)
        conn.close()
        acc.add(mux.harvest(0))
        yield conn, peer


def test_those_that_linger_leave_their_places_to_others(mux, place):
    """As many again as may be open; the oldest that has everything goes then."""
    listener = mux.listen(place, limits=pymux.Limits(max_connections=3))
    acc = Harvested()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(goodbye(mux, listener, acc)) for _ in range(8)]
        harvest_until(mux, lambda acc: len(acc.closed) == 5, into=acc)
        assert {error for _, error in acc.closed} == {None}
        if place != ("127.0.0.1", 0):  # TCP's acknowledgements come when they come
            assert [conn for conn, _ in acc.closed] == [conn for conn, _ in pairs[:5]]
        mux.harvest(0)
        assert mux.stats().connections == 3
        assert mux.stats().reset == 0
        for _, peer in pairs:
            assert until_end(peer) == (b"bye", None)
    harvest_until(mux, lambda acc: len(acc.closed) == 8, into=acc)


def test_one_that_has_answers_to_receive_yet_is_not_closed_for_another(mux):
    size, acc = 200_000, Harvested()
    listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_connections=1))
    with goodbye(mux, listener, acc, b"x" * size, connect_narrow) as (slow, reader):
        harvest_until(mux, lambda acc: slow.queued == 0, into=acc)
        for _ in range(3):  # each is the only one that may go
            with goodbye(mux, listener, acc) as (conn, peer):
                harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
                assert until_end(peer) == (b"bye", None)
        assert not acc.is_closed(slow)
        task = Reader(reader)
        while task.thread.is_alive():
            acc.add(mux.harvest(0.01))
        assert task.join() == (b"x" * size, None)
    harvest_until(mux, lambda acc: acc.is_closed(slow), into=acc)
    assert acc.error(slow) is None


def test_one_that_is_open_keeps_its_place(mux):
    acc = Harvested()
    listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_connections=1))
    with goodbye(mux, listener, acc), connect(listener.address) as inside:
        harvest_until(mux, lambda acc: len(acc.opened) == 2, into=acc)
        with connect(listener.address):
            assert_idle(mux)
            inside.close()
            harvest_until(mux, lambda acc: len(acc.opened) == 3, into=acc)


# -- Mux.close ---------------------------------------------------------------------


def test_a_mux_that_closes_with_unread_input_takes_no_answer_back(mux, place):
    size = 100_000
    conn, peer = met(mux, place)
    with peer:
        conn.send(b"x" * size)
        harvest_until(mux, lambda acc: conn.queued == 0)
        fill(peer, 50_000)
        mux.close()
        assert until_end(peer) == (b"x" * size, None)
