"""Connections of sockets that are connected already."""

import contextlib
import errno
import os
import selectors
import socket
import ssl
import sys

import pytest

import pymux

from . import util
from .util import harvest_until, recv_exactly


@pytest.fixture(params=["tcp", "unix"])
def socks(request):
    """(a connected socket, its peer), which wait for each other at most 20 s."""
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs = listener.accept()[0]
    elif hasattr(socket, "AF_UNIX"):
        ours, theirs = socket.socketpair()
    else:
        pytest.skip("no Unix sockets")
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def test_an_adopted_socket_is_a_connection_like_any_other(mux, socks):
    ours, theirs = socks
    peer, local = ours.getpeername() or "", ours.getsockname() or ""
    conn = mux.adopt(ours, framing=pymux.Lines())
    theirs.sendall(b"one\ntwo\n")
    acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    assert acc.opened == [conn]
    assert acc.messages == [(conn, b"one"), (conn, b"two")]
    assert (conn.peer, conn.local) == (peer, local)
    conn.send(b"three")
    mux.harvest(0)
    assert recv_exactly(theirs, 6) == b"three\n"
    theirs.close()
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.closed == [(conn, None)]


def test_the_socket_object_is_detached(mux, socks):
    ours, theirs = socks
    conn = mux.adopt(ours)
    assert ours.fileno() == -1
    ours.close()
    theirs.sendall(b"x")
    acc = harvest_until(mux, lambda acc: acc.received(conn))
    assert acc.received(conn) == b"x"


def test_the_descriptor_is_closed_with_the_connection(mux, socks):
    ours, theirs = socks
    number = ours.fileno()
    conn = mux.adopt(ours)
    conn.send(b"bye")
    conn.close()
    mux.harvest(0)
    assert recv_exactly(theirs, 3) == b"bye"
    assert theirs.recv(1) == b""
    theirs.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_had_arrived_before_is_received(mux, socks):
    ours, theirs = socks
    theirs.sendall(b"early\n")
    theirs.close()
    conn = mux.adopt(ours, framing=pymux.Lines())
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.messages == [(conn, b"early")]
    assert acc.closed == [(conn, None)]


def test_what_is_sent_before_it_opens_leaves_in_order(mux, socks):
    ours, theirs = socks
    conn = mux.adopt(ours)
    conn.send(b"one")
    conn.send(b"two")
    harvest_until(mux, lambda acc: acc.opened)
    assert recv_exactly(theirs, 6) == b"onetwo"


def test_a_connection_that_is_closed_before_it_opens_sends_what_it_has(mux, socks):
    ours, theirs = socks
    conn = mux.adopt(ours)
    conn.send(b"bye")
    conn.close()
    mux.harvest(0)
    assert recv_exactly(theirs, 3) == b"bye"
    theirs.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))


def test_it_counts_as_an_outgoing_connection(mux, socks):
    ours, theirs = socks
    mux.adopt(ours)
    harvest_until(mux, lambda acc: acc.opened)
    stats = mux.stats()
    assert (stats.connected, stats.accepted, stats.connections) == (1, 0, 1)
    theirs.close()
    harvest_until(mux, lambda acc: acc.closed)
    stats = mux.stats()
    assert (stats.connections, stats.closed) == (0, 1)


def test_its_limits_hold(mux, socks, clock):
    ours, _theirs = socks
    conn = mux.adopt(ours, limits=pymux.Limits(idle_timeout=60))
    harvest_until(mux, lambda acc: acc.opened)
    clock.advance(61, mux)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ETIMEDOUT


def test_what_is_sent_may_have_another_framing(mux, socks):
    ours, theirs = socks
    conn = mux.adopt(ours, framing=pymux.Lines(), reply_framing=pymux.LengthPrefix(2))
    theirs.sendall(b"hello\n")
    acc = harvest_until(mux, lambda acc: acc.messages)
    assert acc.messages == [(conn, b"hello")]
    conn.send(b"abc")
    mux.harvest(0)
    assert recv_exactly(theirs, 5) == b"\0\3abc"


def test_half_open_reports_the_end_of_the_peers_stream(mux, socks):
    ours, theirs = socks
    conn = mux.adopt(ours, half_open=True)
    theirs.shutdown(socket.SHUT_WR)
    acc = harvest_until(mux, lambda acc: acc.ended)
    assert acc.ended == [conn]
    conn.send(b"still here")
    mux.harvest(0)
    assert recv_exactly(theirs, 10) == b"still here"


def answer(conn, data):
    return data.upper()


async def coroutine(conn):
    async for data in conn:
        conn.send(data.upper())


