"""A server over TLS that leaves, while peers are in the middle of their handshakes."""

import contextlib
import socket
import threading

import pytest

import pymux

from . import util
from .tls import NAME, ends, secure
from .tls_peers import OtherEnd, go_on_until, pair_of_tcp
from .util import harvest_until, recv_exactly

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()
HALF_A_HELLO = b"\x16\x03\x01\x02\0\1\0"


def upper(conn, data):
    return data.upper()


@pytest.fixture
def stuck():
    """Connects peers that never finish their hello."""
    with contextlib.ExitStack() as stack:

        def connect(address):
            peer = stack.enter_context(util.connect(address))
            peer.sendall(HALF_A_HELLO)
            return peer

        yield connect


def test_handshakes_that_hang_keep_nobody_in_the_backlog_of_who_retires(
    mux, papers, stuck
):
    limits = pymux.Limits(max_handshakes=1)
    listener = mux.listen(("127.0.0.1", 0), ssl=papers.server(), limits=limits)
    stuck(listener.address)
    with util.connect(listener.address) as one, util.connect(listener.address) as two:
        peers = [OtherEnd(s, papers.client(), server_hostname=NAME) for s in (one, two)]
        for peer in peers:
            peer.begin()
        harvest_until(mux, lambda acc: mux.stats().handshake_pauses)
        mux.retire()

        def both(acc):
            peers[1].go_on()
            return len(acc.opened) == 2

        go_on_until(mux, peers[0], both)
        assert mux.stats().listeners == 0


def test_who_shakes_hands_while_a_server_retires_is_served(backend, papers):
    with contextlib.ExitStack() as stack:
        options = {"framing": LINES, "ssl": papers.server()}
        server = stack.enter_context(util.serving(upper, backend, **options))
        sock = stack.enter_context(util.connect(server.address))
        util.wait_until(lambda: server.stats().accepted == 1)
        server.retire()
        util.wait_until(lambda: server.stats().listeners == 0)
        peer = papers.client().wrap_socket(
            sock, server_hostname=NAME, suppress_ragged_eofs=False
        )
        peer.sendall(b"hello\n")
        assert recv_exactly(peer, 6) == b"HELLO\n"
        ends(peer)


def test_who_shakes_hands_while_a_server_lingers_has_its_turn(backend, papers, stuck):
    with util.serving(upper, backend, framing=LINES, ssl=papers.server()) as server:
        slow = util.connect(server.address)
        hangs = stuck(server.address)
        open_one = secure(server.address, papers.client())
        util.wait_until(lambda: server.stats().tls_handshakes == 1)
        util.wait_until(lambda: server.stats().accepted == 3)
        stopping = threading.Thread(target=server.stop, args=[5], kwargs={"linger": 3})
        stopping.start()
        assert open_one.recv(1) == b""  # and not a cut
        open_one.close()
        peer = papers.client().wrap_socket(
            slow, server_hostname=NAME, suppress_ragged_eofs=False
        )
        assert peer.recv(1) == b""
        peer.close()
        with contextlib.suppress(ConnectionError):
            assert hangs.recv(100) == b""  # when the time is over
        stopping.join()
    stats = server.stats()
    assert (stats.tls_handshakes, stats.tls_failed, stats.connections) == (2, 1, 0)


def test_a_stop_waits_for_no_handshake(backend, papers, stuck):
    handler = util.Ends()
    with util.serving(handler, backend, framing=LINES, ssl=papers.server()) as server:
        peers = [stuck(server.address) for _ in range(20)]
        util.wait_until(lambda: server.stats().accepted == 20)
        with secure(server.address, papers.client()) as good:
            good.sendall(b"hello\n")
            assert recv_exactly(good, 6) == b"hello\n"
            stopping = threading.Thread(target=server.stop, args=[100])
            stopping.start()
            assert good.recv(1) == b""
            good.unwrap().close()
        stopping.join(50)
        assert not stopping.is_alive()
        for peer in peers:
            util.until_end(peer)
    assert len(handler.open) == 1
    assert server.stats().tls_failed == 20


def test_a_stop_waits_for_no_handshake_of_an_adopted_client(backend, papers):
    context = papers.server()
    with util.serving(upper, backend, framing=LINES) as server:
        theirs = []

        def adopt(mux):
            ours, peer = pair_of_tcp()
            theirs.append(peer)
            mux.adopt(ours, ssl=context, handler=upper).send(b"early")

        for _ in range(3):
            util.in_server(server, adopt)
        theirs[0].sendall(HALF_A_HELLO)
        stopping = threading.Thread(target=server.stop, args=[100])
        stopping.start()
        stopping.join(50)
        assert not stopping.is_alive()
        for peer in theirs:
            util.until_end(peer)
            peer.close()
    assert server.stats().tls_handshakes == 0


def test_peers_in_their_handshake_do_not_disturb_one_that_moves(
    mux, backend, papers, stuck
):
    secured = mux.listen(("127.0.0.1", 0), ssl=papers.server())
    plain = mux.listen(("127.0.0.1", 0), framing=LINES)
    client = util.connect(plain.address)
    hangs = [stuck(secured.address) for _ in range(5)]
    sock = util.connect(secured.address)
    with client, sock, pymux.Mux(backend) as heir:
        peer = OtherEnd(sock, papers.client(), server_hostname=NAME)
        peer.begin()
        client.sendall(b"whole\npart")
        acc = harvest_until(mux, lambda acc: acc.messages)
        (conn,) = [conn for conn, _ in acc.messages]
        hangs.pop().close()
        with mux.detach(conn) as detached:
            moved = heir.adopt(detached, framing=LINES)
        acc = go_on_until(mux, peer, lambda acc: mux.stats().tls_handshakes, acc)
        assert mux.detach(acc.opened[-1]) is None  # its keys are here
        peer.send(b"secret")
        acc = go_on_until(mux, peer, lambda acc: len(acc.messages) == 2, acc)
        assert acc.messages[1] == (acc.opened[-1], b"secret")
        client.sendall(b"ial\n")
        acc = harvest_until(heir, lambda acc: acc.messages)
        assert acc.messages == [(moved, b"partial")]
        client.shutdown(socket.SHUT_WR)
        harvest_until(heir, lambda acc: acc.is_closed(moved))
