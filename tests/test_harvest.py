"""When a harvest returns: something to report, the timeout, a wakeup, a delay."""

import sys
import threading
import time

import pytest

import pymux

from . import inside
from .util import (
    assert_idle,
    connect,
    harvest_until,
    pair,
    recv_exactly,
)

LONG = 30.0  # a wait that must not be waited out


@pytest.fixture
def two(mux):
    """Two connections with line framing: [(Connection, socket), ...]."""
    first, second = pair(mux, pymux.Lines()), pair(mux, pymux.Lines())
    yield [first, second]
    first[1].close()
    second[1].close()


def elapsed(call):
    start = time.monotonic()
    result = call()
    return time.monotonic() - start, result


def test_a_harvest_with_nothing_returns_an_empty_batch_at_the_timeout(mux):
    took, batch = elapsed(lambda: mux.harvest(0.03))
    assert took >= 0.03
    assert len(batch) == 0
    assert (batch.opened, batch.closed) == ([], [])


def test_a_wait_under_a_millisecond_is_not_cut_to_nothing(mux):
    mux.harvest(0)
    took, _ = elapsed(lambda: [mux.harvest(0.0004) for _ in range(50)])
    assert took >= 50 * 0.0004


def test_a_timeout_of_zero_does_not_wait(mux):
    took, _ = elapsed(lambda: [mux.harvest(0) for _ in range(20)])
    assert took < LONG


def test_a_negative_timeout_is_refused(mux):
    with pytest.raises(ValueError, match="-1"):
        mux.harvest(-1)


def test_a_mux_with_nothing_sleeps(mux):
    assert_idle(mux)


def test_a_mux_with_quiet_connections_sleeps(mux, two):
    assert_idle(mux)


def test_a_message_ends_the_wait(mux, two):
    conn, peer = two[0]
    timer = threading.Timer(0.02, peer.sendall, [b"now\n"])
    timer.start()
    took, batch = elapsed(lambda: mux.harvest(LONG))
    timer.join()
    assert took < LONG / 2
    assert list(batch) == [(conn, b"now")]


def test_a_wakeup_ends_the_wait(mux):
    mux.harvest(0)
    timer = threading.Timer(0.02, mux.wakeup)
    timer.start()
    took, batch = elapsed(lambda: mux.harvest(None))
    timer.join()
    assert took < LONG
    assert len(batch) == 0


def test_a_wakeup_before_the_harvest_counts(mux):
    mux.wakeup()
    took, _ = elapsed(lambda: mux.harvest(LONG))
    assert took < LONG / 2


def test_many_wakeups_are_one(mux):
    for _ in range(100_000):  # more than any socket pair or pipe holds
        mux.wakeup()
    mux.harvest(LONG)
    assert_idle(mux)


def test_a_timer_ends_the_wait(mux):
    ran = []

    def call():
        mux.call_later(0.02, ran.append, 1)
        return mux.harvest(LONG)

    took, batch = elapsed(call)
    assert 0.02 <= took < LONG / 2
    assert ran == [1]
    assert len(batch) == 0


def test_a_threadsafe_call_ends_the_wait(mux):
    mux.harvest(0)
    ran = []
    timer = threading.Timer(0.02, mux.call_threadsafe, [ran.append, 1])
    timer.start()
    took, _ = elapsed(lambda: mux.harvest(LONG))
    timer.join()
    assert took < LONG / 2
    assert ran == [1]


def test_output_leaves_with_the_next_harvest(mux, two):
    conn, peer = two[0]
    conn.send(b"queued")
    mux.harvest(0)
    assert recv_exactly(peer, 7) == b"queued\n"


def test_a_small_max_messages_spreads_rows_over_harvests(backend):
    with pymux.Mux(backend, max_messages=10) as mux:
        _conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"".join(b"%d\n" % k for k in range(95)))
            sizes, got = [], []
            while len(got) < 95:
                batch = mux.harvest(5)
                sizes.append(len(batch))
                got += batch.messages
            assert max(sizes) == 10
            assert got == [b"%d" % k for k in range(95)]


