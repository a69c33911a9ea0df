"""A mux belongs to the thread of its first harvest."""

import re
import threading
from pathlib import Path

import pytest

import pymux

from . import inside
from .util import connect, harvest_until, outgoing, pair, recv_exactly, wait_until


def in_thread(fn):
    """What fn() raised in another thread, or None."""
    caught = [None]

    def run():
        try:
            fn()
        except BaseException as error:
            caught[0] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0]


CALLS = {
    "harvest": lambda mux, conn: mux.harvest(0),
    "listen": lambda mux, conn: mux.listen(("127.0.0.1", 0)),
    "connect": lambda mux, conn: mux.connect(("127.0.0.1", 9)),
    "send_many": lambda mux, conn: mux.send_many([conn], b"x"),
    "call_later": lambda mux, conn: mux.call_later(0, print),
    "next_timeout": lambda mux, conn: mux.next_timeout(),
    "stats": lambda mux, conn: mux.stats(),
    "close": lambda mux, conn: mux.close(),
    "conn.send": lambda mux, conn: conn.send(b"x"),
    "conn.send_eof": lambda mux, conn: conn.send_eof(),
    "conn.close": lambda mux, conn: conn.close(),
    "conn.abort": lambda mux, conn: conn.abort(),
    "conn.fail": lambda mux, conn: conn.fail(ValueError()),
    "conn.pause": lambda mux, conn: conn.pause(),
    "conn.resume": lambda mux, conn: conn.resume(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_from_another_thread_raises_and_does_nothing(mux, call):
    conn, peer = pair(mux)
    with peer:
        mux.harvest(0)
        error = in_thread(lambda: call(mux, conn))
        assert isinstance(error, RuntimeError)
        assert "thread" in str(error)
        conn.send(b"unharmed")
        mux.harvest(0)
        assert recv_exactly(peer, 8) == b"unharmed"


def test_closing_a_listener_from_another_thread_raises(mux):
    listener = mux.listen(("127.0.0.1", 0))
    mux.harvest(0)
    assert isinstance(in_thread(listener.close), RuntimeError)
    with connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


def test_replying_from_another_thread_raises(mux):
    conn, peer = pair(mux)
    with peer:
        peer.sendall(b"x")
        batch = mux.harvest(5)
        assert isinstance(in_thread(lambda: batch.reply([b"y"])), RuntimeError)
        assert isinstance(in_thread(lambda: batch.reply_data(b"y")), RuntimeError)
        conn.send(b"z")
        mux.harvest(0)
        assert recv_exactly(peer, 1) == b"z"


def test_a_mux_may_be_made_in_one_thread_and_used_in_another(backend):
    mux = pymux.Mux(backend)
    address = mux.listen(("127.0.0.1", 0)).address
    got = []

    def use():
        with mux, connect(address):
            got.extend(harvest_until(mux, lambda acc: acc.opened).opened)

    assert in_thread(use) is None
    assert len(got) == 1


def test_the_thread_of_the_first_harvest_owns_the_mux(backend):
    mux = pymux.Mux(backend)
    harvested, done = threading.Event(), threading.Event()

    def use():
        mux.harvest(0)
        harvested.set()
        done.wait(10)
        mux.close()

    thread = threading.Thread(target=use)
    thread.start()
    try:
        assert harvested.wait(10)
        with pytest.raises(RuntimeError):
            mux.harvest(0)
    finally:
        done.set()
        thread.join()


def test_wakeup_and_call_threadsafe_may_come_from_any_thread(mux):
    mux.harvest(0)
    assert in_thread(mux.wakeup) is None
    assert in_thread(lambda: mux.call_threadsafe(int)) is None


def test_after_close_a_threadsafe_call_raises_in_any_thread(mux):
    mux.close()
    assert isinstance(in_thread(lambda: mux.call_threadsafe(int)), RuntimeError)


def test_after_close_a_wakeup_from_any_thread_does_nothing(mux):
    mux.close()
    assert in_thread(mux.wakeup) is None


def test_wakeups_racing_with_close_are_harmless(backend):
    for _ in range(10):
        mux = pymux.Mux(backend)
        start = threading.Barrier(3)
        errors = []

        def wake(mux=mux, start=start, errors=errors):
            start.wait()
            try:
                for _ in range(500):
                    mux.wakeup()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=wake) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        mux.harvest(0)
        mux.close()
        for thread in threads:
            thread.join()
        assert errors == []


def test_two_muxes_in_two_threads_do_not_meet(backend):
    results = []

    def use(text):
        with pymux.Mux(backend) as mux:
            conn, peer = pair(mux)
            with peer:
                for _ in range(100):
                    peer.sendall(text)
                    acc = harvest_until(mux, lambda acc: acc.messages)
                    conn.send(acc.received(conn))
                    mux.harvest(0)
                    assert recv_exactly(peer, len(text)) == text
        results.append(text)

    threads = [threading.Thread(target=use, args=[t]) for t in (b"one", b"other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [b"one", b"other"]


def test_two_muxes_in_one_thread_do_not_meet(backend):
    with pymux.Mux(backend) as first, pymux.Mux(backend) as second:
        listener = first.listen(("127.0.0.1", 0))
        conn = second.connect(listener.address)
        conn.send(b"across")
        second.harvest(0)
        acc = harvest_until(first, lambda acc: acc.messages)
        assert acc.payloads == [b"across"]
        with pytest.raises((ValueError, RuntimeError)):
            first.send_many([conn], b"to a stranger")


def test_views_may_be_read_in_any_thread(mux):
    _conn, peer = pair(mux)
    with peer:
        peer.sendall(b"shared")
        view = mux.harvest(5).data
        got = []
        assert in_thread(lambda: got.append(bytes(view))) is None
        assert got == [b"shared"]


def test_other_threads_run_while_a_harvest_waits(mux):
    ran = threading.Event()
    mux.harvest(0)

    def work():
        ran.set()
        mux.wakeup()

    thread = threading.Thread(target=work)
    thread.start()
    mux.harvest(10)
    thread.join()
    assert ran.is_set()


def test_a_connection_made_before_the_first_harvest_moves_along(backend):
    mux = pymux.Mux(backend)
    listener = mux.listen(("127.0.0.1", 0))
    conn = mux.connect(listener.address)
    conn.send(b"packed")

    def use():
        with mux:
            acc = harvest_until(mux, lambda acc: acc.messages)
            assert acc.payloads == [b"packed"]

    assert in_thread(use) is None


def test_outgoing_and_accepted_ones_belong_to_the_same_thread(mux):
    conn, peer = outgoing(mux)
    with peer:
        error = in_thread(lambda: conn.send(b"x"))
        assert isinstance(error, RuntimeError)


def test_of_threads_that_harvest_first_at_once_one_owns_the_mux(backend):
    for _ in range(20):
        mux = pymux.Mux(backend)
        start = threading.Barrier(4)
        outcomes = []

        def harvest(mux=mux, start=start, outcomes=outcomes):
            start.wait(10)
            try:
                outcomes.append(len(mux.harvest(0.05)))
                mux.close()
            except RuntimeError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=harvest) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count(0) == 1, outcomes
        assert all("thread" in text or "closed" in text for text in outcomes if text)


def test_a_call_while_another_thread_is_in_the_core_is_refused(mux):
    """It may have seen that nobody owns the mux, just before the other came."""
    listener = mux.listen(("127.0.0.1", 0))
    harvesting = threading.Thread(target=mux.harvest, args=(30,))
    harvesting.start()
    wait_until(lambda: inside.harvests(mux) == 1)  # it is in the core
    calls = (
        lambda: mux.listen(("127.0.0.1", 0)),
        lambda: mux.connect(("127.0.0.1", 9)),
        mux.next_timeout,
        listener.close,
    )
    try:
        for call in calls:
            inside.own(mux, None)
            with pytest.raises(RuntimeError, match="inside"):
                call()
        assert inside.listeners(mux) == 1
    finally:
        inside.own(mux, harvesting.ident)
        mux.wakeup()
        harvesting.join()
        inside.own(mux, None)
    with connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


# What any thread may call at any time, and what makes a mux.
FREE = {"name", "forked", "counts", "wakeup_fd", "woken_fd", "wakeup"}
FREE |= {"open", "open_small"}
CSRC = Path(__file__).parent.parent / "csrc"


@pytest.mark.skipif(not CSRC.is_dir(), reason="the core's source is not here")
def test_every_call_that_touches_a_mux_comes_through_one_door():
    header = (CSRC / "pymux.h").read_text(encoding="utf-8")
    declared = re.findall(r"\bpmx_(\w+)\((?:const )?pmx_(?:mux|turn) \*", header)
    entry = (CSRC / "entry.c").read_text(encoding="utf-8")
    assert set(declared) - FREE
    for name in set(declared) - FREE:
        assert re.search(rf"^\w+ pmx_{name}\(", entry, re.M), name


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
