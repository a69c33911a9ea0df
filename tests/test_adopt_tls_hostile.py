"""Peers of adopted sockets that do not get through the handshake; and what cannot speak
TLS."""

import contextlib
import errno
import io
import os
import socket
import ssl
import sys
import warnings

import pytest

import pymux

from . import util
from .logs import at_debug
from .tls import NAME
from .tls_peers import OtherEnd, go_on_until, pair_of_tcp
from .util import harvest_until, recv_exactly

pytestmark = pytest.mark.usefixtures("secured_by")


# --- hostile peers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"hello\n" * 10,
        bytes(5000),
        b"\x16\x03\x01\0\5aaaaa",
    ],
    ids=["http", "lines", "zeroes", "a broken hello"],
)
def test_plain_text_ends_the_connection_and_no_other(mux, papers, sent):
    ours, theirs = pair_of_tcp()
    good, beside = pair_of_tcp()
    with at_debug() as records, theirs, beside:
        theirs.sendall(sent)
        conn = mux.adopt(ours, ssl=papers.server())
        other = mux.adopt(good, ssl=papers.server())
        peer = OtherEnd(beside, papers.client(), server_hostname=NAME)
        acc = go_on_until(mux, peer, lambda acc: acc.closed and acc.opened)
    assert acc.opened == [other]
    assert isinstance(acc.error(conn), ssl.SSLError)
    assert mux.stats().tls_failed == 1
    (record,) = [record for record in records if record.event == "handshake"]
    assert record.levelname == "DEBUG"
    assert not [record for record in records if record.event == "connect"]


def test_a_client_that_fails_is_told_to_closed_and_not_to_on_error(backend, papers):
    told, errors = [], []

    class Handler:
        def opened(self, conn):
            told.append("opened")

        def closed(self, conn, error):
            told.append(type(error))

    def echo(conn, data):
        return data

    def on_error(conn, error):
        errors.append(error)

    with util.serving(echo, backend, on_error=on_error) as server:
        for handler in Handler(), echo:
            ours, theirs = pair_of_tcp()
            options = {"ssl": papers.server(), "handler": handler}
            util.in_server(
                server, lambda mux, *a: mux.adopt(a[0], **a[1]), ours, options
            )
            theirs.sendall(b"no hello, no hello, no hello")
            util.until_end(theirs)
            theirs.close()
        util.wait_until(lambda: server.stats().closed == 2 and told)
        util.in_server(server, lambda mux: None)
    assert told == [ssl.SSLError]
    assert errors == []


@pytest.mark.parametrize(
    "says", [b"", b"\x16\x03\x01\x02\0\1\0"], ids=["nothing", "a part"]
)
def test_a_reset_in_the_handshake_ends_the_connection(mux, papers, says):
    ours, theirs = pair_of_tcp()
    conn = mux.adopt(ours, ssl=papers.server())
    mux.harvest(0)
    theirs.sendall(says)
    mux.harvest(0)
    util.reset(theirs)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNRESET
    assert acc.opened == []
    assert (mux.stats().tls_failed, mux.stats().connections) == (1, 0)


def test_a_peer_that_has_gone_before_the_adoption_is_reported(mux, papers):
    ours, theirs = pair_of_tcp()
    peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
    peer.begin()
    theirs.close()
    conn = mux.adopt(ours, ssl=papers.server())
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert isinstance(acc.error(conn), OSError)
    assert acc.opened == []


def test_the_handshake_of_an_adopted_client_has_a_time_limit(mux, papers, clock):
    ours, theirs = pair_of_tcp()
    limits = pymux.Limits(handshake_timeout=60)
    with theirs:
        conn = mux.adopt(ours, ssl=papers.server(), limits=limits)
        theirs.sendall(b"\x16\x03\x01\x02\0\1\0")  # a hello that never ends
        mux.harvest(0)
        clock.advance(59, mux)
        util.assert_nothing(mux)
        clock.advance(2, mux)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert isinstance(acc.error(conn), TimeoutError)
    assert mux.stats().tls_failed == 1


def test_unfinished_handshakes_of_adopted_clients_are_bounded(mux, papers):
    context, limits = papers.server(), pymux.Limits(max_handshakes=2)
    with contextlib.ExitStack() as stack:
        pairs = [pair_of_tcp() for _ in range(5)]
        for pair in pairs:
            for sock in pair:
                stack.enter_context(sock)
        (one, its_peer), (two, _), (three, _), (four, _), (five, _) = pairs
        first = mux.adopt(one, ssl=context, limits=limits)
        second = mux.adopt(two, ssl=context, limits=limits)
        with pytest.raises(BlockingIOError, match="max_handshakes, 2, is reached"):
            mux.adopt(three, ssl=context, limits=limits)
        assert three.fileno() >= 0  # it is the caller's
        mux.adopt(four, ssl=papers.server(), limits=limits)  # by another context
        peer = OtherEnd(its_peer, papers.client(), server_hostname=NAME)
        acc = go_on_until(mux, peer, lambda acc: acc.opened)
        assert acc.opened == [first]
        mux.adopt(three, ssl=context, limits=limits)
        with pytest.raises(BlockingIOError):
            mux.adopt(five, ssl=context, limits=limits)
        second.abort()
        harvest_until(mux, lambda acc: acc.is_closed(second))
        mux.harvest(0)
        mux.adopt(five, ssl=context, limits=limits)


