"""Backpressure, pausing, and the bounds of a connection."""

import errno
import socket
import threading
import time
from unittest.mock import ANY

import pytest

import pymux

from .util import (
    assert_idle,
    assert_nothing,
    connect,
    fill,
    harvest_until,
    pair,
    recv_exactly,
    reset,
    until_end,
)

BIG = 8_000_000  # more than the kernel takes from a reader that does not read
ENOUGH = pymux.Limits(max_output=4 * BIG)


@pytest.fixture
def raw(mux):
    """(Connection, socket) without framing."""
    conn, peer = pair(mux)
    yield conn, peer
    peer.close()


@pytest.fixture
def stuck(mux, raw):
    """(Connection, socket) with output over high water that the peer does not read."""
    conn, peer = raw
    conn.send(b"x" * BIG)
    mux.harvest(0)
    assert conn.queued > 65536
    return conn, peer


def read_in_thread(peer, n):
    thread = threading.Thread(target=recv_exactly, args=[peer, n])
    thread.start()
    return thread


# -- high and low water ------------------------------------------------------------


def test_reading_pauses_while_output_is_over_high_water(mux, stuck):
    _, peer = stuck
    peer.sendall(b"not yet")
    assert_idle(mux)


def test_reading_goes_on_under_low_water(mux, stuck):
    conn, peer = stuck
    peer.sendall(b"not yet")
    assert_idle(mux, 0.02)
    reader = read_in_thread(peer, BIG)
    harvest_until(mux, lambda acc: acc.received(conn) == b"not yet" and not conn.queued)
    reader.join()


def test_a_small_output_does_not_pause_reading(mux):
    conn, peer = pair(mux, limits=pymux.Limits(high_water=2 * BIG, max_output=4 * BIG))
    with peer:
        conn.send(b"x" * BIG)
        mux.harvest(0)
        assert conn.queued
        peer.sendall(b"at once")
        harvest_until(mux, lambda acc: acc.received(conn) == b"at once")


def test_forwarding_at_the_readers_speed_is_bounded_and_whole(mux):
    source, writer = pair(mux, limits=ENOUGH)
    sink, reader = pair(mux, limits=ENOUGH)
    data = bytes(range(256)) * (BIG // 256)
    got, most = [], 0
    sending = threading.Thread(target=writer.sendall, args=[data])
    reading = threading.Thread(
        target=lambda: got.append(recv_exactly(reader, len(data)))
    )
    sending.start()
    deadline = time.monotonic() + 20
    while not got:
        assert time.monotonic() < deadline
        batch = mux.harvest(0.01)
        if sink in batch.drained:
            source.resume()
        for _, piece in batch:
            sink.send(piece)
        most = max(most, sink.queued)
        if sink.queued > 65536:
            source.pause()
            if not reading.ident:  # only now does anybody read
                reading.start()
    sending.join()
    reading.join()
    writer.close()
    reader.close()
    assert got[0] == data
    assert most < 1_000_000


# -- pause and resume --------------------------------------------------------------


def test_a_paused_connection_delivers_nothing(mux, raw):
    conn, peer = raw
    conn.pause()
    peer.sendall(b"wait")
    assert_idle(mux)


def test_a_resumed_connection_delivers_what_waited(mux, raw):
    conn, peer = raw
    conn.pause()
    peer.sendall(b"wait")
    assert_idle(mux, 0.02)
    conn.resume()
    harvest_until(mux, lambda acc: acc.received(conn) == b"wait")


def test_pausing_holds_buffered_frames_back(backend):
    with pymux.Mux(backend, max_messages=1) as mux:
        conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"1\n2\n3\n")
            assert harvest_until(mux, lambda acc: acc.messages).payloads == [b"1"]
            conn.pause()
            assert_idle(mux, 0.05)
            conn.resume()
            acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
            assert acc.payloads == [b"2", b"3"]


def test_pausing_twice_needs_one_resume(mux, raw):
    conn, peer = raw
    conn.pause()
    conn.pause()
    mux.harvest(0)
    conn.resume()
    peer.sendall(b"on")
    harvest_until(mux, lambda acc: acc.received(conn) == b"on")


