"""Cleaning up twice, late and in any order: where nothing is left to do, nothing is."""

import gc
import itertools
import os
import threading
import warnings

import pytest

import pymux

from . import util

HERE = ("127.0.0.1", 0)
LATE = {
    "Listener.close": lambda it: it.listener.close(),
    "Connection.close": lambda it: it.conn.close(),
    "Connection.abort": lambda it: it.conn.abort(),
    "Connection.pause": lambda it: it.conn.pause(),
    "Connection.resume": lambda it: it.conn.resume(),
    "Connection.send_eof": lambda it: it.conn.send_eof(),
    "Mux.close": lambda it: it.mux.close(),
    "Timer.cancel": lambda it: it.timer.cancel(),
    "Mux.wakeup": lambda it: it.mux.wakeup(),
}


class Things:
    """What a program has at its end."""

    def __init__(self, mux, harvested=True):
        self.mux = mux
        self.listener = mux.listen(HERE)
        self.timer = mux.call_later(100, print)
        if harvested:
            self.conn = mux.connect(self.listener.address)
            util.harvest_until(mux, lambda acc: len(acc.opened) == 2)
        else:
            self.conn = mux.connect(self.listener.address)


def in_thread(fn):
    """Call fn() in a thread of its own; what it raises is raised here."""
    raised = []

    def call():
        try:
            fn()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    for error in raised:
        raise error


@pytest.mark.parametrize("harvested", [True, False])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("call", LATE.values(), ids=LATE)
def test_after_the_mux_has_closed_it_does_nothing(mux, call, where, harvested):
    things = Things(mux, harvested)
    mux.close()
    for _ in range(2):
        call(things) if where == "here" else in_thread(lambda: call(things))
    assert things.conn.queued == 0
    assert things.conn.closed
    assert things.conn.peer == things.listener.address
    in_thread(lambda: things.conn.queued)


def test_all_orders_of_cleaning_up_are_fine(backend):
    names = ["Listener.close", "Connection.close", "Connection.abort", "Mux.close"]
    for order in itertools.permutations(names):
        with pymux.Mux(backend) as mux:
            things = Things(mux)
            for name in order:
                LATE[name](things)
                LATE[name](things)


@pytest.mark.parametrize("call", LATE.values(), ids=LATE)
def test_each_may_be_called_twice_while_the_mux_lives(mux, call):
    things = Things(mux)
    call(things)
    call(things)


def test_another_thread_may_still_not_end_what_is_open(mux):
    things = Things(mux)
    for name in ("Listener.close", "Connection.close", "Connection.abort", "Mux.close"):
        with pytest.raises(RuntimeError, match="thread"):
            in_thread(lambda name=name: LATE[name](things))
    assert not things.conn.closed


def test_closing_after_the_end_was_reported_does_nothing(mux):
    conn, peer = util.pair(mux)
    peer.close()
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    for call in (conn.close, conn.abort, conn.pause, conn.resume, conn.send_eof):
        call()
    assert conn.queued == 0
    mux.harvest(0)


def test_a_send_after_the_mux_has_closed_is_refused(mux):
    conn = Things(mux).conn
    mux.close()
    with pytest.raises(pymux.ConnectionClosed):
        conn.send(b"late")


def test_a_selector_may_be_closed_twice(backend):
    selector = pymux.Selector(backend)
    selector.close()
    selector.close()
    in_thread(selector.close)


def test_a_server_may_be_stopped_again_and_late(backend):
    server = pymux.Server(lambda conn, data: data, HERE, backend=backend)
    server.stop()  # before its start: nothing
    with server:
        address = server.address
        server.stop()
        server.stop(0)
    server.stop(0)
    in_thread(server.stop)
    server.wait()
    assert server.address == address


def test_a_handler_may_close_the_mux_and_what_is_on_it(backend):
    def handler(conn, data):
        mux = conn.mux
        for _ in range(2):
            mux.close()
            conn.close()
            conn.abort()
        return data

    server = pymux.Server(handler, HERE, backend=backend).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        util.until_end(sock)
    server.wait()
    server.stop()


# --- dropped, and collected elsewhere -------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
@pytest.mark.parametrize("waited", [True, False])
def test_a_mux_that_another_thread_collects_lets_go_of_all(backend, tmp_path, waited):
    """Signals may write to its wakeup, which only the main thread can change."""
    before = set(os.listdir("/proc/self/fd"))
    mux = pymux.Mux(backend)
    conn, peer = util.pair(mux)
    mux.listen(tmp_path / "s")
    if waited:
        mux.harvest(0.001)
    with peer, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        holder = [mux, conn]
        gc.disable()
        try:
            del mux, conn
            in_thread(lambda: (holder.clear(), gc.collect()))
        finally:
            gc.enable()
        peer.settimeout(10)
        assert util.until_end(peer)[0] == b""
        assert os.listdir(tmp_path) == []
        left = set(os.listdir("/proc/self/fd")) - before
        assert len(left) <= 3  # the peer, and a wakeup
    with pymux.Mux(backend) as mux:  # the main thread comes by
        mux.harvest(0.001)
    assert set(os.listdir("/proc/self/fd")) == before
