"""Muxes, connections and clients as objects: in a log, weakly held, never copied."""

import asyncio
import copy
import gc
import os
import pickle
import threading
import weakref

import pytest

import pymux

from . import inside, util
from .processes import in_child

HERE = ("127.0.0.1", 0)


def name(address):
    return "{}:{}".format(*address)


def in_thread(fn):
    """What fn() returns in a thread of its own."""
    got = []
    thread = threading.Thread(target=lambda: got.append(fn()))
    thread.start()
    thread.join(10)
    return got[0]


@pytest.mark.parametrize("form", util.FORMS)
def test_the_text_of_a_connection_names_its_peer_and_its_listener(backend, form):
    seen = []

    def answer(data):
        seen.extend(map(repr, inside.connections(servers[0])))
        return data

    with util.serving(util.in_form(form, answer), backend) as server:
        servers = [server]
        with util.connect(server.address) as sock:
            sock.sendall(b"x")
            assert util.recv_exactly(sock, 1) == b"x"
            peer = name(sock.getsockname())
    assert seen == [f"<Connection {peer} at {name(server.address)}, open, id 1/0>"]


def test_the_text_of_an_outgoing_connection_names_its_peer_from_the_first(mux):
    listener = mux.listen(HERE)
    conn = mux.connect(listener.address)
    assert f"<Connection {name(listener.address)} at 127.0.0.1:" in repr(conn)
    util.harvest_until(mux, lambda acc: conn in acc.opened)
    assert f"{name(conn.peer)} at {name(conn.local)}, open" in repr(conn)


def test_the_text_of_a_connection_that_is_refused_names_its_peer(mux):
    conn = mux.connect(("127.0.0.1", util.free_port()))
    peer = conn.peer
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert f"<Connection {name(peer)}" in repr(conn)
    assert "closed" in repr(conn)


def test_the_text_of_an_unnamed_peer_names_the_listeners_path(mux, tmp_path):
    mux.listen(tmp_path / "s")
    with util.connect(tmp_path / "s"):
        (conn,) = util.harvest_until(mux, lambda acc: acc.opened).opened
        assert repr(conn) == (
            f"<Connection unnamed at unix:{tmp_path / 's'}, open, id 1/0>"
        )


@pytest.mark.parametrize("end", ["close", "abort", "peer", "mux"])
def test_the_text_names_the_peer_after_the_end_too(mux, end):
    conn, peer = util.pair(mux)
    before = repr(conn)
    with peer:
        if end == "mux":
            mux.close()
        else:
            (peer.close if end == "peer" else getattr(conn, end))()
            peer.close()
            util.harvest_until(mux, lambda acc: acc.is_closed(conn))
            mux.harvest(0)
            assert repr(conn) == before.replace("open", "closed")
            mux.close()
    assert repr(conn) == before.replace("open", "closed")
    assert in_thread(lambda: repr(conn)) == repr(conn)


def test_the_text_can_be_made_in_any_thread(mux):
    conn, peer = util.pair(mux)
    with peer:
        assert in_thread(lambda: repr(conn)) == "<Connection open, id 1/0>"
        assert "127.0.0.1" in repr(conn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_text_can_be_made_in_a_forked_child(mux):
    conn, peer = util.pair(mux)

    def child():
        assert repr(conn) == "<Connection open, id 1/0>"
        mux.close()
        assert "closed" in repr(conn)

    with peer:
        in_child(child)


def test_the_text_of_a_mux_can_be_made_while_another_thread_closes_it(backend):
    """A count is not read in memory that has been freed."""
    for _ in range(50):
        mux = pymux.Mux(backend)
        done = threading.Event()

        def look(mux=mux, done=done):
            while not done.is_set():
                assert backend in repr(mux)

        thread = threading.Thread(target=look)
        thread.start()
        mux.close()
        done.set()
        thread.join(10)


def test_the_error_of_a_late_send_names_the_peer(mux):
    conn, peer = util.pair(mux)
    with peer:
        conn.close()
        with pytest.raises(pymux.ConnectionClosed, match=name(peer.getsockname())):
            conn.send(b"late")


def test_an_error_of_a_handler_is_logged_with_the_peer(backend, logged):
    def handler(conn, data):
        raise LookupError

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        peer = name(sock.getsockname())
        sock.sendall(b"x")
        assert util.until_end(sock)[0] == b""
    (record,) = logged
    assert peer in record.getMessage()


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_the_text_of_a_connection_of_aio_names_its_peer():
    async def main():
        async with pymux.aio.serve(lambda conn, data: data, HERE) as server:
            conn = await pymux.aio.connect(server.address)
            assert f"Connection {name(server.address)} at" in repr(conn)
            weakref.ref(conn)
            conn.close()
            return conn

    assert "closed" in repr(asyncio.run(main()))


# --- weak references ----------------------------------------------------------


def test_a_room_of_members_may_be_a_weak_set(backend):
    room = weakref.WeakSet()
    gone = []

    class Room:
        def opened(self, conn):
            room.add(conn)

        def received(self, conn, data):
            conn.mux.send_many(room, data)

        def closed(self, conn, error):
            gone.append(conn.id)

    with util.serving(Room(), backend) as server:
        with util.connect(server.address) as one, util.connect(server.address) as two:
            util.wait_until(lambda: len(room) == 2)
            one.sendall(b"hello")
            assert util.recv_exactly(one, 5) == util.recv_exactly(two, 5) == b"hello"
        util.wait_until(lambda: len(gone) == 2)
        util.settle(server)
        util.collect()
        util.wait_until(lambda: not len(room))


def test_a_weak_reference_to_a_connection_lives_as_long_as_it_is_open(mux):
    conn, peer = util.pair(mux)
    kept = weakref.WeakKeyDictionary({conn: "state"})
    with peer:
        del conn
        gc.collect()
        assert len(kept) == 1
        peer.sendall(b"x")
        acc = util.harvest_until(mux, lambda acc: acc.messages)
        assert kept[acc.messages[0][0]] == "state"


def test_a_listener_can_be_weakly_referenced(mux):
    listener = mux.listen(HERE)
    assert weakref.ref(listener)() is listener


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_stands_for_something_in_the_core_is_never_copied(backend, attempt):
    """A copy that is dropped would close the mux of the one that was copied."""
    with (
        util.serving(lambda conn, data: data) as server,
        pymux.connect(server.address, timeout=20) as client,
        pymux.Mux(backend) as mux,
    ):
        listener = mux.listen(HERE)
        for thing in (mux, listener, mux.connect(listener.address), client):
            with pytest.raises(TypeError, match=type(thing).__name__):
                attempt(thing)
        gc.collect()
        assert mux.harvest(20).opened
        client.send(b"still here")
        assert client.recv() == b"still here"
