"""The failures that were measured once, each with a test that would catch it.

Bounds are generous, and count turns, bytes or CPU time rather than the clock.
"""

import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time

import pytest

import pymux

from .processes import idle_child
from .util import (
    Harvested,
    assert_idle,
    connect,
    fill,
    harvest_until,
    pair,
    recv_exactly,
    reset,
    until_end,
)

KIB = 1024
STATM = "/proc/self/statm"


# -- unfair service ----------------------------------------------------------------


def test_a_hundred_always_ready_peers_are_all_served_alike(mux):
    # Level triggering alone served the first 4 for ever: 64 KiB each fill a turn.
    share = 64 * KIB
    ends = [pair(mux) for _ in range(100)]
    for _, peer in ends:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * share)
        assert fill(peer, 6 * share) == 6 * share
    got = {conn: 0 for conn, _ in ends}
    turns = 0
    while min(got.values()) == 0:
        for conn, data in mux.harvest(0):
            got[conn] += len(data)
        turns += 1
        assert turns < 100, "somebody is still not served"
        assert max(got.values()) <= 3 * share, "somebody is served before the others"
    for conn, peer in ends:
        conn.abort()
        peer.close()
    mux.harvest(0)


def test_a_connection_with_many_small_frames_does_not_starve_another(backend):
    with pymux.Mux(backend, max_messages=64) as mux:
        loud, noise = pair(mux, pymux.Lines())
        quiet, peer = pair(mux, pymux.Lines())
        with noise, peer:
            fill(noise, 200_000, b"x\n")
            mux.harvest(0)
            peer.sendall(b"may I?\n")
            acc = harvest_until(mux, lambda acc: acc.received(quiet))
            assert acc.turns < 50
            loud.abort()
            mux.harvest(0)


def test_new_connections_are_accepted_while_others_are_always_ready(mux):
    listener = mux.listen(("127.0.0.1", 0))
    ends = [pair(mux) for _ in range(20)]
    for _, peer in ends:
        fill(peer, 400_000)
    with connect(listener.address):
        acc = harvest_until(mux, lambda acc: acc.opened)
        assert acc.turns < 40
    for conn, peer in ends:
        conn.abort()
        peer.close()
    mux.harvest(0)


# -- spinning ----------------------------------------------------------------------


def all_reported(mux, wait):
    """What a mux has to report; no more is expected after `wait` seconds."""
    acc = Harvested()
    deadline = time.monotonic() + wait
    while not acc.closed and time.monotonic() < deadline:
        acc.add(mux.harvest(0.01))
    return acc


@pytest.mark.parametrize(
    "first",
    [
        lambda mux, conn, peer: conn.pause(),
        lambda mux, conn, peer: conn.send(b"x" * 8_000_000),
        lambda mux, conn, peer: (conn.send(b"x" * 8_000_000), conn.close()),
        lambda mux, conn, peer: conn.send_eof(),
        lambda mux, conn, peer: peer.shutdown(socket.SHUT_WR),
    ],
    ids=["paused", "stuck", "lingering", "half closed", "half open"],
)
@pytest.mark.parametrize(
    "then",
    [
        lambda peer: None,
        lambda peer: peer.shutdown(socket.SHUT_WR),
        reset,
    ],
    ids=["quiet", "end", "reset"],
)
def test_no_state_of_a_connection_spins(mux, first, then):
    conn, peer = pair(mux, half_open=True)
    with peer:
        first(mux, conn, peer)
        mux.harvest(0)
        with contextlib.suppress(OSError):
            then(peer)
        acc = all_reported(mux, wait=0.3 if then is reset else 0.02)
        assert_idle(mux, 0.1)
        assert len(acc.closed) <= 1


def test_a_paused_connection_with_unread_input_and_a_reset_does_not_spin(mux):
    conn, peer = pair(mux)
    conn.pause()
    peer.sendall(b"unread")
    mux.harvest(0)
    reset(peer)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNRESET
    assert_idle(mux)


