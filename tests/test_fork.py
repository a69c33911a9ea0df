"""A forked child has no mux, and harms its parent's by nothing it does."""

import contextlib
import gc
import os
import socket
import warnings

import pytest

import pymux

from .processes import idle_child, in_child
from .util import assert_idle, connect, harvest_until, pair, recv_all, recv_exactly

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def raises(call):
    """Run in the child: assert that a call raises a RuntimeError."""
    with pytest.raises(RuntimeError):
        call()


def echoes(mux, conn, peer):
    """Assert that a connection still works both ways."""
    peer.sendall(b"ping")
    harvest_until(mux, lambda acc: acc.received(conn) == b"ping")
    conn.send(b"pong")
    mux.harvest(0)
    assert recv_exactly(peer, 4) == b"pong"


CALLS = {
    "harvest": lambda mux, conn: mux.harvest(0),
    "listen": lambda mux, conn: mux.listen(("127.0.0.1", 0)),
    "connect": lambda mux, conn: mux.connect(("127.0.0.1", 9)),
    "send_many": lambda mux, conn: mux.send_many([conn], b"x"),
    "call_later": lambda mux, conn: mux.call_later(0, print),
    "next_timeout": lambda mux, conn: mux.next_timeout(),
    "stats": lambda mux, conn: mux.stats(),
    "conn.send": lambda mux, conn: conn.send(b"x"),
    "conn.close": lambda mux, conn: conn.close(),
    "conn.abort": lambda mux, conn: conn.abort(),
    "conn.fail": lambda mux, conn: conn.fail(ValueError()),
    "conn.pause": lambda mux, conn: conn.pause(),
}


def test_a_child_may_not_answer_later_and_drops_nothing_of_its_parents(mux, lines):
    _, peer = lines
    peer.sendall(b"ping\n")
    later = [mux.harvest(5).later()]

    def child():
        raises(lambda: later[0].reply([b"x"]))
        raises(lambda: later[0].fail(ValueError()))
        later.clear()
        gc.collect()

    in_child(child)
    mux.harvest(0)
    later[0].reply([b"pong"])
    mux.harvest(0)
    assert recv_exactly(peer, 5) == b"pong\n"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_in_a_child_raises_and_harms_nothing(mux, call):
    conn, peer = pair(mux)
    with peer:
        in_child(lambda: raises(lambda: call(mux, conn)))
        echoes(mux, conn, peer)


def test_closing_in_a_child_leaves_the_parents_connections(mux):
    conn, peer = pair(mux)
    with peer:
        in_child(mux.close)
        echoes(mux, conn, peer)


def test_closing_in_a_child_leaves_the_parents_listeners(mux):
    listener = mux.listen(("127.0.0.1", 0))
    in_child(mux.close)
    with connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


def test_closing_in_a_child_leaves_the_parents_socket_file(mux, tmp_path):
    path = tmp_path / "s"
    mux.listen(path)
    in_child(mux.close)
    assert path.exists()
    with connect(path):
        harvest_until(mux, lambda acc: acc.opened)


def test_closing_in_a_child_leaves_what_is_pending(mux):
    conn, peer = pair(mux)
    with peer:
        conn.send(b"x" * 8_000_000)
        mux.harvest(0)
        conn.close()
        in_child(mux.close)
        mux.harvest(0)
        got = 0
        while got < 8_000_000:
            got += len(peer.recv(1 << 20))
            mux.harvest(0)
        assert recv_all(peer) == b""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_closing_in_a_child_frees_its_descriptors(mux):
    _conn, peer = pair(mux)
    mux.listen(("127.0.0.1", 0))
    with peer:

        def child():
            before = set(os.listdir("/proc/self/fd"))
            mux.close()
            after = set(os.listdir("/proc/self/fd"))
            assert len(before - after) >= 3  # connection, listener, wakeup

        in_child(child)


def test_collecting_in_a_child_harms_nothing(backend, tmp_path):
    path = tmp_path / "s"
    holder = [pymux.Mux(backend)]
    holder[0].listen(path)
    with connect(path) as peer:
        holder += harvest_until(holder[0], lambda acc: acc.opened).opened

        def child():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                holder.clear()
                for _ in range(3):
                    gc.collect()
            assert path.exists()

        in_child(child)
        echoes(*holder, peer)
        holder[0].close()


def test_a_child_may_have_a_mux_of_its_own(mux):
    conn, peer = pair(mux)

    def child():
        mux.close()
        with pymux.Mux(mux.backend) as own:
            theirs, far = pair(own)
            with far:
                echoes(own, theirs, far)

    with peer:
        in_child(child)
        echoes(mux, conn, peer)


def test_a_child_may_read_the_views_it_was_born_with(mux):
    _conn, peer = pair(mux)
    with peer:
        peer.sendall(b"inherited")
        view = mux.harvest(5).data

        def child():
            mux.close()
            assert bytes(view) == b"inherited"

        in_child(child)
        assert bytes(view) == b"inherited"


def test_a_wakeup_in_a_child_does_not_wake_the_parent(mux):
    mux.harvest(0)

    def child():
        with contextlib.suppress(RuntimeError):
            mux.wakeup()

    in_child(child)
    assert_idle(mux, 0.05)


def test_the_peer_sees_the_end_although_a_child_holds_the_descriptor(mux):
    conn, peer = pair(mux)
    with peer, idle_child():
        conn.send(b"bye")
        conn.close()
        mux.harvest(0)
        assert recv_all(peer) == b"bye"
        peer.shutdown(socket.SHUT_RDWR)  # the child holds this one too
        harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert_idle(mux)


def test_a_closed_listener_refuses_although_a_child_holds_it(mux):
    listener = mux.listen(("127.0.0.1", 0))
    mux.harvest(0)
    with idle_child():
        listener.close()
        mux.harvest(0)
        with pytest.raises(ConnectionRefusedError):
            connect(listener.address)
