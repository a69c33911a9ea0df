"""Each counter of `Stats` counts what it says, and nothing else does."""

import errno
import json
import signal
import socket
import sys

import pytest

import pymux

from . import util
from .processes import no_descriptor_left
from .supervised import Supervised
from .util import harvest_until, pair

LINES = pymux.Lines(max_size=10)
OF_ENDS = "protocol_errors", "timeouts_idle", "timeouts_close", "enobufs"
OF_REFUSED = "refused", "refused_per_peer", "proxy_refused"
OF_PAUSES = "accept_pauses", "shortages", "handshake_pauses"


def counted(mux, names):
    """The counters of these names that are not 0."""
    stats = mux.stats()
    return {name: value for name in names if (value := getattr(stats, name))}


def ends(mux, conn):
    """Harvest until a connection has closed; its errno."""
    return harvest_until(mux, lambda acc: acc.is_closed(conn)).errno(conn)


# --- ends -----------------------------------------------------------------------------


def test_a_message_that_is_too_large_is_a_protocol_error(mux):
    conn, peer = pair(mux, LINES)
    with peer:
        peer.sendall(b"x" * 20)
        assert ends(mux, conn) == errno.EMSGSIZE
    assert counted(mux, OF_ENDS) == {"protocol_errors": 1}


def test_a_message_that_is_cut_is_a_protocol_error(mux):
    conn, peer = pair(mux, pymux.LengthPrefix(2))
    with peer:
        peer.sendall(b"\0\5ab")
        peer.shutdown(socket.SHUT_WR)
        assert ends(mux, conn) == errno.EPROTO
    assert counted(mux, OF_ENDS) == {"protocol_errors": 1}


def test_a_handshake_that_is_none_is_a_protocol_error(mux, papers):
    listener = mux.listen(("127.0.0.1", 0), ssl=papers.server())
    with util.connect(listener.address) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        harvest_until(mux, lambda acc: mux.stats().closed)
    assert counted(mux, OF_ENDS) == {"protocol_errors": 1}
    assert mux.stats().tls_failed == 1


def test_an_ordinary_end_and_a_reset_are_neither(mux):
    for leave in socket.socket.close, util.reset:
        conn, peer = pair(mux, LINES)
        peer.sendall(b"line\n")
        leave(peer)
        ends(mux, conn)
    stats = mux.stats()
    assert counted(mux, OF_ENDS) == {}
    assert (stats.closed, stats.reset) == (2, 1)


@pytest.mark.parametrize("limit", ["idle_timeout", "message_timeout"])
def test_a_peer_that_takes_too_long_has_timed_out(mux, clock, limit):
    conn, peer = pair(mux, LINES, limits=pymux.Limits(**{limit: 60}))
    with peer:
        peer.sendall(b"a part")
        mux.harvest(0)
        harvest_until(mux, lambda acc: mux.stats().bytes_in == 6)
        clock.advance(61, mux)
        assert ends(mux, conn) == errno.ETIMEDOUT
    assert counted(mux, OF_ENDS) == {"timeouts_idle": 1}


def test_a_close_that_takes_too_long_has_timed_out(mux, clock):
    conn, peer = pair(mux, limits=pymux.Limits(close_timeout=60))
    with peer:
        conn.send(b"x" * 16_000_000)
        conn.close()
        mux.harvest(0)
        for _ in range(4):  # the first look has nothing to compare with
            clock.advance(61, mux)
            mux.harvest(0)
        assert mux.stats().closed == 1
    assert counted(mux, OF_ENDS) == {"timeouts_close": 1}


def test_a_peer_that_does_not_read_is_counted_by_max_output(mux):
    limits = pymux.Limits(high_water=1000, low_water=1000, max_output=100_000)
    conn, peer = pair(mux, limits=limits)
    with peer:
        conn.send(b"x" * 16_000_000)
        mux.harvest(0)
        conn.send(b"x" * 200_000)
        assert ends(mux, conn) == errno.ENOBUFS
    assert counted(mux, OF_ENDS) == {"enobufs": 1}


# --- refused, and waiting -------------------------------------------------------------


