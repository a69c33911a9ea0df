"""Servers that take and give connections, and another side that talks nonsense."""

import contextlib
import random
import socket
import sys

import pytest

import pymux

from . import heirs, inside, util
from .util import harvest_until, pair, recv_exactly, wait_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="descriptors do not move between processes there"
)


def ask(sock, text=b"hello"):
    sock.sendall(text + b"\n")
    assert recv_exactly(sock, len(text) + 1) == text.upper() + b"\n"


@pytest.fixture
def server():
    made = heirs.server("function", "lines")
    yield made
    with util.connect(made.address) as sock:
        ask(sock)  # it serves on, whatever came
    made.stop(0)


@contextlib.contextmanager
def leaving():
    """(a connection that has left its mux, its record, its peer), of endpoint 0."""
    with pymux.Mux() as mux:
        conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"x\nhel")
            harvest_until(mux, lambda acc: acc.messages)
            with mux.detach(conn) as detached:
                detached.endpoint = 0
                record = bytearray(detached.pack())
                record[8:12] = bytes(4)  # the number of the endpoint
                yield detached, bytes(record), peer


def taking(server, data, fds):
    """What a taker makes of these bytes and descriptors, which end the channel."""
    ours, theirs = socket.socketpair()
    with theirs:
        taker = inside.Taker(server, ours)
        theirs.settimeout(20)
        hello = inside.hello(1, 1)
        assert recv_exactly(theirs, len(hello)) == hello
        with contextlib.suppress(OSError):  # it has heard enough
            socket.send_fds(theirs, [data], fds)
            theirs.shutdown(socket.SHUT_WR)
    assert taker.wait(20)
    return taker


def test_a_batch_that_is_cut_at_any_byte_is_not_taken(server):
    with leaving() as (detached, record, peer):
        batch = inside.batch(1, [record])
        for size in range(1, len(batch)):
            taker = taking(server, batch[:size], [detached.fileno()])
            assert (taker.taken, taker.complete) == (0, False)
        assert server.stats().connections == 0
        assert taking(server, batch, [detached.fileno()]).taken == 1
        detached.close()
        peer.sendall(b"lo\n")
        assert recv_exactly(peer, 6) == b"HELLO\n"


def test_a_batch_of_more_than_a_message_takes_is_nonsense(server, logged):
    """It would have the heir say so many bits to a giver that does not listen."""
    ours, theirs = socket.socketpair()
    with theirs:
        taker = inside.Taker(server, ours)
        theirs.sendall(inside.batch(1, [], 2**32 - 1))
        assert taker.wait(20)
    (record,) = logged
    assert record.getMessage().endswith("an unknown frame, b'B' of 4294967295")


@pytest.mark.parametrize("seed", range(8))
def test_nonsense_of_a_giver_ends_its_channel_and_nothing_else(server, seed, logged):
    chance = random.Random(seed)
    with leaving() as (detached, record, _):
        for _ in range(60):
            count = chance.choice((None, None, 0, 1, 3, 200, 253, 2**31, 2**32 - 1))
            frames = bytearray()
            for number in range(chance.randrange(1, 4)):
                kept = bytearray(record)
                for _ in range(chance.choice((0, 0, 1, 3))):
                    kept[chance.randrange(len(kept))] = chance.randrange(256)
                frames += inside.batch(number, [kept] * chance.randrange(4), count)
            for _ in range(chance.choice((0, 0, 1, 2))):
                frames[chance.randrange(len(frames))] = chance.randrange(256)
            if chance.random() < 0.3:
                frames = chance.randbytes(chance.randrange(1, 200))
            taking(server, frames, [detached.fileno()] * chance.randrange(5))
    wait_until(lambda: server.stats().connections == 0)
    assert {one.event for one in logged} <= {"moved"}


def answer_of(chance, bits):
    """Something that an heir may say of a batch, mostly wrong."""
    said = inside.acknowledgement(
        chance.choice((1, 1, 1, 0, 2, 2**32 - 1)),
        chance.choice((3, 3, 0, 2**32 - 1)),
        chance.choice((bits, bits, b"", b"\0", bytes(100))),
    )
    how = chance.randrange(5)
    if how == 0:
        return said[: chance.randrange(len(said))]
    if how == 1:
        return chance.randbytes(chance.randrange(1, 60))
    if how == 2:
        return said + chance.randbytes(chance.randrange(1, 60))
    return said


@pytest.mark.parametrize("seed", range(8))
def test_nonsense_of_an_heir_leaves_the_connections_where_they_are(
    server, seed, logged
):
    """Of those that it says to have, the giver lets go."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(3)]
        for sock in socks:
            ask(sock)
        for _ in range(20):
            ours, theirs = socket.socketpair()
            with theirs:
                giver = inside.Giver(server, ours)
                theirs.sendall(inside.hello(1, 1))
                theirs.settimeout(20)
                _, fds, _, _ = socket.recv_fds(theirs, 1 << 16, 10)
                for fd in fds:
                    socket.socket(fileno=fd).close()
                assert len(fds) == 3
                with contextlib.suppress(OSError):
                    theirs.sendall(answer_of(chance, b"\0"))
            assert giver.wait(20)
            assert (giver.moved, giver.remain) == (0, 3)
            for sock in socks:
                ask(sock)
    assert {one.event for one in logged} <= {"moved"}
