"""Connections over TLS, in each form and by each engine."""

import threading

import pytest

import pymux

from . import util
from .inside import kept_objects
from .tls import NAME, accept, ends, secure
from .util import harvest_until, recv_exactly, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()


@pytest.fixture
def contexts(papers):
    """(a server's context, a client's that trusts it)."""
    return papers.server(), papers.client()


@pytest.mark.parametrize("form", util.FORMS)
def test_a_server_of_each_form_answers_over_tls(form, backend, contexts):
    ours, theirs = contexts
    handler = util.in_form(form, util.capitals)
    with serving(handler, backend, framing=LINES, ssl=ours) as server:
        with secure(server.address, theirs) as peer:
            peer.sendall(b"hello\nyou\n")
            assert recv_exactly(peer, 10) == b"HELLO\nYOU\n"
            peer.sendall(b"long\n")
            assert recv_exactly(peer, util.LONG) == b"x" * (util.LONG - 1) + b"\n"
            assert ends(peer) == b""
        wait_until(lambda: server.stats().connections == 0)
        assert server.stats().tls_handshakes == 1
        assert server.stats().tls_failed == 0


def test_a_mux_connects_over_tls_and_says_when_it_is_verified(mux, contexts):
    ours, theirs = contexts
    with util.listening() as listener:
        conn = mux.connect(
            listener.getsockname(), framing=LINES, ssl=theirs, server_hostname=NAME
        )
        conn.send(b"early")
        assert conn.tls is None
        got = []

        def serve():
            with accept(listener, ours) as peer:
                got.append(recv_exactly(peer, 6))
                peer.sendall(b"one\ntwo\n")
                got.append(ends(peer))

        thread = threading.Thread(target=serve)
        thread.start()
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert acc.opened == [conn]
        assert acc.payloads == [b"one", b"two"]
        assert conn.tls.version == "TLSv1.3"
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
        thread.join()
    assert acc.error(conn) is None
    assert got == [b"early\n", b""]


def test_two_muxes_of_one_thread_talk_to_each_other(mux, backend, contexts):
    ours, theirs = contexts
    with pymux.Mux(backend) as other:
        listener = other.listen(
            ("127.0.0.1", 0),
            framing=LINES,
            ssl=ours,
            handler=lambda conn, data: data.upper(),
        )
        conn = mux.connect(
            listener.address, framing=LINES, ssl=theirs, server_hostname=NAME
        )
        conn.send(b"hello")
        acc = util.Harvested()
        while not acc.messages:
            other.harvest(0.01)
            acc.add(mux.harvest(0.01))
        assert acc.payloads == [b"HELLO"]


@pytest.mark.parametrize("size", [1, 16384, 16385, 1 << 20])
def test_messages_of_each_size_arrive(size, mux, contexts):
    ours, theirs = contexts
    prefix = pymux.LengthPrefix(4, max_size=1 << 21)
    message = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    with serving(lambda conn, data: data, framing=prefix, ssl=ours) as server:
        conn = mux.connect(
            server.address, framing=prefix, ssl=theirs, server_hostname=NAME
        )
        for _ in range(3):
            conn.send(message)
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 3)
        assert acc.payloads == [message] * 3


def test_many_connections_at_once_get_each_their_own_bytes(backend, contexts):
    ours, theirs = contexts
    peers = []
    with serving(lambda c, data: data, backend, framing=LINES, ssl=ours) as server:
        peers = [secure(server.address, theirs) for _ in range(20)]
        for _ in range(3):
            for k, peer in enumerate(peers):
                peer.sendall(b"%d\n" % k * 50)
            for k, peer in enumerate(peers):
                text = b"%d\n" % k * 50
                assert recv_exactly(peer, len(text)) == text
        for peer in peers:
            ends(peer)


def test_a_peer_that_ends_its_stream_still_gets_its_answers(backend, contexts):
    ours, theirs = contexts
    with serving(lambda c, data: data, backend, framing=LINES, ssl=ours) as server:
        peer = secure(server.address, theirs)
        peer.sendall(b"x" * 999 + b"\n")
        assert recv_exactly(peer, 1000) == b"x" * 999 + b"\n"
        assert ends(peer) == b""


def test_each_object_is_let_go_of_when_its_connection_has_ended(mux, contexts):
    ours, theirs = contexts
    listener = mux.listen(("127.0.0.1", 0), ssl=ours)

    def visit():
        for _ in range(3):
            ends(secure(listener.address, theirs))

    thread = threading.Thread(target=visit)
    thread.start()
    acc = harvest_until(mux, lambda acc: len(acc.closed) == 3)
    thread.join()
    mux.harvest(0)
    assert [error for _, error in acc.closed] == [None] * 3
    assert kept_objects(mux) == 0


def test_a_mux_that_is_closed_lets_go_of_all_objects(mux, contexts):
    ours, theirs = contexts
    with serving(lambda conn, data: data, ssl=ours) as server:
        conn = mux.connect(server.address, ssl=theirs, server_hostname=NAME)
        harvest_until(mux, lambda acc: acc.opened)
        view = conn.tls
        assert kept_objects(mux) == 1
        mux.close()
        assert kept_objects(mux) == 0
    assert conn.tls is None
    assert view.version == "TLSv1.3"