# --- what cannot be -------------------------------------------------------------------


def of_either_side():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ssl.SSLContext(ssl.PROTOCOL_TLS)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (lambda papers: {"ssl": True}, TypeError, "ssl is True.*PROTOCOL_TLS_SERVER"),
        (lambda papers: {"ssl": False}, TypeError, "ssl is False.*PROTOCOL_TLS_CLIENT"),
        (lambda papers: {"ssl": "cert.pem"}, TypeError, "ssl.SSLContext"),
        (lambda papers: {"ssl": of_either_side()}, ValueError, "TLS, .*either side"),
        (lambda papers: {"ssl": papers.client()}, ValueError, "a name is needed"),
        (
            lambda papers: {"ssl": papers.server(), "server_hostname": NAME},
            ValueError,
            "server_hostname is 'localhost'.*the peer is a client",
        ),
        (lambda papers: {"server_hostname": NAME}, ValueError, "ssl is None"),
        (lambda papers: {"require_close_notify": False}, ValueError, "ssl is None"),
        (
            lambda papers: {"ssl": papers.client(), "server_hostname": 3},
            TypeError,
            "a str",
        ),
    ],
)
def test_what_tells_no_side_or_name_is_refused(mux, papers, options, error, text):
    ours, theirs = pair_of_tcp()
    with ours, theirs:
        with pytest.raises(error, match=text):
            mux.adopt(ours, **options(papers))
        ours.sendall(b"mine")
        assert recv_exactly(theirs, 4) == b"mine"
    assert mux.stats().connections == 0


def test_what_is_no_plain_stream_socket_speaks_no_tls(mux, papers):
    context = papers.server()
    ours, theirs = pair_of_tcp()
    with theirs:
        wrapped = papers.client().wrap_socket(
            ours, server_hostname=NAME, do_handshake_on_connect=False
        )
        with wrapped, pytest.raises(TypeError, match=r"has not wrapped.*as ssl="):
            mux.adopt(wrapped, ssl=context)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        with pytest.raises(OSError, match="connected stream socket") as caught:
            mux.adopt(sock, ssl=context)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError, match="connected stream socket"):
        mux.adopt(io.BytesIO(), ssl=context)


@pytest.mark.skipif(sys.platform == "win32", reason="it cannot adopt pipes")
def test_a_pipe_speaks_no_tls(mux, papers):
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as reading, os.fdopen(writer, "wb") as writing:
        for file in reading, writing:
            with pytest.raises(ValueError, match="the end of a pipe"):
                mux.adopt(file, ssl=papers.server())
            assert not file.closed


def test_a_detached_speaks_no_tls(mux, papers):
    listener = mux.listen(("127.0.0.1", 0))
    with socket.create_connection(listener.address) as client:
        acc = harvest_until(mux, lambda acc: acc.opened)
        with mux.detach(acc.opened[0]) as detached:
            with pytest.raises(ValueError, match="a Detached goes on as it was"):
                mux.adopt(detached, ssl=papers.server())
            conn = mux.adopt(detached)
        client.sendall(b"here")
        acc = harvest_until(mux, lambda acc: acc.received(conn))
    assert acc.received(conn) == b"here"


def test_a_connection_that_was_adopted_over_tls_does_not_move(mux, papers):
    ours, theirs = pair_of_tcp()
    with theirs:
        conn = mux.adopt(ours, ssl=papers.server())
        assert mux.detach(conn) is None
        peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
        go_on_until(mux, peer, lambda acc: acc.opened)
        assert mux.detach(conn) is None


def test_clients_of_many_contexts_leave_nothing_behind(mux, papers):
    client = papers.client()
    certificate = papers.certificate()
    for _ in range(70):
        ours, theirs = pair_of_tcp()
        with theirs:
            conn = mux.adopt(ours, ssl=papers.server(certificate))
            peer = OtherEnd(theirs, client, server_hostname=NAME)
            go_on_until(mux, peer, lambda acc: acc.opened)
            conn.close()
            go_on_until(mux, peer, lambda acc, peer=peer: peer.end)
        harvest_until(mux, lambda acc: not mux.stats().connections)
    assert (mux.stats().tls_handshakes, mux.stats().buffers) == (70, 0)
