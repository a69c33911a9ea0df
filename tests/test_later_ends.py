"""Connections that are owed answers: how they end, by whom, and with which error."""

import contextlib
import errno
import socket
import threading

import pytest

import pymux

from . import stops, util
from .interrupts import at_each_place, interrupted, needs_tracing
from .logs import at_debug
from .serving import Owed, OwedAndTold, in_thread
from .serving import later_upper as upper
from .util import Boom

LINES = pymux.Lines()
LONG = 100  # seconds, more than any time that the tests set


@pytest.fixture
def server(owing):
    return owing


@pytest.fixture
def sock(server):
    with util.connect(server.address) as sock:
        yield sock


# --- ends of connections -------------------------------------------------------------


def test_a_peer_that_has_ended_its_stream_gets_its_answers(owed, server, sock):
    sock.sendall(b"a\n")
    first = owed.take(b"a")
    sock.sendall(b"b\n")
    second = owed.take(b"b")
    sock.shutdown(socket.SHUT_WR)
    util.settle(server)
    upper(second, b"b")
    util.settle(server)
    assert server.stats().connections == 1
    upper(first, b"a")
    assert util.recv_all(sock) == b"A\nB\n"
    util.wait_until(lambda: owed.ends == [None])


def test_a_last_batch_that_is_answered_at_once_waits_for_nothing(backend):
    kept = []

    @pymux.batched
    def handler(batch):
        if not kept:
            kept.append(batch.later())
        else:
            upper(kept[0], b"a")
            batch.reply([b"last"] * len(batch))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        util.wait_until(lambda: kept)
        with util.held(server):
            sock.sendall(b"b\n")
            sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b"A\nlast\n"


def test_answers_come_before_a_last_batch_with_the_end_is_answered(backend):
    kept, go = [], threading.Event()

    @pymux.batched
    def handler(batch):
        if not kept:
            kept.append(batch.later())
            return
        thread = threading.Thread(target=upper, args=[kept[0], b"a"])
        thread.start()  # its answer comes in a turn of its own
        thread.join()
        kept.append(batch.later())
        go.set()

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        util.wait_until(lambda: kept)
        with util.held(server):
            sock.sendall(b"b\n")
            sock.shutdown(socket.SHUT_WR)
        assert util.recv_exactly(sock, 2) == b"A\n"
        assert go.wait(10)
        util.settle(server)
        upper(kept[1], b"b")
        assert util.recv_all(sock) == b"B\n"


def test_bytes_that_are_no_frame_end_a_connection_behind_its_answers(backend):
    owed = OwedAndTold()
    framing = pymux.Lines(max_size=10)
    with (
        util.serving(owed, backend, framing=framing) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        later = owed.take(b"a")
        sock.sendall(b"x" * 100)
        util.settle(server)
        upper(later, b"a")
        assert util.recv_exactly(sock, 2) == b"A\n"
        util.wait_until(lambda: owed.ends)
    assert owed.ends[0].errno == errno.EMSGSIZE


def test_a_peer_that_is_reset_ends_at_once_and_its_answers_are_discarded(
    owed, server, sock
):
    sock.sendall(b"a\n")
    later = owed.take(b"a")
    util.reset(sock)
    util.wait_until(lambda: owed.ends)
    assert owed.ends[0].errno == errno.ECONNRESET
    upper(later, b"a")
    util.settle(server)
    assert server.stats().discarded >= 1


def test_a_connection_that_this_side_closes_does_not_wait(mux, lines):
    conn, peer = lines
    peer.sendall(b"a\n")
    later = mux.harvest(5).later()
    conn.close()
    upper(later, b"a")
    mux.harvest(0)
    assert util.recv_all(peer) == b""
    peer.close()
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))


# --- stop, close, fork ---------------------------------------------------------------


