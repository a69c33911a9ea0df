"""Timers and calls from other threads."""

import threading
import time

import pytest

import pymux

from .util import connect, harvest_until, pair, recv_exactly, serving, wait_until


def run_for(mux, condition, timeout=10):
    harvest_until(mux, lambda acc: condition(), timeout)


def test_a_timer_runs_with_its_arguments(mux):
    ran = []
    mux.call_later(0, lambda *args: ran.append(args), 1, "two", None)
    run_for(mux, lambda: ran)
    assert ran == [(1, "two", None)]


def test_a_timer_never_runs_early(mux):
    early = []
    count = [0]

    def check(due):
        count[0] += 1
        if time.monotonic() < due:
            early.append(due - time.monotonic())

    for k in range(40):
        delay = k * 0.0013
        mux.call_later(delay, check, time.monotonic() + delay)
    run_for(mux, lambda: count[0] == 40)
    assert early == []


def test_a_timer_of_a_minute_runs_after_a_minute(mux, clock):
    ran = []
    mux.call_later(60, ran.append, 1)
    clock.advance(59, mux)
    mux.harvest(0)
    assert ran == []
    assert 0 < mux.next_timeout() < 2
    clock.advance(2, mux)
    assert mux.next_timeout() == 0
    mux.harvest(0)
    assert ran == [1]


def test_timers_run_in_the_order_they_are_due(mux):
    ran = []
    for delay in (0.03, 0.01, 0.02, 0.0):
        mux.call_later(delay, ran.append, delay)
    run_for(mux, lambda: len(ran) == 4)
    assert ran == [0.0, 0.01, 0.02, 0.03]


def test_timers_due_together_run_in_the_order_they_were_set(mux):
    ran = []
    for k in range(100):
        mux.call_later(0, ran.append, k)
    run_for(mux, lambda: len(ran) == 100)
    assert ran == list(range(100))


def test_a_timer_runs_once(mux):
    ran = []
    mux.call_later(0, ran.append, 1)
    for _ in range(3):
        mux.harvest(0.005)
    assert ran == [1]


def test_a_cancelled_timer_does_not_run(mux):
    ran = []
    timer = mux.call_later(0, ran.append, "cancelled")
    mux.call_later(0.01, ran.append, "kept")
    timer.cancel()
    run_for(mux, lambda: ran)
    assert ran == ["kept"]


def test_cancelling_twice_or_late_is_harmless(mux):
    ran = []
    timer = mux.call_later(0, ran.append, 1)
    run_for(mux, lambda: ran)
    timer.cancel()
    timer.cancel()
    mux.harvest(0)
    assert ran == [1]


def test_a_timer_can_cancel_another_that_is_due(mux):
    ran = []
    timers = []
    mux.call_later(0, lambda: timers[0].cancel())
    timers.append(mux.call_later(0, ran.append, "cancelled"))
    mux.call_later(0, ran.append, "kept")
    run_for(mux, lambda: ran)
    assert ran == ["kept"]


def test_many_timers_may_be_cancelled(mux):
    ran = []
    timers = [mux.call_later(60, ran.append, k) for k in range(5000)]
    for timer in timers:
        timer.cancel()
    assert mux.next_timeout() is None
    mux.call_later(0, ran.append, "end")
    run_for(mux, lambda: ran)
    assert ran == ["end"]


def test_a_timer_can_set_another(mux):
    ran = []
    mux.call_later(0, lambda: mux.call_later(0, ran.append, "second"))
    run_for(mux, lambda: ran)


def test_a_timer_that_sets_itself_again_does_not_starve_connections(mux):
    conn, peer = pair(mux)
    turns = [0]

    def again():
        turns[0] += 1
        mux.call_later(0, again)

    with peer:
        again()
        peer.sendall(b"let me in")
        harvest_until(mux, lambda acc: acc.received(conn) == b"let me in")
        assert turns[0] > 1


def test_busy_connections_do_not_starve_timers(mux):
    conn, peer = pair(mux)
    ran = []
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            try:
                peer.sendall(b"x" * 65536)
            except OSError:
                return

    thread = threading.Thread(target=flood)
    thread.start()
    mux.call_later(0.05, ran.append, 1)
    run_for(mux, lambda: ran)
    stop.set()
    conn.abort()
    mux.harvest(0)
    thread.join()
    peer.close()


def test_a_timer_can_send(mux):
    conn, peer = pair(mux)
    with peer:
        mux.call_later(0, conn.send, b"from a timer")
        mux.harvest(1)
        mux.harvest(0)
        assert recv_exactly(peer, 12) == b"from a timer"


def test_output_of_a_timer_comes_in_the_order_of_the_program(mux):
    conn, peer = pair(mux)
    with peer:
        conn.send(b"1")
        mux.call_later(0, conn.send, b"2")
        mux.harvest(1)
        conn.send(b"3")
        mux.harvest(0)
        assert recv_exactly(peer, 3) == b"123"


def test_a_delay_that_is_no_number_is_refused(mux):
    with pytest.raises(ValueError, match="nan"):
        mux.call_later(float("nan"), print)
    with pytest.raises(TypeError):
        mux.call_later("soon", print)


def test_what_cannot_be_called_is_refused(mux):
    with pytest.raises(TypeError):
        mux.call_later(0, "not callable")
    with pytest.raises(TypeError):
        mux.call_threadsafe("not callable")


def test_a_timer_of_a_closed_mux_never_runs(mux):
    ran = []
    timer = mux.call_later(0, ran.append, 1)
    mux.close()
    timer.cancel()
    assert ran == []


