"""A mux as a guest in another loop: fileno() and next_timeout() tell everything."""

import errno
import select
import socket
import time

import pytest

import pymux

from .util import Harvested, connect, harvest_until, pair

polls = pytest.mark.skipif(
    not {"epoll", "kqueue"} & set(pymux.backends()), reason="neither epoll nor kqueue"
)


@pytest.fixture
def fd_mux():
    """A mux whose poller is itself a descriptor."""
    name = next(n for n in pymux.backends() if n in ("epoll", "kqueue"))
    with pymux.Mux(name) as mux:
        yield mux


def readable(mux, timeout=0.0):
    return bool(select.select([mux.fileno()], [], [], timeout)[0])


@pytest.mark.parametrize("name", ["poll", "select"])
def test_a_poller_that_is_no_descriptor_says_so(name):
    if name not in pymux.backends():
        pytest.skip(f"no {name} here")
    with pymux.Mux(name) as mux, pytest.raises(pymux.BackendUnavailable, match=name):
        mux.fileno()


@polls
def test_fileno_is_quiet_while_there_is_nothing(fd_mux):
    _conn, peer = pair(fd_mux)
    with peer:
        fd_mux.harvest(0)
        assert not readable(fd_mux)
        assert fd_mux.next_timeout() is None


@polls
@pytest.mark.parametrize(
    "event",
    [
        lambda mux, peer: peer.sendall(b"x"),
        lambda mux, peer: peer.shutdown(socket.SHUT_WR),
        lambda mux, peer: mux.wakeup(),
        lambda mux, peer: mux.call_threadsafe(int),
    ],
    ids=["message", "end", "wakeup", "threadsafe"],
)
def test_fileno_becomes_readable_when_a_harvest_has_something(fd_mux, event):
    _conn, peer = pair(fd_mux)
    with peer:
        fd_mux.harvest(0)
        event(fd_mux, peer)
        assert readable(fd_mux, 5)
        for _ in range(3):
            fd_mux.harvest(0)
        assert not readable(fd_mux)


@polls
def test_fileno_becomes_readable_when_a_peer_connects(fd_mux):
    listener = fd_mux.listen(("127.0.0.1", 0))
    fd_mux.harvest(0)
    with connect(listener.address):
        assert readable(fd_mux, 5)


def serve_as_guest(mux, done, others=(), timeout=10):
    """Harvest only when fileno() or next_timeout() ask for it, until done(acc)."""
    acc = Harvested()
    deadline = time.monotonic() + timeout
    while not done(acc):
        left = deadline - time.monotonic()
        assert left > 0, f"so far: {acc}"
        due = mux.next_timeout()
        wait = left if due is None else min(left, due)
        ready = select.select([mux.fileno(), *others], [], [], wait)[0]
        for sock in others:
            if sock in ready:
                sock.recv(1 << 20)
        if mux.fileno() in ready or due is not None:
            acc.add(mux.harvest(0))
    return acc


@polls
def test_a_guest_sends_all_its_output(fd_mux):
    conn, peer = pair(fd_mux)
    with peer:
        conn.send(b"x" * 8_000_000)
        serve_as_guest(fd_mux, lambda acc: not conn.queued, others=[peer])


@polls
def test_a_guest_hears_of_an_idle_timeout(fd_mux):
    conn, peer = pair(fd_mux, limits=pymux.Limits(idle_timeout=0.05))
    with peer:
        acc = serve_as_guest(fd_mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ETIMEDOUT


@polls
def test_a_guest_runs_timers(fd_mux):
    ran = []
    fd_mux.call_later(0.02, ran.append, "timer")
    serve_as_guest(fd_mux, lambda acc: ran)


def test_next_timeout_tells_of_a_timer(mux):
    assert mux.next_timeout() is None
    timer = mux.call_later(60, print)
    assert 50 < mux.next_timeout() <= 60
    timer.cancel()
    assert mux.next_timeout() is None


def test_next_timeout_tells_of_a_due_timer(mux):
    mux.call_later(0, int)
    assert mux.next_timeout() == 0


def test_next_timeout_tells_of_buffered_frames(backend):
    with pymux.Mux(backend, max_messages=1) as mux:
        _conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"one\ntwo\n")
            acc = harvest_until(mux, lambda acc: acc.messages)
            assert mux.next_timeout() == 0
            harvest_until(mux, lambda acc: len(acc.messages) == 2, into=acc)


def test_next_timeout_tells_of_unsent_output(mux):
    conn, peer = pair(mux)
    with peer:
        mux.harvest(0)
        assert mux.next_timeout() is None
        conn.send(b"x")
        assert mux.next_timeout() == 0
        mux.harvest(0)
        assert mux.next_timeout() is None