def test_a_paused_connection_still_sends(mux, raw):
    conn, peer = raw
    conn.pause()
    conn.send(b"out")
    mux.harvest(0)
    assert recv_exactly(peer, 3) == b"out"


def test_a_pause_can_hold_back_the_first_message(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        conn.pause()
        peer.sendall(b"first")
        assert_idle(mux, 0.05)
        conn.resume()
        harvest_until(mux, lambda acc: acc.received(conn) == b"first")


def test_your_pause_outlasts_the_draining_of_output(mux, stuck):
    conn, peer = stuck
    conn.pause()
    peer.sendall(b"held twice")
    reader = read_in_thread(peer, BIG)
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    mux.harvest(0)
    assert_idle(mux, 0.05)
    conn.resume()
    harvest_until(mux, lambda acc: acc.received(conn) == b"held twice")


def test_your_resume_does_not_lift_the_pause_for_output(mux, stuck):
    conn, peer = stuck
    conn.pause()
    mux.harvest(0)
    conn.resume()
    peer.sendall(b"held by output")
    assert_idle(mux, 0.05)
    reader = read_in_thread(peer, BIG)
    harvest_until(
        mux, lambda acc: acc.received(conn) == b"held by output" and not conn.queued
    )
    reader.join()


def test_a_paused_connection_reports_a_reset(mux, raw):
    conn, peer = raw
    conn.pause()
    mux.harvest(0)
    reset(peer)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNRESET
    assert_idle(mux)


def test_a_paused_connection_does_not_report_an_end_it_has_not_read(mux, raw):
    conn, peer = raw
    conn.pause()
    peer.sendall(b"before the end")
    peer.shutdown(socket.SHUT_WR)
    assert_idle(mux)
    conn.resume()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.received(conn) == b"before the end"
    assert acc.error(conn) is None


def test_a_paused_connection_keeps_the_peer_waiting(mux, raw):
    conn, peer = raw
    conn.pause()
    mux.harvest(0)
    took = fill(peer, 4 * BIG)
    assert took < 4 * BIG
    assert_idle(mux, 0.02)
    assert mux.stats().bytes_in == 0
    conn.resume()
    harvest_until(mux, lambda acc: len(acc.received(conn)) == took)


def test_pause_and_resume_on_a_closed_connection_are_harmless(mux, raw):
    conn, peer = raw
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    conn.pause()
    conn.resume()
    mux.harvest(0)


# -- bounds ------------------------------------------------------------------------


def test_output_that_finds_the_queue_empty_may_have_any_size(mux):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=100_000))
    with peer:
        conn.send(b"x" * BIG)
        reader = read_in_thread(peer, BIG)
        harvest_until(mux, lambda acc: not conn.queued)
        reader.join()
        assert not conn.closed


def test_output_over_max_output_ends_the_connection(mux):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=100_000))
    with peer:
        conn.send(b"x" * BIG)
        mux.harvest(0)
        conn.send(b"one too many")
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ENOBUFS
        assert until_end(peer)[0].strip(b"x") == b""


def test_many_small_sends_over_max_output_end_the_connection(mux):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=100_000))
    with peer:
        for _ in range(300):
            conn.send(b"x" * 1000)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ENOBUFS


def test_output_up_to_max_output_is_kept(mux):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=100_000))
    with peer:
        for _ in range(100):
            conn.send(b"x" * 1000)
        mux.harvest(0)
        assert recv_exactly(peer, 100_000) == b"x" * 100_000


def test_max_output_of_one_connection_leaves_the_others(mux, raw):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=100_000))
    other, far = raw
    with peer:
        for _ in range(300):
            mux.send_many([conn, other], b"x" * 1000)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert [c for c, _ in acc.closed] == [conn]
        assert recv_exactly(far, 300_000) == b"x" * 300_000


