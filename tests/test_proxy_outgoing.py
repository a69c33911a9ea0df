"""`Mux.connect(proxy=)`: outgoing connections that begin with a PROXY header."""

import pytest

import pymux

from . import util

HERE = pymux.Proxy("127.0.0.0/8")
PEER, OWN = ("192.0.2.1", 50000), ("198.51.100.2", 443)
HEADER = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc6\x33\x64\2\xc3\x50\1\xbb"


class Seen:
    """Keeps how each connection is called, and answers in capitals."""

    def __init__(self):
        self.opened_by = []

    def opened(self, conn):
        self.opened_by.append((conn.peer, conn.local))

    def received(self, conn, data):
        return data.upper()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((PEER, OWN), (PEER, OWN)),
        ((("::1", 1), ("::2", 2)), (("::1", 1), ("::2", 2))),
        (
            (("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2)),
            (("192.0.2.1", 1), ("192.0.2.2", 2)),
        ),
        ((("192.0.2.1", 1), ("::2", 2)), (("::ffff:192.0.2.1", 1), ("::2", 2))),
        ((("fe80::1%eth0", 1, 0, 3), ("::2", 2)), (("fe80::1", 1), ("::2", 2))),
        (("", "/run/s"), None),
    ],
)
def test_an_outgoing_connection_tells_the_names_it_is_given(backend, names, told):
    seen = Seen()
    with (
        util.serving(seen, backend, proxy=HERE) as server,
        pymux.Mux(backend) as mux,
    ):
        conn = mux.connect(server.address, proxy=names)
        conn.send(b"hello!")
        util.harvest_until(mux, lambda record: record.received(conn))
        own = conn.local, conn.peer
    assert seen.opened_by == [told or own]


def test_a_connection_is_passed_on_with_its_names(backend):
    """A balancer of two lines: the server behind it sees the client."""
    seen = Seen()

    class Balancer:
        def opened(self, conn):
            conn.state = conn.mux.connect(behind.address, proxy=conn, handler=self)
            conn.state.state = conn

        def received(self, conn, data):
            conn.state.send(data)

    class Front(Balancer):
        def opened(self, conn):
            if conn.state is None:
                super().opened(conn)

    with (
        util.serving(seen, backend, proxy=HERE) as behind,
        util.serving(Front(), backend) as front,
        util.connect(front.address) as sock,
    ):
        sock.sendall(b"hello!")
        assert util.recv_exactly(sock, 6) == b"HELLO!"
        name, address = sock.getsockname(), front.address
    assert seen.opened_by == [(name, address)]


def test_a_header_goes_out_though_nothing_is_sent(mux, listening):
    mux.connect(listening.getsockname(), proxy=(PEER, OWN))
    util.harvest_until(mux, lambda record: record.opened)
    peer, _ = listening.accept()
    with peer:
        mux.harvest(0)
        assert util.recv_exactly(peer, len(HEADER)) == HEADER


@pytest.mark.parametrize(
    ("proxy", "error"),
    [
        (7, TypeError),
        ((PEER,), TypeError),
        ((PEER, None), TypeError),
        ((("balancer.example", 1), OWN), ValueError),
        ((PEER, ("192.0.2.1", 65536)), ValueError),
        ((PEER, ("192.0.2.1",)), ValueError),
    ],
)
def test_names_that_cannot_be_told_are_refused(mux, listening, proxy, error):
    with pytest.raises(error, match="proxy "):
        mux.connect(listening.getsockname(), proxy=proxy)