def test_who_sends_no_proxy_header_is_refused(mux):
    proxy = pymux.Proxy("127.0.0.1")
    listener = mux.listen(("127.0.0.1", 0), proxy=proxy)
    with util.connect(listener.address) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        harvest_until(mux, lambda acc: mux.stats().refused)
    assert counted(mux, OF_REFUSED) == {"refused": 1, "proxy_refused": 1}
    assert counted(mux, OF_ENDS) == {"protocol_errors": 1}


def test_who_may_send_no_proxy_header_is_refused(mux):
    listener = mux.listen(("127.0.0.1", 0), proxy=pymux.Proxy("10.0.0.0/8"))
    with util.connect(listener.address):
        harvest_until(mux, lambda acc: mux.stats().refused)
    assert counted(mux, OF_REFUSED) == {"refused": 1, "proxy_refused": 1}
    assert counted(mux, OF_ENDS) == {}


def test_a_pause_by_max_connections_is_no_other(mux):
    limits = pymux.Limits(max_connections=1)
    listener = mux.listen(("127.0.0.1", 0), limits=limits)
    with util.connect(listener.address), util.connect(listener.address):
        harvest_until(mux, lambda acc: mux.stats().accept_pauses)
    assert counted(mux, OF_PAUSES) == {"accept_pauses": 1}


def test_a_pause_by_max_handshakes_is_counted_so(mux, papers):
    limits = pymux.Limits(max_handshakes=1)
    listener = mux.listen(("127.0.0.1", 0), limits=limits, ssl=papers.server())
    with util.connect(listener.address), util.connect(listener.address):
        harvest_until(mux, lambda acc: mux.stats().accept_pauses)
    assert counted(mux, OF_PAUSES) == {"accept_pauses": 1, "handshake_pauses": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit to set")
@pytest.mark.usefixtures("logged")
def test_a_pause_for_want_of_descriptors_is_counted_so(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with util.connect(listener.address), no_descriptor_left():
        harvest_until(mux, lambda acc: mux.stats().accept_pauses)
    stats = mux.stats()
    assert stats.accept_pauses == stats.shortages >= 1
    assert stats.handshake_pauses == 0


# --- moves ----------------------------------------------------------------------------


def test_a_connection_that_moves_is_counted_on_both_sides(mux, backend):
    conn, peer = pair(mux, LINES)
    with peer, pymux.Mux(backend) as heir:
        with mux.detach(conn) as detached:
            heir.adopt(detached, framing=LINES)
        gone, come = mux.stats(), heir.stats()
    assert (gone.moved_out, gone.moved_in, gone.closed) == (1, 0, 0)
    assert (come.moved_in, come.moved_out, come.accepted) == (1, 0, 0)
    assert gone.given_away == come.given_away == 0


# --- sums -----------------------------------------------------------------------------


SCRIPT = """
import dataclasses, json, logging, pymux

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    lines, limits = pymux.Lines(max_size=10), pymux.Limits(message_timeout=0.1)
    stats = pymux.serve(
        "app:handler", ("127.0.0.1", 0), framing=lines, limits=limits, workers=2
    )
    print(json.dumps([dataclasses.asdict(stats), stats.ends]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")
def test_the_sum_of_workers_has_those_of_workers_that_have_ended(tmp_path):
    (tmp_path / "app.py").write_text("def handler(conn, data):\n    return data\n")
    (tmp_path / "main.py").write_text(SCRIPT)
    server = Supervised(tmp_path, "main.py")
    try:
        server.listen()
        for sent in [b"x" * 20] * 3 + [b"a part"] * 2:
            with util.connect(server.address) as peer:
                peer.sendall(sent)
                util.until_end(peer)
        server.roll(2)  # all that has counted so far ends
        with util.connect(server.address) as peer:
            peer.sendall(b"x" * 20)
            util.until_end(peer)
        code, out = server.finish(signal.SIGINT)
    finally:
        server.close()
    assert code == 0
    total, ends = json.loads(out)
    found = {name: total[name] for name in OF_ENDS if total[name]}
    assert found == {"protocol_errors": 4, "timeouts_idle": 2}
    assert ends == {str(errno.EMSGSIZE): 4, str(errno.ETIMEDOUT): 2}
    assert (total["accepted"], total["closed"], total["connections"]) == (6, 6, 0)