def test_peers_waiting_behind_max_connections_do_not_spin(mux):
    listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_connections=1))
    with connect(listener.address), connect(listener.address) as second:
        second.sendall(b"waiting")
        harvest_until(mux, lambda acc: acc.opened)
        assert_idle(mux)


def test_a_half_open_connection_whose_peer_ended_does_not_spin(mux):
    conn, peer = pair(mux, half_open=True)
    with peer:
        peer.shutdown(socket.SHUT_WR)
        harvest_until(mux, lambda acc: acc.ended)
        assert_idle(mux)
        conn.send(b"x" * 8_000_000)  # and with output that is stuck
        mux.harvest(0)
        assert_idle(mux)


# -- an answer lost by close -------------------------------------------------------


def test_close_with_unread_input_loses_nothing_of_the_answer(mux):
    conn, peer = pair(mux)
    answer = bytes(range(256)) * (3_900_000 // 256)
    with peer:
        fill(peer, 300_000)
        mux.harvest(0)
        conn.send(answer)
        conn.close()
        fill(peer, 300_000)
        mux.harvest(0)
        got = []
        reader = threading.Thread(target=lambda: got.append(until_end(peer)))
        reader.start()
        harvest_until(mux, lambda acc: got)
        reader.join()
    assert got == [(answer, None)]


# -- quadratic carry ---------------------------------------------------------------

PIECE = 1448  # what a TCP segment carries


def in_pieces(mux, conn, peer, data):
    """Send data in segments, each received before the next: (CPU time, payloads)."""
    view = memoryview(data)
    acc = Harvested()
    start = time.thread_time()
    for at in range(0, len(data), PIECE):
        peer.sendall(view[at : at + PIECE])
        acc.add(mux.harvest(0))
    return time.thread_time() - start, acc.payloads


@pytest.mark.parametrize(
    "framing, head, tail",
    [
        (pymux.LengthPrefix(max_size=1 << 25), (1 << 24).to_bytes(4, "big"), b""),
        (pymux.Lines(max_size=1 << 25), b"", b"\n"),
        (pymux.Lines(b"\r\n", max_size=1 << 25), b"", b"\r\n"),
    ],
    ids=["prefix", "lines", "crlf"],
)
def test_a_large_frame_in_small_pieces_costs_linear_time(mux, framing, head, tail):
    payload = b"0123456789abcdef" * (1 << 20)  # 16 MiB
    raw, raw_peer = pair(mux)
    with raw_peer:
        plain, pieces = in_pieces(mux, raw, raw_peer, payload)
        assert b"".join(pieces) == payload
        raw.abort()
    conn, peer = pair(mux, framing)
    with peer:
        framed, pieces = in_pieces(mux, conn, peer, head + payload + tail)
        assert pieces == [payload]
    # The same bytes without framing take 11,600 turns too. Copying the carry at
    # each of them was 14 s; searching it from the start is as bad.
    assert framed < 4 * plain + 0.5


def virtual_memory():
    """Bytes of address space this process has mapped."""
    with open(STATM) as figures:
        return int(figures.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists(STATM), reason="reads /proc")
def test_a_claimed_length_reserves_no_memory(mux):
    before = virtual_memory()
    ends = [pair(mux, pymux.LengthPrefix(max_size=1 << 30)) for _ in range(4)]
    for _, peer in ends:
        peer.sendall((1 << 29).to_bytes(4, "big") + b"but little came")
    for _ in range(5):
        mux.harvest(0.001)
    after = virtual_memory()
    for _, peer in ends:
        peer.close()
    assert after - before < 1 << 28


# -- stale events after fork -------------------------------------------------------


def test_a_descriptor_that_a_child_still_holds_leaves_no_stale_events(mux):
    ends = [pair(mux) for _ in range(4)]
    with idle_child():
        ends[0][0].abort()
        ends[1][0].close()
        mux.harvest(0)
        for _, peer in ends:  # the child holds these too
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        harvest_until(mux, lambda acc: mux.stats().connections == 0)
        mux.harvest(0)
        assert_idle(mux)
        conn, peer = pair(mux)  # and new connections meet no old events
        with peer:
            peer.sendall(b"fresh")
            acc = harvest_until(mux, lambda acc: acc.messages)
            assert acc.messages == [(conn, b"fresh")]
            assert acc.closed == []


def watched(mux):
    """How many descriptors the epoll instance of a mux watches."""
    with open(f"/proc/self/fdinfo/{mux.fileno()}") as lines:
        return sum(line.startswith("tfd:") for line in lines)


@pytest.mark.skipif("epoll" not in pymux.backends(), reason="looks into an epoll")
def test_a_closed_connection_leaves_the_poller_although_a_child_holds_it():
    # close(2) alone does not: the registration belongs to what the child holds too.
    with pymux.Mux("epoll") as mux:
        mux.harvest(0)
        before = watched(mux)
        ends = [pair(mux) for _ in range(3)]
        listener = mux.listen(("127.0.0.1", 0))
        mux.harvest(0)
        assert watched(mux) == before + 4
        with idle_child():
            for conn, peer in ends:
                conn.abort()
                peer.close()
            listener.close()
            mux.harvest(0)
            assert watched(mux) == before


# -- a signal slept out ------------------------------------------------------------


class Alarm(Exception):
    """What the signal handler raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_no_signal_is_slept_out(mux):
    # One that lands between the interpreter's check and the wait: 808 of 6,000.
    def handler(number, frame):
        raise Alarm

    rng = random.Random(1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(1500):
            start = time.monotonic()
            with contextlib.suppress(Alarm):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 60e-6))
                while True:
                    mux.harvest(30)
            assert time.monotonic() - start < 15, "the signal waited for the harvest"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- a view overwritten ------------------------------------------------------------


def test_no_view_is_ever_overwritten(mux):
    np = pytest.importorskip("numpy")
    conn, peer = pair(mux)
    rng = random.Random(2)
    kept = []
    with peer:
        for k in range(300):
            data = bytes([k % 256]) * rng.randrange(1, 5000)
            peer.sendall(data)
            batch = mux.harvest(5)
            assert batch.messages == [data]
            view = batch.data
            kind = rng.randrange(5)
            if kind == 0:
                kept.append((view, data))
            elif kind == 1:
                kept.append((view[: len(data) // 2], data[: len(data) // 2]))
                view.release()
            elif kind == 2:
                kept.append((np.frombuffer(view, dtype=np.uint8)[1:], data[1:]))
            elif kind == 3 and kept:
                del kept[rng.randrange(len(kept))]
            del view, batch
            if k % 50 == 0:
                for array, expected in kept:
                    assert bytes(array) == expected
        conn.send(b"done")
        mux.harvest(0)
        assert recv_exactly(peer, 4) == b"done"
    mux.close()
    for array, expected in kept:
        assert bytes(array) == expected


# -- and what goes with them -------------------------------------------------------


def test_random_resets_harm_nobody_else(mux):
    listener = mux.listen(("127.0.0.1", 0), framing=pymux.Lines())
    rng = random.Random(3)
    good = [connect(listener.address) for _ in range(5)]
    expected = [b"" for _ in good]
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 5)
    for turn in range(60):
        bad = connect(listener.address)
        bad.sendall(b"x" * rng.randrange(5000) + b"\n" * rng.randrange(3))
        if rng.random() < 0.5:
            mux.harvest(0)
        reset(bad)
        k = rng.randrange(5)
        line = b"%d" % turn
        good[k].sendall(line + b"\n")
        expected[k] += line.upper() + b"\n"
        for _ in range(3):
            batch = mux.harvest(0.001)
            batch.reply([data.upper() for data in batch.messages])
            acc.add(batch)
    for _ in range(20):
        batch = mux.harvest(0.001)
        batch.reply([data.upper() for data in batch.messages])
        acc.add(batch)
    for sock, answer in zip(good, expected):
        assert recv_exactly(sock, len(answer)) == answer
        sock.close()
    assert {e.errno for _, e in acc.closed if e is not None} <= {errno.ECONNRESET}
