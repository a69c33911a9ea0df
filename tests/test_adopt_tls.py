"""Sockets that are connected already, and speak TLS once they are adopted."""

import contextlib
import socket
import ssl
import threading

import pytest

import pymux

from . import util
from .tls import NAME, secure
from .tls_peers import OtherEnd, go_on_until, pair_of_tcp
from .util import harvest_until, recv_exactly

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()


@pytest.fixture(params=["tcp", "unix"])
def socks(request):
    """(a connected socket, its peer)."""
    if request.param == "tcp":
        ours, theirs = pair_of_tcp()
    elif hasattr(socket, "AF_UNIX"):
        ours, theirs = socket.socketpair()
    else:
        pytest.skip("no Unix sockets")
    with ours, theirs:
        yield ours, theirs


# --- the peer is a client -------------------------------------------------------------


def test_a_client_that_is_adopted_is_served_over_tls(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, framing=LINES, ssl=papers.server())
    assert ours.fileno() == -1
    peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
    acc = go_on_until(mux, peer, lambda acc: acc.opened and peer.up)
    assert acc.opened == [conn]
    assert (conn.tls.version, conn.tls.server_name) == ("TLSv1.3", NAME)
    peer.send(b"one\ntwo\n")
    acc = go_on_until(mux, peer, lambda acc: len(acc.messages) == 2)
    assert acc.messages == [(conn, b"one"), (conn, b"two")]
    conn.send(b"three")
    conn.close()
    acc = go_on_until(mux, peer, lambda acc: peer.end)
    assert peer.got == b"three\n"
    assert peer.end == "bye"
    theirs.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
    assert acc.error(conn) is None
    stats = mux.stats()
    assert (stats.tls_handshakes, stats.tls_failed, stats.connected) == (1, 0, 1)
    assert (stats.accepted, stats.connections) == (0, 0)


def test_what_came_before_the_adoption_begins_the_handshake(mux, socks, papers):
    ours, theirs = socks
    peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
    peer.begin()  # its hello lies in the kernel
    conn = mux.adopt(ours, framing=LINES, ssl=papers.server())
    acc = go_on_until(mux, peer, lambda acc: acc.opened)
    peer.send(b"hello\n")
    acc = go_on_until(mux, peer, lambda acc: acc.messages, acc)
    assert acc.messages == [(conn, b"hello")]


def test_what_is_sent_before_it_opens_follows_the_handshake(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, framing=LINES, ssl=papers.server())
    conn.send(b"early")
    assert conn.tls is None
    peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
    go_on_until(mux, peer, lambda acc: peer.got == b"early\n")


def test_a_close_before_it_opens_loses_nothing_that_was_sent(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, ssl=papers.server())
    conn.send(b"bye" * 50_000)
    conn.close()
    mux.harvest(0)
    peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
    go_on_until(mux, peer, lambda acc: peer.end)
    assert (peer.got, peer.end) == (b"bye" * 50_000, "bye")


def test_a_server_adopts_clients_and_ends_their_streams_when_it_stops(backend, papers):
    ours, theirs = pair_of_tcp()
    context = papers.server()

    def upper(conn, data):
        return data.upper()

    def adopt(mux):
        mux.adopt(ours, framing=LINES, ssl=context, handler=upper)

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(util.serving(upper, backend, framing=LINES))
        util.in_server(server, adopt)
        peer = stack.enter_context(
            papers.client().wrap_socket(
                theirs, server_hostname=NAME, suppress_ragged_eofs=False
            )
        )
        peer.sendall(b"hello\n")
        assert recv_exactly(peer, 6) == b"HELLO\n"
        plain = util.exchange(server.address, b"plain\n", 6)
        assert plain == b"PLAIN\n"
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert peer.recv(1) == b""  # and not a cut
        peer.close()
        stopping.join()