def test_queued_never_passes_max_output_but_by_one_piece(mux):
    conn, peer = pair(mux, limits=pymux.Limits(max_output=200_000))
    with peer:
        try:
            for _ in range(100):
                conn.send(b"x" * 100_000)
                mux.harvest(0)
                assert conn.queued <= 200_000
        except pymux.ConnectionClosed:
            return
        pytest.fail("the peer read nothing, and nothing ended the connection")


MINUTE = pymux.Limits(idle_timeout=60)


def ends_idle(mux, conn):
    """Assert that the connection is idle for too long now."""
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ETIMEDOUT


def test_an_idle_connection_times_out(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        clock.advance(59, mux)
        assert_nothing(mux)
        clock.advance(2, mux)
        ends_idle(mux, conn)


def test_an_idle_timeout_ends_a_wait(mux):
    conn, peer = pair(mux, limits=pymux.Limits(idle_timeout=0.05))
    with peer:
        assert mux.harvest(20).closed == [(conn, ANY)]


def test_a_received_byte_starts_the_idle_clock_again(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        clock.advance(50, mux)
        peer.sendall(b"x")
        harvest_until(mux, lambda acc: acc.messages)
        clock.advance(50, mux)
        assert_nothing(mux)
        clock.advance(20, mux)
        ends_idle(mux, conn)


def test_a_byte_taken_by_the_kernel_starts_the_idle_clock_again(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        clock.advance(50, mux)
        conn.send(b"x")
        clock.advance(50, mux)
        assert recv_exactly(peer, 1) == b"x"
        assert_nothing(mux)
        clock.advance(20, mux)
        ends_idle(mux, conn)


def test_the_idle_clock_stands_still_while_you_paused(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        conn.pause()
        clock.advance(200, mux)
        assert_nothing(mux)
        conn.resume()
        clock.advance(59, mux)
        assert_nothing(mux)
        clock.advance(2, mux)
        ends_idle(mux, conn)


def test_the_idle_clock_runs_while_output_is_stuck(mux, clock):
    conn, peer = pair(mux, limits=MINUTE)
    with peer:
        conn.send(b"x" * BIG)
        assert mux.harvest().blocked == [conn]
        clock.advance(61, mux)  # the peer may be reading what the kernel has
        assert_nothing(mux)
        clock.advance(61, mux)
        ends_idle(mux, conn)


def test_an_idle_timeout_of_one_leaves_the_busy_ones(mux, clock):
    idle, peer_a = pair(mux, limits=MINUTE)
    busy, peer_b = pair(mux, limits=MINUTE)
    with peer_a, peer_b:
        clock.advance(50, mux)
        peer_b.sendall(b".")
        harvest_until(mux, lambda acc: acc.messages)
        clock.advance(50, mux)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.errno(idle) == errno.ETIMEDOUT
        assert not acc.is_closed(busy)
        assert not busy.closed


def test_without_an_idle_timeout_a_connection_stays(mux, raw):
    conn, _ = raw
    assert_idle(mux, 0.1)
    assert not conn.closed


def test_at_max_connections_peers_wait_in_the_backlog(mux):
    listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_connections=2))
    crowd = [connect(listener.address) for _ in range(5)]
    try:
        for k, sock in enumerate(crowd):
            sock.sendall(b"%d" % k)
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert_idle(mux, 0.05)
        assert mux.stats().connections == 2
        for sock in crowd:
            sock.close()
        harvest_until(mux, lambda acc: len(acc.closed) == 5, into=acc)
        assert sorted(acc.payloads) == [b"0", b"1", b"2", b"3", b"4"]
        assert len(acc.opened) == 5
    finally:
        for sock in crowd:
            sock.close()


def test_max_connections_counts_each_listener_alone(mux):
    one = pymux.Limits(max_connections=1)
    first = mux.listen(("127.0.0.1", 0), limits=one)
    second = mux.listen(("127.0.0.1", 0), limits=one)
    with connect(first.address), connect(second.address), connect(second.address):
        harvest_until(mux, lambda acc: len(acc.opened) == 2)
        assert_idle(mux, 0.05)


def test_max_connections_does_not_count_outgoing_ones(mux):
    listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_connections=1))
    out = mux.connect(listener.address)
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert out in acc.opened