@pymux.batched
def batch(batch):
    batch.reply([data.upper() for data in batch.messages])


class Object:
    def received(self, conn, data):
        return data.upper()


@pytest.mark.parametrize("handler", [answer, coroutine, batch, Object()])
def test_a_handler_of_any_form_serves_it(mux, socks, handler):
    ours, theirs = socks
    mux.adopt(ours, framing=pymux.Lines(), handler=handler)
    theirs.sendall(b"hello\n")
    theirs.setblocking(False)
    found = b""

    def answered():
        nonlocal found
        with contextlib.suppress(BlockingIOError):
            found += theirs.recv(100)
        return found == b"HELLO\n"

    harvest_until(mux, lambda _: answered())


def test_a_server_adopts_and_closes_it_when_it_stops(backend, socks):
    ours, theirs = socks
    with util.serving(answer, backend) as server:
        util.in_server(server, lambda mux: mux.adopt(ours, handler=answer))
        theirs.sendall(b"hello")
        assert recv_exactly(theirs, 5) == b"HELLO"
    assert theirs.recv(1) == b""
    assert server.stats().connected == 1


def test_a_peer_that_has_reset_is_reported_with_its_error(mux):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
    conn = mux.adopt(ours)
    util.reset(theirs)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNRESET


def test_a_socket_that_is_refused_stays_the_callers(mux, socks):
    ours, theirs = socks
    with pytest.raises(TypeError):
        mux.adopt(ours, framing="lines")
    with pytest.raises(ValueError, match="Splitter"):
        mux.adopt(ours, reply_framing=pymux.Splitter(lambda: bytes.split))
    with pytest.raises(TypeError):
        mux.adopt(ours, handler=3)
    with pytest.raises(TypeError):
        mux.adopt(ours, limits=3)
    ours.sendall(b"mine")
    assert recv_exactly(theirs, 4) == b"mine"
    mux.adopt(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_a_socket_that_is_watched_is_refused_unchanged(mux, socks):
    ours, _ = socks
    watch = mux.watch(ours, selectors.EVENT_READ, lambda sock, events: None)
    with pytest.raises(FileExistsError, match="close the watch first"):
        mux.adopt(ours)
    watch.close()
    assert os.get_blocking(ours.fileno())
    mux.adopt(ours)


def test_what_is_no_connected_stream_socket_is_refused(mux):
    for wrong in (3, None, "127.0.0.1"):
        with pytest.raises(TypeError, match="connected stream socket"):
            mux.adopt(wrong)
    with socket.socket() as sock:
        with pytest.raises(OSError) as caught:
            mux.adopt(sock)
        assert caught.value.errno == errno.ENOTCONN
        assert sock.fileno() >= 0
    with pytest.raises(OSError) as caught:
        mux.adopt(sock)  # it is closed
    assert caught.value.errno == errno.EBADF
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises(OSError) as caught:
            mux.adopt(sock)
        assert caught.value.errno == errno.ENOTCONN
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        with pytest.raises(OSError) as caught:
            mux.adopt(sock)
        assert caught.value.errno == errno.EINVAL
        assert sock.getblocking()  # as it was
    assert mux.stats().connections == 0


def test_a_tls_socket_is_refused(mux, socks):
    context = ssl.create_default_context()
    with (
        context.wrap_socket(
            socks[0], server_hostname="a", do_handshake_on_connect=False
        ) as wrapped,
        pytest.raises(TypeError, match="plain text"),
    ):
        mux.adopt(wrapped)


def test_a_socket_is_adopted_once(mux, socks):
    copy = socks[0].dup()
    mux.adopt(socks[0])
    with pytest.raises(OSError):
        mux.adopt(socks[0])
    with copy:
        mux.adopt(copy)  # another descriptor of it is another connection
    harvest_until(mux, lambda acc: len(acc.opened) == 2)


def test_a_number_over_the_limit_of_select_is_refused():
    fcntl = pytest.importorskip("fcntl")
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("so many descriptors are not allowed")
    ours, theirs = socket.socketpair()
    number = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, 1500)
    with ours, theirs, socket.socket(fileno=number) as high, pymux.Mux("select") as mux:
        with pytest.raises(pymux.BackendUnavailable, match="1024"):
            mux.adopt(high)
        assert high.fileno() == number
        assert mux.stats().connections == 0


def test_a_function_handler_cannot_adopt_without_a_handler(backend, socks):
    caught = []

    def adopt(conn, data):
        try:
            conn.mux.adopt(socks[0])
        except RuntimeError as error:
            caught.append(str(error))
        return data

    with util.serving(adopt, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"x")
        assert recv_exactly(sock, 1) == b"x"
    assert "handler=" in caught[0]
