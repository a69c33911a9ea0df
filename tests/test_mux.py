"""The mux itself: its life, its figures, its listeners, its place in another loop."""

import gc
import os
import socket
import sys

import pytest

import pymux

from .processes import no_descriptor_left, python
from .util import (
    assert_idle,
    connect,
    harvest_until,
    outgoing,
    pair,
    recv_all,
    recv_exactly,
    reset,
    until_end,
)


def open_fds():
    return set(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc"
)


# -- life ------------------------------------------------------------------------


def test_leaving_the_context_closes(backend):
    with pymux.Mux(backend) as mux:
        assert isinstance(mux, pymux.Mux)
    with pytest.raises(RuntimeError):
        mux.harvest(0)


def test_closing_twice_is_harmless(mux):
    mux.close()
    mux.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda mux: mux.harvest(0),
        lambda mux: mux.listen(("127.0.0.1", 0)),
        lambda mux: mux.connect(("127.0.0.1", 9)),
        lambda mux: mux.send_many([], b"x"),
        lambda mux: mux.call_later(0, print),
        lambda mux: mux.call_threadsafe(print),
    ],
)
def test_a_call_after_close_raises(mux, call):
    mux.close()
    with pytest.raises(RuntimeError):
        call(mux)


def test_a_late_wakeup_does_nothing(mux):
    mux.close()
    mux.wakeup()


@needs_proc
def test_close_gives_every_descriptor_back(backend):
    with pymux.Mux(backend) as warm:  # what a first use opens for good is not ours
        warm.harvest(0)
    before = open_fds()
    mux = pymux.Mux(backend)
    conn, peer = pair(mux)
    listener = mux.listen(("127.0.0.1", 0))
    waiting = connect(listener.address)
    conn.send(b"x" * 5_000_000)
    mux.harvest(0)
    mux.close()
    with peer, waiting:
        assert open_fds() - before == {str(peer.fileno()), str(waiting.fileno())}


def test_closing_ends_every_connection(mux):
    conn, peer = pair(mux)
    with peer:
        mux.close()
        assert until_end(peer)[0] == b""
        assert conn.closed


def test_closing_frees_the_port(mux):
    address = mux.listen(("127.0.0.1", 0)).address
    mux.close()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_an_open_mux_that_is_dropped_warns_and_closes(backend):
    mux = pymux.Mux(backend)
    address = mux.listen(("127.0.0.1", 0)).address
    mux.harvest(0)
    with pytest.warns(ResourceWarning, match="[Mm]ux"):
        del mux
        for _ in range(3):
            gc.collect()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="references are not counted here"
)
def test_a_mux_that_has_only_listened_closes_without_the_collector(backend):
    mux = pymux.Mux(backend)
    address = mux.listen(("127.0.0.1", 0)).address
    gc.disable()
    try:
        mux.harvest(0)
        mux.call_later(0, int)
        mux.harvest()
        with pytest.warns(ResourceWarning, match="[Mm]ux"):
            del mux
        with pytest.raises(ConnectionRefusedError):
            connect(address)
    finally:
        gc.enable()


def test_a_closed_mux_that_is_dropped_says_nothing(backend):
    mux = pymux.Mux(backend)
    mux.close()
    del mux
    gc.collect()  # a warning would be an error


def test_a_dropped_mux_with_connections_is_collected(backend):
    mux = pymux.Mux(backend)
    conn, peer = pair(mux)
    conn.state = [conn, mux]
    with peer:
        with pytest.warns(ResourceWarning):
            del conn, mux
            for _ in range(3):
                gc.collect()
        assert until_end(peer)[0] == b""


@needs_proc
def test_every_descriptor_is_close_on_exec(mux):
    before = open_fds()
    with pymux.Mux(mux.backend) as other:
        _conn, peer = pair(other)
        _out, far = outgoing(other)
        other.listen(("127.0.0.1", 0))
        with peer, far:
            new = [int(fd) for fd in open_fds() - before]
            new = [fd for fd in new if os.path.exists(f"/proc/self/fd/{fd}")]
            assert len(new) > 5
            assert [fd for fd in new if os.get_inheritable(fd)] == []


# -- figures ---------------------------------------------------------------------


def test_a_new_mux_counts_nothing(mux):
    stats = mux.stats()
    assert isinstance(stats, pymux.Stats)
    for name, value in vars(stats).items():
        if name != "backend" and name != "buffers":
            assert value == 0, name


def test_stats_count_what_happened(mux):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        peer.sendall(b"one\ntwo\n")
        harvest_until(mux, lambda acc: len(acc.messages) == 2)
        conn.send(b"three")
        mux.harvest(0)
        stats = mux.stats()
        assert (stats.connections, stats.accepted, stats.connected) == (1, 1, 0)
        assert (stats.messages_in, stats.messages_out) == (2, 1)
        assert (stats.bytes_in, stats.bytes_out) == (8, 6)
        assert stats.harvests >= 2
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert (mux.stats().connections, mux.stats().closed) == (0, 1)


def test_stats_count_listeners(mux):
    first = mux.listen(("127.0.0.1", 0))
    mux.listen(("127.0.0.1", 0))
    assert mux.stats().listeners == 2
    first.close()
    mux.harvest(0)
    assert mux.stats().listeners == 1


def test_stats_count_connections_made(mux):
    _, peer = outgoing(mux)
    with peer:
        assert (mux.stats().connected, mux.stats().accepted) == (1, 0)


def test_stats_count_a_reset(mux):
    conn, peer = pair(mux)
    reset(peer)
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert mux.stats().reset == 1


