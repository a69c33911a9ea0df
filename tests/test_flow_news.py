"""`blocked` and `drained`: what a mux tells of a connection's queued output."""

import threading

import pytest

import pymux

from .util import Harvested, harvest_until, pair, recv_exactly

BIG = 8_000_000  # more than the kernel takes from a reader that does not read


@pytest.fixture
def raw(mux):
    """(Connection, socket) without framing."""
    conn, peer = pair(mux)
    yield conn, peer
    peer.close()


@pytest.fixture
def stuck(mux, raw):
    """(Connection, socket) with output over high water that was reported."""
    conn, peer = raw
    conn.send(b"x" * BIG)
    assert mux.harvest(0).blocked == [conn]
    return conn, peer


def read_in_thread(peer, n):
    thread = threading.Thread(target=recv_exactly, args=[peer, n])
    thread.start()
    return thread


def test_drained_is_reported_once_when_output_has_fallen(mux, stuck):
    conn, peer = stuck
    reader = read_in_thread(peer, BIG)
    acc = harvest_until(mux, lambda acc: acc.drained)
    assert conn.queued <= 16384
    harvest_until(mux, lambda acc: not conn.queued, into=acc)
    reader.join()
    for _ in range(3):
        acc.add(mux.harvest(0))
    assert acc.drained == [conn]


def test_blocked_is_reported_once_in_the_harvest_that_sends(mux, raw):
    conn, peer = raw
    conn.send(b"x" * BIG)
    batch = mux.harvest()
    assert (batch.blocked, batch.drained) == ([conn], [])
    assert conn.queued > 65536
    conn.send(b"y" * BIG)  # over it already
    acc = Harvested()
    acc.add(mux.harvest(0))
    reader = read_in_thread(peer, 2 * BIG)
    harvest_until(mux, lambda acc: acc.drained and not conn.queued, into=acc)
    reader.join()
    assert (acc.blocked, acc.drained) == ([], [conn])


def test_blocked_and_drained_alternate(mux, raw):
    conn, peer = raw
    rows = []
    for n in range(1, 4):
        conn.send(b"x" * BIG)
        reader = read_in_thread(peer, BIG)
        while len(rows) < 2 * n:
            batch = mux.harvest(10)
            rows += [
                name
                for name in ("blocked", "drained")
                for one in getattr(batch, name)
                if one is conn
            ]
        harvest_until(mux, lambda acc: not conn.queued)
        reader.join()
        assert rows == ["blocked", "drained"] * n


def test_output_that_the_system_takes_at_once_is_blocked_and_drained(mux):
    limits = pymux.Limits(high_water=100, low_water=10)
    conn, peer = pair(mux, limits=limits)
    with peer:
        conn.send(b"x" * 101)
        batch = mux.harvest()
        assert (batch.blocked, batch.drained) == ([conn], [conn])
        conn.send(b"x" * 100)
        assert not mux.harvest(0)


def test_a_closed_connection_is_not_blocked(mux, raw):
    conn, peer = raw
    conn.send(b"x" * BIG)
    conn.close()
    acc = Harvested()
    acc.add(mux.harvest(0))
    reader = read_in_thread(peer, BIG)
    harvest_until(mux, lambda acc: not conn.queued, into=acc)
    reader.join()
    peer.close()
    harvest_until(mux, lambda acc: acc.closed, into=acc)
    assert (acc.blocked, acc.drained) == ([], [])


def test_output_queued_before_the_opening_is_blocked_behind_it(mux):
    limits = pymux.Limits(high_water=100, low_water=10)
    listener = mux.listen(("127.0.0.1", 0))
    conn = mux.connect(listener.address, limits=limits)
    conn.send(b"x" * 101)
    acc = Harvested()
    while conn not in acc.blocked:
        assert not acc.drained
        acc.add(mux.harvest())
        assert conn in acc.opened or not acc.blocked
    harvest_until(mux, lambda acc: conn in acc.drained, into=acc)
    assert (acc.blocked, acc.drained) == ([conn], [conn])


def test_a_connection_that_closes_before_it_opens_is_neither(mux):
    limits = pymux.Limits(high_water=100, low_water=10)
    listener = mux.listen(("127.0.0.1", 0))
    conn = mux.connect(listener.address, limits=limits)
    conn.send(b"x" * 101)
    conn.close()
    acc = harvest_until(mux, lambda acc: acc.messages)
    acc.messages[0][0].close()
    harvest_until(mux, lambda acc: len(acc.closed) == 2, into=acc)
    assert (acc.blocked, acc.drained) == ([], [])


def test_drained_is_not_reported_between_the_waters(mux, stuck):
    conn, peer = stuck
    got = 0
    seen = False
    while got < BIG:
        got += len(peer.recv(65536))
        batch = mux.harvest(0)
        seen = seen or batch.drained == [conn]
        if not seen:
            assert conn.queued > 0
        if conn.queued > 16384:
            assert batch.drained == []
    harvest_until(mux, lambda acc: seen or acc.drained)


def test_output_that_never_passed_high_water_does_not_drain(mux, raw):
    conn, peer = raw
    for _ in range(20):
        conn.send(b"x" * 1000)
        assert mux.harvest(0).drained == []
    recv_exactly(peer, 20_000)
    assert mux.harvest(0.01).drained == []
