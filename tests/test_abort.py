"""`abort` and `send_eof`: to end a connection at once, and to end one direction."""

import errno

import pytest

import pymux

from .peers import Reader, wait_until_read
from .util import (
    Harvested,
    harvest_until,
    listening,
    outgoing,
    pair,
    recv_all,
    recv_exactly,
    until_end,
)

LARGE = 3_900_000


# -- abort -------------------------------------------------------------------------


def test_abort_resets_and_drops_the_queue(mux, raw):
    conn, peer = raw
    conn.send(b"x" * 8_000_000)
    mux.harvest(0)
    conn.abort()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None
    data, error = until_end(peer)
    assert len(data) < 8_000_000
    assert error == errno.ECONNRESET


def test_the_peer_of_an_abort_sees_a_reset(mux, raw):
    conn, peer = raw
    conn.abort()
    mux.harvest(0)
    assert until_end(peer) == (b"", errno.ECONNRESET)


def test_aborting_twice_is_reported_once(mux, raw):
    conn, _ = raw
    conn.abort()
    conn.abort()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    acc.add(mux.harvest(0))
    assert len(acc.closed) == 1


def test_abort_ends_a_lingering_close(mux, raw):
    conn, peer = raw
    conn.send(b"x" * 8_000_000)
    conn.close()
    mux.harvest(0)
    conn.abort()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None
    assert until_end(peer)[1] == errno.ECONNRESET


def test_abort_of_one_connection_leaves_the_others(mux, raw):
    conn, _peer = raw
    other, far = pair(mux)
    with far:
        conn.abort()
        far.sendall(b"alive")
        harvest_until(mux, lambda acc: acc.received(other) == b"alive")


# -- send_eof ----------------------------------------------------------------------


def test_send_eof_flushes_and_reading_goes_on(mux, raw):
    conn, peer = raw
    conn.send(b"done")
    conn.send_eof()
    mux.harvest(0)
    assert recv_all(peer) == b"done"
    peer.sendall(b"I am not")
    harvest_until(mux, lambda acc: acc.received(conn) == b"I am not")


def test_send_eof_flushes_a_large_output_first(mux, raw):
    conn, peer = raw
    conn.send(b"z" * LARGE)
    conn.send_eof()
    mux.harvest(0)
    reader = Reader(peer)
    wait_until_read(mux, reader)
    assert reader.join() == (b"z" * LARGE, None)
    assert not conn.closed


def test_a_send_after_send_eof_raises(raw):
    conn, _ = raw
    conn.send_eof()
    with pytest.raises(pymux.ConnectionClosed):
        conn.send(b"x")


def test_sending_the_end_twice_is_harmless(mux, raw):
    conn, peer = raw
    conn.send_eof()
    mux.harvest(0)
    conn.send_eof()
    mux.harvest(0)
    assert recv_all(peer) == b""
    assert not conn.closed


def test_both_ends_given_close_the_connection(mux, raw):
    conn, peer = raw
    conn.send_eof()
    mux.harvest(0)
    peer.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None


def test_send_eof_works_on_a_connection_that_was_made(mux):
    conn, peer = outgoing(mux)
    with peer:
        conn.send(b"request")
        conn.send_eof()
        mux.harvest(0)
        assert recv_all(peer) == b"request"
        peer.sendall(b"response")
        peer.close()
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.received(conn) == b"response"
        assert acc.error(conn) is None


def test_send_eof_before_opened_is_kept(mux):
    with listening() as server:
        conn = mux.connect(server.getsockname())
        conn.send(b"all there is")
        conn.send_eof()
        harvest_until(mux, lambda acc: conn in acc.opened)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(10)
            mux.harvest(0)
            assert recv_all(peer) == b"all there is"


def test_close_after_send_eof_waits_for_nothing_but_the_peer(mux, raw):
    conn, peer = raw
    conn.send_eof()
    conn.close()
    mux.harvest(0)
    assert recv_exactly(peer, 0) == b""
    peer.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None


def test_nothing_is_left_open_after_all_kinds_of_ends(mux):
    ends = [pair(mux) for _ in range(9)]
    acc = Harvested()
    for k, (conn, peer) in enumerate(ends):
        (conn.close, conn.abort, conn.send_eof)[k % 3]()
        acc.add(mux.harvest(0))
        peer.close()
    harvest_until(mux, lambda acc: len(acc.closed) == 9, into=acc)
    mux.harvest(0)
    assert mux.stats().connections == 0