def test_frames_left_over_are_reported_without_waiting(backend):
    with pymux.Mux(backend, max_messages=1) as mux:
        _conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"1\n2\n3\n")
            took, rows = elapsed(lambda: [mux.harvest(LONG).messages for _ in "123"])
            assert rows == [[b"1"], [b"2"], [b"3"]]
            assert took < LONG / 2


def test_a_small_arena_carries_a_large_stream(backend):
    data = bytes(range(256)) * 8192
    with pymux.Mux(backend, arena_size=65536) as mux:
        conn, peer = pair(mux)
        sender = threading.Thread(target=peer.sendall, args=[data])
        sender.start()
        acc = harvest_until(mux, lambda acc: len(acc.received(conn)) == len(data))
        sender.join()
        peer.close()
        assert acc.received(conn) == data
        assert acc.turns > len(data) // (4 * 65536)


def test_a_message_larger_than_the_arena_comes_in_one_piece(backend):
    data = b"0123456789abcdef" * 65536
    with pymux.Mux(backend, arena_size=65536) as mux:
        framing = pymux.Lines(max_size=1 << 20)
        _conn, peer = pair(mux, framing)
        sender = threading.Thread(target=peer.sendall, args=[b"a\n" + data + b"\nb\n"])
        sender.start()
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 3)
        sender.join()
        peer.close()
        assert acc.payloads == [b"a", data, b"b"]


# -- micro-batching ----------------------------------------------------------------


def test_a_delay_collects_messages(mux, two):
    (_, a), (_, b) = two
    a.sendall(b"1\n")
    timer = threading.Timer(0.03, b.sendall, [b"2\n"])
    timer.start()
    batch = mux.harvest(LONG, min_messages=2, max_delay=LONG)
    timer.join()
    assert sorted(batch.messages) == [b"1", b"2"]


def test_a_delay_ends_after_max_delay(mux, two):
    _, peer = two[0]
    peer.sendall(b"1\n")
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=9, max_delay=0.05))
    assert batch.messages == [b"1"]
    assert 0.05 <= took < LONG / 2


def test_a_delay_starts_with_the_first_message(mux, two):
    _, peer = two[0]
    timer = threading.Timer(0.1, peer.sendall, [b"1\n"])
    timer.start()
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=9, max_delay=0.05))
    timer.join()
    assert batch.messages == [b"1"]
    assert took >= 0.12  # the timer began a moment before


def test_enough_messages_end_the_delay(mux, two):
    _, peer = two[0]
    peer.sendall(b"1\n2\n3\n")
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=3, max_delay=LONG))
    assert len(batch) == 3
    assert took < LONG / 2


def test_a_row_from_every_open_connection_ends_the_delay(mux, two):
    for _, peer in two:
        peer.sendall(b"ping\n")
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=99, max_delay=LONG))
    assert len(batch) == 2
    assert took < LONG / 2


def test_a_paused_connection_is_not_waited_for(mux, two):
    (idle, _), (_, peer) = two
    idle.pause()
    peer.sendall(b"ping\n")
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=99, max_delay=LONG))
    assert batch.messages == [b"ping"]
    assert took < LONG / 2


def test_a_wakeup_ends_the_delay_and_keeps_the_rows(mux, two):
    _, peer = two[0]
    mux.harvest(0)
    peer.sendall(b"1\n")
    timer = threading.Timer(0.05, mux.wakeup)
    timer.start()
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=9, max_delay=LONG))
    timer.join()
    assert batch.messages == [b"1"]
    assert took < LONG / 2


def test_a_due_timer_ends_the_delay_and_keeps_the_rows(mux, two):
    _, peer = two[0]
    ran = []
    peer.sendall(b"1\n")
    mux.call_later(0.05, ran.append, 1)
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=9, max_delay=LONG))
    assert batch.messages == [b"1"]
    assert took < LONG / 2
    mux.harvest(0)
    assert ran == [1]