def test_stats_count_what_waits_to_be_sent(mux):
    conn, peer = pair(mux)
    with peer:
        conn.send(b"x" * 8_000_000)
        mux.harvest(0)
        assert 0 < mux.stats().queued == conn.queued < 8_000_000


def test_stats_are_as_before_when_all_is_closed(mux):
    mux.harvest(0)
    before = mux.stats()
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        peer.sendall(b"unfinished" * 5_000)
        mux.harvest(0)
        conn.send(b"x" * 8_000_000)
        mux.harvest(0)
        conn.abort()
        harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    gc.collect()
    mux.harvest(0)
    after = mux.stats()
    for name in ("connections", "listeners", "queued", "buffers", "arenas_held"):
        assert getattr(after, name) == getattr(before, name), name


# -- listeners -------------------------------------------------------------------


def test_a_closed_listener_refuses_and_keeps_its_address(mux):
    listener = mux.listen(("127.0.0.1", 0))
    address = listener.address
    listener.close()
    listener.close()
    mux.harvest(0)
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    assert listener.address == address


def test_a_closed_listener_leaves_its_connections(mux):
    conn, peer = pair(mux)
    with peer:
        peer.sendall(b"still open")
        harvest_until(mux, lambda acc: acc.received(conn) == b"still open")


def test_a_taken_port_is_named(mux):
    address = mux.listen(("127.0.0.1", 0)).address
    with pytest.raises(OSError, match=str(address[1])) as caught:
        mux.listen(address)
    assert "in use" in str(caught.value)
    assert mux.stats().listeners == 1


def test_two_listeners_share_a_port_when_asked(mux):
    first = mux.listen(("127.0.0.1", 0), reuse_port=True)
    second = mux.listen(first.address, reuse_port=True)
    assert second.address == first.address


def test_a_port_can_be_taken_again_at_once(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        conn.close()  # ours is the side that lingers in TIME_WAIT
        mux.harvest(0)
        assert recv_all(peer) == b""
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    listener.close()
    mux.harvest(0)
    again = mux.listen(listener.address)
    with connect(again.address):
        harvest_until(mux, lambda acc: acc.opened)


def test_a_burst_of_connects_waits_in_the_backlog(mux):
    listener = mux.listen(("127.0.0.1", 0))
    crowd = []
    try:
        for _ in range(300):  # nobody harvests meanwhile
            crowd.append(connect(listener.address, timeout=5))
        acc = harvest_until(mux, lambda acc: len(acc.opened) == 300)
        assert mux.stats().accepted == 300
        assert len({conn.id for conn in acc.opened}) == 300
    finally:
        for sock in crowd:
            sock.close()


def test_the_backlog_can_be_chosen(mux):
    listener = mux.listen(("127.0.0.1", 0), backlog=3)
    with connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


def test_each_listener_keeps_its_own_framing(mux):
    lines = mux.listen(("127.0.0.1", 0), framing=pymux.Lines())
    fixed = mux.listen(("127.0.0.1", 0), framing=pymux.Fixed(2))
    with connect(lines.address) as a, connect(fixed.address) as b:
        a.sendall(b"ab\ncd\n")
        b.sendall(b"abcd")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 4)
        assert sorted(acc.payloads) == [b"ab", b"ab", b"cd", b"cd"]


@needs_proc
def test_accepting_pauses_while_no_descriptor_is_left(mux, logged):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address):
        with no_descriptor_left():
            harvest_until(mux, lambda acc: mux.stats().accept_pauses)
            assert_idle(mux)
            assert mux.stats().accepted == 0
        harvest_until(mux, lambda acc: acc.opened)


@needs_proc
def test_accepting_goes_on_when_a_connection_closes(mux, logged):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address) as first:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        with connect(listener.address) as second, no_descriptor_left():
            harvest_until(mux, lambda acc: mux.stats().accept_pauses)
            conn.close()
            mux.harvest(0)
            assert recv_all(first) == b""
            first.shutdown(socket.SHUT_WR)
            acc = harvest_until(mux, lambda acc: acc.opened)
            second.sendall(b"at last")
            harvest_until(mux, lambda acc: acc.payloads == [b"at last"], into=acc)


# -- spinning on purpose ---------------------------------------------------------


@pytest.mark.parametrize("spin", [0.0005, "auto"])
def test_a_mux_that_spins_serves_like_any_other(backend, spin):
    with pymux.Mux(backend, spin=spin) as mux:
        conn, peer = pair(mux)
        with peer:
            for k in range(20):
                peer.sendall(b"%d" % k)
                acc = harvest_until(mux, lambda acc: acc.messages)
                conn.send(acc.received(conn))
                mux.harvest(0)
                assert recv_exactly(peer, len(b"%d" % k)) == b"%d" % k


@pytest.mark.parametrize(
    "error",
    ["MemoryError()", "ImportError()", "OSError(24, 'descriptors')", "LookupError()"],
)
def test_a_mux_opens_where_ctypes_cannot_be_imported(backend, error):
    """It only serves an optimisation, which a service may not be allowed."""
    program = f"""
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name in ("ctypes", "_ctypes"):
            raise {error}

sys.modules.pop("ctypes", None)
sys.meta_path.insert(0, Refusing())
import pymux
from tests import inside

for _ in range(2):
    with pymux.Mux({backend!r}) as mux:
        conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
        conn.send(b"x")
        inside.keep_the_gil(mux)
        while not (batch := mux.harvest(10)).messages:
            pass
        print(batch.messages)
"""
    with python("-c", program) as child:
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "[b'x']\n" * 2, "")