def test_a_client_certificate_is_asked_for_as_the_context_says(mux, papers):
    context = papers.server(verify_mode=ssl.CERT_REQUIRED)
    papers.ca.configure_trust(context)
    client = papers.client()
    papers.certificate("a.client").configure_cert(client)
    ours, theirs = pair_of_tcp()
    with theirs:
        conn = mux.adopt(ours, ssl=context)
        peer = OtherEnd(theirs, client, server_hostname=NAME)
        go_on_until(mux, peer, lambda acc: acc.opened)
        names = conn.tls.peer_certificate()["subjectAltName"]
        assert names == (("DNS", "a.client"),)
    ours, theirs = pair_of_tcp()
    with theirs:
        conn = mux.adopt(ours, ssl=context)
        peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
        acc = go_on_until(mux, peer, lambda acc: acc.is_closed(conn))
        assert acc.opened == []
        assert isinstance(acc.error(conn), ssl.SSLError)


def test_a_session_ticket_waits_for_the_first_answer(mux, papers, secured_by):
    ours, theirs = pair_of_tcp()
    with theirs:
        conn = mux.adopt(ours, ssl=papers.server())
        peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
        go_on_until(mux, peer, lambda acc: acc.opened)
        peer.go_on()
        if secured_by == "adopted" and ssl.OPENSSL_VERSION_INFO >= (3,):
            assert not peer.object.session.has_ticket
        conn.send(b"answer")
        go_on_until(mux, peer, lambda acc: peer.got == b"answer")
        assert peer.object.session.has_ticket


def test_a_cut_is_an_error_unless_the_call_says_otherwise(mux, papers):
    for strict in True, False:
        ours, theirs = pair_of_tcp()
        with theirs:
            conn = mux.adopt(ours, ssl=papers.server(), require_close_notify=strict)
            peer = OtherEnd(theirs, papers.client(), server_hostname=NAME)
            go_on_until(mux, peer, lambda acc: acc.opened)
            theirs.shutdown(socket.SHUT_WR)
            acc = go_on_until(mux, peer, lambda acc, conn=conn: acc.is_closed(conn))
            assert isinstance(acc.error(conn), ssl.SSLEOFError) is strict


def test_a_client_that_the_program_has_accepted_is_served(mux, papers):
    caught = []

    def client(address):
        with secure(address, papers.client()) as sock:
            sock.sendall(b"hello\n")
            caught.append(recv_exactly(sock, 6))
            sock.unwrap().close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=client, args=[listener.getsockname()])
        thread.start()
        sock, _ = listener.accept()
        conn = mux.adopt(sock, framing=LINES, ssl=papers.server())
        harvest_until(mux, lambda acc: acc.messages)
        conn.send(b"HELLO")
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        thread.join()
    assert acc.error(conn) is None
    assert caught == [b"HELLO\n"]


# --- the peer is a server -------------------------------------------------------------


def test_a_server_that_is_adopted_is_verified(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, framing=LINES, ssl=papers.client(), server_hostname=NAME)
    conn.send(b"hello")
    peer = OtherEnd(theirs, papers.server(), server_side=True)
    acc = go_on_until(mux, peer, lambda acc: peer.got == b"hello\n")
    assert acc.opened == [conn]
    assert conn.tls.server_name == NAME
    peer.send(b"answer\n")
    acc = go_on_until(mux, peer, lambda acc: acc.messages, acc)
    assert acc.messages == [(conn, b"answer")]


def test_a_server_with_another_name_is_refused(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, ssl=papers.client(), server_hostname="example.org")
    peer = OtherEnd(theirs, papers.server(), server_side=True)
    acc = go_on_until(mux, peer, lambda acc: acc.is_closed(conn))
    assert isinstance(acc.error(conn), ssl.SSLCertVerificationError)
    assert acc.opened == []


def test_a_context_that_checks_no_name_needs_none(mux, socks, papers):
    ours, theirs = socks
    conn = mux.adopt(ours, ssl=papers.client(check_hostname=False))
    peer = OtherEnd(theirs, papers.server(), server_side=True)
    acc = go_on_until(mux, peer, lambda acc: acc.opened)
    assert acc.opened == [conn]


def test_one_mux_has_both_ends(mux, papers):
    ours, theirs = pair_of_tcp()
    one = mux.adopt(ours, ssl=papers.server())
    two = mux.adopt(theirs, ssl=papers.client(), server_hostname=NAME)
    data = bytes(range(256)) * 4000
    one.send(data)
    two.send(data)
    acc = harvest_until(
        mux, lambda acc: len(acc.received(one)) == len(acc.received(two)) == len(data)
    )
    assert acc.received(one) == acc.received(two) == data