def test_a_full_arena_ends_the_delay(backend):
    with pymux.Mux(backend, arena_size=65536) as mux:
        _conn, peer = pair(mux, pymux.Lines())
        _other, quiet = pair(mux, pymux.Lines())
        data = (b"x" * 999 + b"\n") * 1000
        sender = threading.Thread(target=peer.sendall, args=[data])
        with peer, quiet:
            sender.start()
            start, left = time.monotonic(), 1000
            while left:
                batch = mux.harvest(LONG, min_messages=left, max_delay=LONG)
                assert batch.data.nbytes <= 4 * 65536
                left -= len(batch)
            sender.join()
        assert time.monotonic() - start < LONG / 2


def test_the_timeout_still_holds_before_the_first_message(mux, two):
    took, batch = elapsed(lambda: mux.harvest(0.03, min_messages=9, max_delay=LONG))
    assert len(batch) == 0
    assert 0.03 <= took < LONG / 2


def test_output_keeps_flowing_during_the_delay(mux, two):
    (conn, reader), (_, writer) = two
    _third, quiet = pair(mux)  # so that not every open connection has a row
    conn.send(b"x" * 8_000_000)
    mux.harvest(0)
    writer.sendall(b"1\n")

    def read():
        recv_exactly(reader, 8_000_001)
        mux.wakeup()

    thread = threading.Thread(target=read)
    thread.start()
    took, batch = elapsed(lambda: mux.harvest(LONG, min_messages=9, max_delay=LONG))
    thread.join()
    quiet.close()
    assert batch.messages == [b"1"]
    assert took < LONG / 2


def test_a_connect_is_accepted_during_the_delay(mux, two):
    listener = mux.listen(("127.0.0.1", 0), framing=pymux.Lines())
    _, peer = two[0]
    peer.sendall(b"1\n")
    with connect(listener.address) as late:
        late.sendall(b"2\n")
        acc = harvest_until(
            mux, lambda acc: len(acc.messages) == 2, min_messages=2, max_delay=0.5
        )
        assert sorted(acc.payloads) == [b"1", b"2"]


# -- re-entry ----------------------------------------------------------------------


def test_a_harvest_inside_a_timer_raises(mux):
    caught = []

    def timer():
        try:
            mux.harvest(0)
        except RuntimeError as error:
            caught.append(error)

    mux.call_later(0, timer)
    mux.harvest(1)
    assert len(caught) == 1


def test_closing_inside_a_timer_takes_effect_when_the_dispatch_ends(mux):
    seen = []

    def timer():
        mux.close()
        seen.append("after close")

    mux.call_later(0, timer)
    mux.call_later(0, lambda: seen.append("the next timer"))
    mux.harvest(1)
    assert seen[0] == "after close"
    with pytest.raises(RuntimeError):
        mux.harvest(0)


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="the GIL is never kept here"
)
def test_a_batch_gathers_beside_a_thread_that_computes_too(mux, two):
    (_, first), _ = two
    inside.keep_the_gil(mux)
    first.sendall(b"one\n")
    later = threading.Timer(0.05, first.sendall, [b"two\n"])
    later.start()
    batch = mux.harvest(LONG, min_messages=2, max_delay=LONG)
    later.join()
    assert batch.messages == [b"one", b"two"]


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="the GIL is never kept here"
)
def test_a_call_beside_a_thread_that_computes_ends_the_gathering(mux, two):
    (_, first), _ = two
    inside.keep_the_gil(mux)
    first.sendall(b"one\n")
    mux.call_later(LONG, print)
    inside.run_something_in_each_turn(mux)  # after the first look
    batch = mux.harvest(LONG, min_messages=2, max_delay=LONG)
    assert batch.messages == [b"one"]
