"""What muxes and clients once got wrong, each with the test that it would fail."""

import contextlib
import errno
import signal
import socket
import threading
import time

import pytest

import pymux
from tests import inside, util

LONG = 30.0  # a wait that must not be waited out
MORE = 5 << 20  # bytes, more than a send leaves for the harvest

signals = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="no interval timers here"
)


@contextlib.contextmanager
def on_signal(number, handler):
    """Install a handler for the block; pending alarms end with it."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


@contextlib.contextmanager
def in_the_wait(mux, act):
    """Call act() once in a signal's handler, as soon as it comes while the mux waits.

    Gives a list that holds one item when that has happened.
    """
    done = []

    def handler(number, frame):
        if not done and inside.is_in_the_core(mux):
            done.append(number)
            signal.setitimer(signal.ITIMER_REAL, 0)
            act()

    with on_signal(signal.SIGALRM, handler):
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        yield done


# -- signals ---------------------------------------------------------------------


@signals
def test_what_a_signals_handler_sends_during_a_wait_leaves_once(mux):
    conn, peer = util.pair(mux)
    got = []
    reader = threading.Thread(target=lambda: got.append(util.recv_all(peer)))
    with peer:
        conn.send(b"before ")
        with in_the_wait(mux, lambda: conn.send(b"y" * MORE)) as done:
            util.harvest_until(mux, lambda acc: done)
        conn.send(b" after")
        reader.start()
        util.harvest_until(mux, lambda acc: not conn.queued)
        conn.send_eof()
        util.harvest_until(mux, lambda acc: not reader.is_alive())
    assert got == [b"before " + b"y" * MORE + b" after"]


@signals
def test_close_in_a_signals_handler_takes_effect_after_the_wait(mux):
    still = []

    def close():
        mux.close()
        still.append(mux.call_later(LONG, print))  # no error: not closed yet

    with in_the_wait(mux, close) as done:
        batch = mux.harvest(LONG)
        assert done
    assert len(batch) == 0
    assert len(still) == 1
    with pytest.raises(RuntimeError, match="closed"):
        mux.harvest(0)


@signals
def test_harvest_in_a_signals_handler_during_a_wait_is_a_runtime_error(mux):
    conn, peer = util.pair(mux)
    caught = []

    def act():
        peer.sendall(b"still comes")
        with pytest.raises(RuntimeError, match="harvest") as info:
            mux.harvest(0)
        caught.append(info.value)

    with peer, in_the_wait(mux, act):
        acc = util.harvest_until(mux, lambda acc: acc.messages)
    assert acc.messages == [(conn, b"still comes")]
    assert len(caught) == 1


@signals
def test_of_muxes_that_take_turns_none_sleeps_a_signal_out(backend):
    seen = []

    def handler(number, frame):
        seen.append(number)
        for mux in muxes:
            mux.wakeup()

    def kill():
        # In another thread: the wait itself is not interrupted.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    muxes = [pymux.Mux(backend), pymux.Mux(backend)]
    with muxes[0], muxes[1], on_signal(signal.SIGUSR1, handler):
        for mux in muxes:
            mux.harvest(0.001)
        for turn, mux in enumerate([*muxes, *muxes], 1):
            while mux.harvest(0) or mux.next_timeout() == 0:
                """Let no earlier wakeup end the wait."""
            thread = threading.Timer(0.02, kill)
            thread.start()
            start = time.monotonic()
            mux.harvest(5)
            assert time.monotonic() - start < 4, "the signal waited for the harvest"
            assert len(seen) == turn
            thread.join(10)


# -- sending ---------------------------------------------------------------------


def test_a_subclass_of_bytes_can_be_sent_and_counts(mux):
    class Text(bytes):
        """Bytes with another name."""

    conn, peer = util.pair(mux)
    with peer:
        conn.send(Text(b"abc"))
        assert conn.queued == 3
        assert mux.send_many([conn], Text(b"de")) == 1
        assert conn.queued == 5
        mux.harvest(0)
        assert util.recv_exactly(peer, 5) == b"abcde"
        peer.sendall(b"question")
        while not len(batch := mux.harvest(1)):
            """Until it has come."""
        batch.reply([Text(b"answer")])
        mux.harvest(0)
        assert util.recv_exactly(peer, 6) == b"answer"


def test_bytes_that_leave_during_a_pause_start_the_idle_clock_again(mux):
    idle = 0.16
    conn, peer = util.pair(mux, limits=pymux.Limits(idle_timeout=idle))
    with peer:
        mux.harvest(0.1)
        conn.pause()
        mux.harvest(0)
        conn.send(b"x")
        mux.harvest(0)
        assert util.recv_exactly(peer, 1) == b"x"
        conn.resume()
        start = time.monotonic()
        acc = util.harvest_until(mux, lambda acc: acc.closed)
        assert time.monotonic() - start > idle - 0.02
    assert acc.errno(conn) == errno.ETIMEDOUT


# -- ends ------------------------------------------------------------------------


def test_a_mux_may_be_closed_by_one_of_several_threadsafe_calls(backend):
    mux = pymux.Mux(backend)
    called = []
    mux.call_threadsafe(called.append, 1)
    mux.call_threadsafe(mux.close)
    mux.call_threadsafe(called.append, 2)
    mux.call_threadsafe(called.append, 3)
    assert len(mux.harvest(0)) == 0
    assert called == [1]
    with pytest.raises(RuntimeError, match="closed"):
        mux.harvest(0)


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


def test_a_client_that_closes_on_much_unread_input_destroys_nothing_it_sent():
    data = b"d" * 200_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with pymux.connect(listener.getsockname(), timeout=10) as client:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                util.fill(peer, 400_000)
                client.send(data)
                client.close()
                assert util.until_end(peer) == (data, None)


def test_whom_a_connection_was_for_is_known_before_its_failure_is_reported(
    mux, tmp_path
):
    conn = mux.connect(tmp_path / "nobody")  # fails at once, is reported later
    assert conn.peer == str(tmp_path / "nobody")
    acc = util.harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ENOENT
    assert conn.peer == str(tmp_path / "nobody")
