"""What signals' handlers do to a mux that waits: send, close, harvest, wake."""

import contextlib
import signal
import threading
import time

import pytest

import pymux

from . import inside, util
from .alarms import needs_alarms, on_alarm, on_signal

LONG = 30.0  # a wait that must not be waited out
MORE = 5 << 20  # bytes, more than a send leaves for the harvest

pytestmark = needs_alarms


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

    with on_alarm(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        yield done


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
            mux.harvest(30)
            assert time.monotonic() - start < 15, "the signal waited for the harvest"
            assert len(seen) == turn
            thread.join(10)