def test_stop_waits_for_what_is_owed(owed, backend):
    with (
        stops.started(owed, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        later = owed.take(b"a")
        with stops.stopping(server, LONG):
            upper(later, b"a")
            assert util.recv_all(sock) == b"A\n"
    assert owed.ends == [None]


def test_stop_waits_within_its_time(owed, backend):
    with (
        stops.started(owed, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        later = owed.take(b"a")
        stops.stop(server, 0)
        assert util.until_end(sock)[0] == b""
    assert [error.errno for error in owed.ends] == [errno.ETIMEDOUT]
    upper(later, b"a")  # nobody gets it, nothing is raised


def test_what_is_given_after_the_close_is_discarded(mux, lines):
    _, peer = lines
    peer.sendall(b"a\nb\nc\nd\n")
    later = mux.harvest(5).later()
    mux.close()
    assert in_thread(upper, later, b"a", b"b", b"c", b"d") is None
    assert util.recv_all(peer) == b""


def test_one_that_is_dropped_after_the_close_is_nothing(mux, abc, logged):
    batch, _ = abc
    later = batch.later()
    mux.close()
    del later
    util.collect()
    assert not logged


# --- failures ------------------------------------------------------------------------


def test_fail_ends_the_connections_and_is_told_as_an_error_of_the_handler(
    owed, server, sock
):
    sock.sendall(b"a\nb\n")
    later = owed.take(b"a", b"b")
    boom = Boom("of the thread")
    assert in_thread(later.fail, boom) is None
    assert util.recv_all(sock) == b""
    sock.close()
    util.wait_until(lambda: owed.ends)
    (error,) = owed.ends
    assert error.errno == errno.ECONNABORTED
    assert error.__cause__ is boom
    assert owed.errors == [(None, boom)]


def test_a_failed_row_ends_its_connection_and_no_other(backend, tmp_path):
    owed = OwedAndTold()
    with util.serving(
        owed, backend, tmp_path / "s", framing=LINES, on_error=owed.on_error
    ) as server:
        socks = [util.connect(server.address) for _ in range(3)]
        util.wait_until(lambda: server.stats().connections == 3)
        with util.held(server):
            for sock, word in zip(socks, (b"a", b"b", b"c")):
                sock.sendall(word + b"\n")
        util.wait_until(lambda: owed.batches)
        ((messages, later),) = owed.batches
        assert sorted(messages) == [b"a", b"b", b"c"]
        boom = Boom("row b")
        later.fail(boom, messages.index(b"b"))
        upper(later, *messages)
        assert util.recv_exactly(socks[0], 2) == b"A\n"
        assert util.recv_all(socks[1]) == b""
        assert util.recv_exactly(socks[2], 2) == b"C\n"
        socks[1].close()
        util.wait_until(lambda: owed.ends)
        assert owed.ends[0].__cause__ is boom
        assert owed.errors == []
        for sock in socks:
            sock.close()


def test_one_that_is_dropped_ends_its_connections_and_is_told(owed, server, sock):
    sock.sendall(b"a\n")
    later = owed.take(b"a")
    del later
    owed.batches.clear()
    util.collect()
    assert util.recv_all(sock) == b""
    sock.close()
    util.wait_until(lambda: owed.ends)
    assert owed.ends[0].errno == errno.ECONNABORTED
    ((conn, error),) = owed.errors
    assert conn is None
    assert "dropped without answers" in str(error)
    assert owed.ends[0].__cause__ is error


def test_a_dropped_one_is_logged_where_nobody_else_is_told(backend, logged):
    owed = Owed()
    with (
        util.serving(owed, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        owed.take(b"a")
        util.collect()
        assert util.recv_all(sock) == b""
    (record,) = logged
    assert "dropped without answers" in str(record.exc_info[1])


def test_a_handler_that_raises_behind_it_has_failed(backend, logged):
    kept = []

    @pymux.batched
    def handler(batch):
        kept.append(batch.later())
        raise Boom

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        assert util.recv_all(sock) == b""
        upper(kept.pop(), b"a")
        util.settle(server)
    assert len(logged) == 1


def test_an_end_is_logged_once_its_answers_are_in(backend):
    owed = OwedAndTold()
    with at_debug() as records, util.serving(owed, backend, framing=LINES) as server:
        with util.connect(server.address) as sock:
            sock.sendall(b"a\n")
            later = owed.take(b"a")
            sock.shutdown(socket.SHUT_WR)
            util.settle(server)
            assert not [one for one in records if one.event == "closed"]
            upper(later, b"a")
            assert util.recv_all(sock) == b"A\n"
        util.wait_until(lambda: [one for one in records if one.event == "closed"])


# --- signals -------------------------------------------------------------------------


@needs_tracing
@pytest.mark.parametrize("from_thread", [False, True])
def test_whatever_a_signal_interrupts_the_connection_is_answered_or_ends(
    backend, from_thread
):
    """Its peer has ended its stream, so that it ends in any case."""

    def scene(nth):
        with pymux.Mux(backend) as mux:
            conn, peer = util.pair(mux, LINES)
            with peer:
                peer.sendall(b"a\n")
                batch = mux.harvest(5)
                kept = []

                def call():
                    kept.append(batch.later())
                    upper_in = threading.Thread(target=upper, args=[kept[0], b"a"])
                    if from_thread:
                        upper_in.start()
                        upper_in.join()
                    else:
                        upper(kept[0], b"a")
                    mux.harvest(0)

                where, _ = interrupted(call, nth)
                with contextlib.suppress(RuntimeError):  # it was given, or is lost
                    upper(kept[0] if kept else batch.later(), b"a")
                kept.clear()
                peer.shutdown(socket.SHUT_WR)
                acc = util.harvest_until(mux, lambda acc: acc.is_closed(conn))
                failed = acc.errno(conn) == errno.ECONNABORTED
                got = util.until_end(peer)[0]
                assert got == b"A\n" or (failed and got == b""), where
        return where

    assert at_each_place(scene) > 30