# -- call_threadsafe ---------------------------------------------------------------


def test_a_threadsafe_call_runs_in_the_thread_of_the_mux(mux):
    ran = []
    mux.harvest(0)
    thread = threading.Thread(
        target=mux.call_threadsafe,
        args=[lambda *args: ran.append((threading.get_ident(), args)), 1, 2],
    )
    thread.start()
    run_for(mux, lambda: ran)
    thread.join()
    assert ran == [(threading.get_ident(), (1, 2))]


def test_threadsafe_calls_keep_each_threads_order_and_lose_none(mux):
    ran = []
    mux.harvest(0)

    def calls(name):
        for k in range(1000):
            mux.call_threadsafe(ran.append, (name, k))

    threads = [threading.Thread(target=calls, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    run_for(mux, lambda: len(ran) == 4000)
    for thread in threads:
        thread.join()
    for name in range(4):
        assert [k for n, k in ran if n == name] == list(range(1000))


def test_a_threadsafe_call_from_the_own_thread_works_too(mux):
    ran = []
    mux.call_threadsafe(ran.append, 1)
    assert ran == []  # not at once: in a harvest
    run_for(mux, lambda: ran)
    assert ran == [1]


def test_a_threadsafe_call_can_set_a_timer(mux):
    ran = []
    mux.call_threadsafe(mux.call_later, 0, ran.append, 1)
    run_for(mux, lambda: ran)


# -- in a server -------------------------------------------------------------------


def test_a_timer_that_raises_is_given_to_on_error(backend):
    errors = []

    def boom():
        raise LookupError("in a timer")

    def echo(conn, data):
        return data

    with serving(
        echo, backend, on_error=lambda conn, exc: errors.append((conn, exc))
    ) as server:
        server.call_threadsafe(lambda mux: mux.call_later(0, boom))
        wait_until(lambda: errors)
        with connect(server.address) as peer:  # and the server goes on
            peer.sendall(b"x")
            assert recv_exactly(peer, 1) == b"x"
    ((conn, exc),) = errors
    assert conn is None
    assert isinstance(exc, LookupError)


def test_a_timer_that_raises_is_logged_once_with_its_traceback(backend, logged):
    def boom():
        raise LookupError("in a timer")

    with serving(lambda conn, data: data, backend) as server:
        server.call_threadsafe(lambda mux: mux.call_later(0, boom))
        wait_until(lambda: logged)
        with connect(server.address) as peer:
            peer.sendall(b"x")
            assert recv_exactly(peer, 1) == b"x"
    (record,) = logged
    assert record.name.split(".")[0] == "pymux"
    assert record.exc_info[0] is LookupError


def test_other_timers_run_when_one_raises(backend):
    ran = []

    def boom():
        raise LookupError

    def three(mux):
        mux.call_later(0, ran.append, "before")
        mux.call_later(0, boom)
        mux.call_later(0, ran.append, "after")

    with serving(lambda c, d: d, backend, on_error=lambda conn, exc: None) as server:
        server.call_threadsafe(three)
        wait_until(lambda: len(ran) == 2)
    assert ran == ["before", "after"]


def test_a_threadsafe_call_of_a_server_gets_its_mux_first(backend):
    got = []
    with serving(lambda conn, data: data, backend) as server:
        server.call_threadsafe(lambda *args: got.append(args), 1, 2)
        wait_until(lambda: got)
    ((mux, one, two),) = got
    assert isinstance(mux, pymux.Mux)
    assert (one, two) == (1, 2)


def coarse(monkeypatch):
    """Have time move in steps of a minute, as it does in smaller ones on Windows."""
    exact = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: exact() // 60 * 60)


@pytest.mark.parametrize("how", ["timer", "threadsafe", "both"])
def test_a_harvest_runs_no_call_that_was_made_in_it(mux, monkeypatch, how):
    coarse(monkeypatch)
    ran = []

    def again():
        ran.append(how)
        assert len(ran) < 100
        if how != "threadsafe":
            mux.call_later(0, again)
        if how != "timer":
            mux.call_threadsafe(again)

    mux.call_later(0, again)
    mux.harvest(0)
    assert len(ran) == 1
    mux.harvest(0)
    assert len(ran) == (3 if how == "both" else 2)


def test_a_harvest_that_gathers_runs_no_call_that_was_made_in_it(mux):
    conn, peer = pair(mux)
    ran = []

    def again():
        ran.append(True)
        mux.call_later(0, again)

    with peer:
        peer.sendall(b"one message")
        again()
        before, batch = len(ran), []
        while not len(batch):
            assert len(ran) - before <= 1
            before = len(ran)
            batch = mux.harvest(10, min_messages=5, max_delay=10)
        assert len(ran) - before <= 1
        assert batch.conns == [conn]


def test_on_a_coarse_clock_timers_run_in_the_order_they_were_set(mux, monkeypatch):
    coarse(monkeypatch)
    ran = []
    for k in range(100):
        mux.call_later(0, ran.append, k)
    while len(ran) < 100:
        mux.harvest(0)
    assert ran == list(range(100))


def test_what_was_due_with_a_call_that_raises_runs_next(mux):
    ran = []

    def fail():
        raise LookupError

    for k in range(3):
        mux.call_later(0, ran.append, k)
        mux.call_later(0, fail)
    for _ in range(3):
        with pytest.raises(LookupError):
            while True:
                mux.harvest(0)
    assert ran == [0, 1, 2]
