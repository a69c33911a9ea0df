"""`send_many` with `skip_over`, which passes slow readers over; and `queued`."""

import contextlib
import threading

import pytest

import pymux

from . import util
from .util import harvest_until, pair, recv_exactly

BIG = 8_000_000  # more than the kernel takes from a reader that does not read
ENOUGH = pymux.Limits(max_output=4 * BIG)


@pytest.fixture
def ends(mux):
    """Three pairs (Connection, socket); the second has BIG bytes that nobody reads."""
    made = [pair(mux, limits=ENOUGH) for _ in range(3)]
    slow = made[1][0]
    slow.send(b"x" * BIG)
    mux.harvest(0)
    assert slow.queued > 1000
    yield made
    for _, sock in made:
        sock.close()


def conns_of(ends):
    return [conn for conn, _ in ends]


def test_slow_readers_are_passed_over(mux, ends):
    conns = conns_of(ends)
    before = conns[1].queued
    assert mux.send_many(conns, b"news", skip_over=1000) == 2
    assert conns[1].queued == before
    mux.harvest(0)
    for k in (0, 2):
        assert recv_exactly(ends[k][1], 4) == b"news"


def test_a_reader_with_as_much_as_may_be_is_not_passed_over(mux, ends):
    conns = conns_of(ends)
    queued = conns[1].queued
    assert mux.send_many(conns, b"a", skip_over=queued - 1) == 2
    assert mux.send_many(conns[1:2], b"b", skip_over=queued) == 1
    assert conns[1].queued == queued + 1
    assert mux.send_many(conns[1:2], b"c", skip_over=queued) == 0
    assert mux.send_many(conns[1:2], b"c") == 1
    assert conns[1].queued == queued + 2


def test_a_slow_reader_is_sent_to_again_when_it_has_read(mux, ends):
    conn, sock = ends[1]
    assert mux.send_many([conn], b"y", skip_over=0) == 0
    reader = threading.Thread(target=recv_exactly, args=[sock, BIG])
    reader.start()
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    assert mux.send_many([conn], b"z", skip_over=0) == 1
    mux.harvest(0)
    assert recv_exactly(sock, 1) == b"z"


def test_what_this_turn_has_sent_makes_no_reader_slow(mux, ends):
    conn, sock = ends[0]
    for _ in range(50):
        assert mux.send_many([conn], b"x" * 1000, skip_over=2000) == 1
        assert conn.queued <= 3000
    conn.send(b"y" * 5000)
    assert mux.send_many([conn], b"z", skip_over=0) == 1
    mux.harvest(0)
    assert recv_exactly(sock, 55_001) == b"x" * 50_000 + b"y" * 5000 + b"z"


def test_what_a_slow_reader_was_sent_in_this_turn_counts(mux, ends):
    conn = ends[1][0]
    most = conn.queued + 1500
    assert mux.send_many([conn], b"x" * 1000, skip_over=most) == 1
    assert mux.send_many([conn], b"x" * 1000, skip_over=most) == 1
    assert mux.send_many([conn], b"x" * 1000, skip_over=most) == 0
    assert conn.queued == most + 500


def test_output_behind_a_close_of_another_connection_counts(backend):
    """While a handler runs, what was logged after a close is not offered yet."""
    took = []

    class Fan:
        def __init__(self):
            self.conns = []

        def opened(self, conn):
            self.conns.append(conn)

        def received(self, conn, data):
            one, two = self.conns[:2]
            one.close()
            two.send(b"x" * 1000)
            mux = conn.mux
            took.append(mux.send_many([two, conn], b"y", skip_over=1000))
            took.append(mux.send_many([two, conn], b"z", skip_over=1000))
            took.append(two.queued)

    fan = Fan()
    with util.serving(fan, backend) as server, contextlib.ExitStack() as stack:
        socks = []
        for k in range(3):
            socks.append(stack.enter_context(util.connect(server.address)))
            util.wait_until(lambda k=k: len(fan.conns) > k)
        socks[2].sendall(b"go")
        assert recv_exactly(socks[2], 2) == b"yz"
        assert recv_exactly(socks[1], 1001) == b"x" * 1000 + b"y"
        assert util.until_end(socks[0]) == (b"", None)
    assert took == [2, 1, 1001]


def test_answers_that_a_handler_has_returned_count(backend):
    queued = []

    def handler(conn, data):
        queued.append(conn.queued)
        return data * 100

    with util.serving(handler, backend, framing=pymux.Lines()) as server:
        sent = b"ab\n" * 3
        assert util.everything(server.address, sent) == (b"ab" * 100 + b"\n") * 3
    assert queued[0] == 0
    assert set(queued) <= {0, 200, 400}


def test_connections_that_are_closed_are_passed_over_too(mux, ends):
    conns = conns_of(ends)
    conns[0].close()
    conns[2].send_eof()
    assert mux.send_many(conns, b"x", skip_over=1000) == 0
    assert mux.send_many(conns, b"x") == 1


@pytest.mark.parametrize(
    ("skip_over", "error"), [(-1, ValueError), (2**63, ValueError), ("1", TypeError)]
)
def test_skip_over_is_a_number_of_bytes(mux, ends, skip_over, error):
    with pytest.raises(error, match="skip_over"):
        mux.send_many(conns_of(ends), b"x", skip_over=skip_over)


def test_a_framing_that_cannot_carry_it_is_asked_of_those_that_take_it(mux):
    conn, sock = pair(mux, pymux.Fixed(4))
    with sock:
        with pytest.raises(ValueError, match="4"):
            mux.send_many([conn], b"12345", skip_over=0)
        assert mux.send_many([conn], b"1234", skip_over=0) == 1
        mux.harvest(0)
        assert recv_exactly(sock, 4) == b"1234"


def test_queued_is_of_the_connection_and_not_of_its_place(mux):
    """A slot is used again; the connection that was there has nothing queued."""
    conn, sock = pair(mux, limits=ENOUGH)
    conn.send(b"x" * BIG)
    mux.harvest(0)
    assert conn.queued
    conn.abort()
    harvest_until(mux, lambda acc: acc.closed)
    sock.close()
    places = {conn.id & 0xFFFFFFFF}
    made = []
    while conn.id & 0xFFFFFFFF not in {one.id & 0xFFFFFFFF for one, _ in made}:
        made.append(pair(mux, limits=ENOUGH))
        made[-1][0].send(b"y" * BIG)
        mux.harvest(0)
        assert len(made) < 5
    assert made[-1][0].id & 0xFFFFFFFF in places
    assert made[-1][0].queued
    assert conn.queued == 0
    for _, sock in made:
        sock.close()


def test_queued_is_nothing_once_the_mux_has_closed(backend):
    mux = pymux.Mux(backend)
    asked, sock = pair(mux, limits=ENOUGH)
    never, other = pair(mux, limits=ENOUGH)
    with sock, other:
        for conn in (asked, never):
            conn.send(b"x" * BIG)
        mux.harvest(0)
        assert asked.queued
        mux.close()
    assert (asked.queued, never.queued) == (0, 0)
