"""Connections that are given to the worker with the fewest."""

import collections
import contextlib
import errno
import os
import signal
import socket
import sys
import threading

import pytest

import pymux

from .inside_figures import OPEN, SEAT, balance
from .supervised import PATIENCE, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="given away on Linux")


def call(address):
    return socket.create_connection(address, timeout=PATIENCE)


def ask(sock, data=b"pid"):
    sock.sendall(data)
    return sock.recv(100)


def test_connections_that_come_one_by_one_are_spread_evenly(tmp_path):
    with supervised(tmp_path, workers="4") as server, contextlib.ExitStack() as stack:
        found = collections.Counter()
        for _ in range(16):
            sock = stack.enter_context(call(server.address))
            found[ask(sock)] += 1
        assert sorted(found.values()) == [4, 4, 4, 4]


def test_a_worker_that_comes_anew_gets_the_next_connections(tmp_path):
    with supervised(tmp_path) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(call(server.address)) for _ in range(8)]
        pids = [ask(sock) for sock in socks]
        dead, *_ = server.workers().values()
        os.kill(dead, signal.SIGKILL)
        server.wait_for(r"worker 0 \(pid \d+\) serves", 2)
        new = server.workers()[0]
        assert pids.count(b"%d" % dead) == 4
        wait_until(lambda: ask_once(server.address) == b"%d" % new)
        found = [ask(stack.enter_context(call(server.address))) for _ in range(4)]
        assert found == [b"%d" % new] * 4


def ask_once(address):
    with call(address) as sock:
        return ask(sock)


class Pair:
    """Two servers as workers of slots 0 and 1; slot 1's inbox is read on request."""

    def __init__(self, stack, **options):
        self.inbox, self.outbox = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        for sock in (self.inbox, self.outbox):
            sock.setblocking(False)
            stack.callback(sock.close)
        self.seats = os.memfd_create("seats")
        stack.callback(os.close, self.seats)
        os.truncate(self.seats, 2 * SEAT)
        one = (1).to_bytes(4, sys.byteorder)
        os.pwrite(self.seats, one, SEAT + OPEN)
        self.giver, self.taker = (
            stack.enter_context(
                pymux.Server(
                    lambda conn, data, name=name: name + data,
                    ("127.0.0.1", 0),
                    **options,
                )
            )
            for name in (b"giver ", b"taker ")
        )
        self.stack = stack
        self.call(self.giver, self.join)

    def call(self, server, fn, *args):
        """Call in the server's thread, and wait."""
        over = threading.Event()
        server.call_threadsafe(lambda mux: (fn(*args), over.set()))
        assert over.wait(PATIENCE)

    def join(self):
        self.giving = self.balance(self.giver, 0)
        self.giving.reach(1, self.outbox.dup())

    def balance(self, server, own):
        made = balance.Balance(server, os.dup(self.seats), own)
        self.stack.callback(self.call, server, made.end)
        return made

    def read(self, outbox=None):
        """Slot 1 has a worker, which may know the outbox of slot 0."""

        def begin():
            self.reading = self.balance(self.taker, 1)
            self.reading.reach(1, self.outbox.dup())
            if outbox is not None:
                self.reading.reach(0, outbox.dup())
            self.reading.open(1, self.inbox.dup())

        self.call(self.taker, begin)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def two_clients(stack, pair):
    """The second one is given to slot 1."""
    first = stack.enter_context(call(pair.giver.address))
    assert ask(first, b"1") == b"giver 1"
    second = stack.enter_context(call(pair.giver.address))
    second.sendall(b"2")
    return first, second


def test_what_is_in_the_inbox_of_a_dead_worker_goes_to_the_next(stack):
    pair = Pair(stack)
    _, second = two_clients(stack, pair)
    wait_until(lambda: has(pair))
    pair.read()
    assert second.recv(100) == b"taker 2"
    assert ask(second, b"3") == b"taker 3"
    stats = pair.giver.stats()
    assert (stats.accepted, stats.given_away) == (1, 1)


def has(pair):
    try:
        return pair.inbox.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None


def test_an_inbox_that_is_full_takes_nothing_and_the_connection_stays(stack):
    pair = Pair(stack)
    with contextlib.suppress(BlockingIOError):
        while True:
            pair.outbox.send(b"full")
    _, second = two_clients(stack, pair)
    assert second.recv(100) == b"giver 2"


def test_an_inbox_that_is_gone_takes_nothing_and_the_connection_stays(stack):
    pair = Pair(stack)
    pair.inbox.close()
    _, second = two_clients(stack, pair)
    assert second.recv(100) == b"giver 2"


def test_without_a_descriptor_what_was_given_waits(stack, monkeypatch, logged):
    pair, tried, real = Pair(stack), [], os.dup

    def dup(fd):
        tried.append(fd)
        if len(tried) < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(fd)

    _, second = two_clients(stack, pair)
    wait_until(lambda: has(pair))
    monkeypatch.setattr(balance, "a_descriptor", dup)
    pair.read()
    assert second.recv(100) == b"taker 2"
    assert len(tried) >= 3


def test_a_connection_that_finds_no_place_waits_for_one(stack):
    pair = Pair(stack, limits=pymux.Limits(max_connections=2))
    own = [stack.enter_context(call(pair.taker.address)) for _ in range(2)]
    for sock in own:
        assert ask(sock, b"0") == b"taker 0"
    _, second = two_clients(stack, pair)  # before the other has a seat
    wait_until(lambda: has(pair))
    pair.read()
    second.settimeout(0.3)
    with pytest.raises(TimeoutError):
        second.recv(100)
    assert pair.taker.stats().connections == 2
    second.settimeout(PATIENCE)
    own[0].close()
    assert second.recv(100) == b"taker 2"


def test_a_connection_that_found_no_place_waits_for_the_next_worker(stack):
    pair = Pair(stack, limits=pymux.Limits(max_connections=2))
    own = [stack.enter_context(call(pair.taker.address)) for _ in range(2)]
    for sock in own:
        assert ask(sock, b"0") == b"taker 0"
    _, second = two_clients(stack, pair)
    pair.read()
    wait_until(lambda: has(pair) is None)  # the worker has it in hand
    pair.call(pair.taker, pair.reading.end)  # as at SIGHUP
    wait_until(lambda: has(pair))
    own[0].close()
    wait_until(lambda: pair.taker.stats().connections == 1)
    pair.read()
    assert second.recv(100) == b"taker 2"


def test_a_connection_in_a_message_of_another_version_goes_back(stack):
    pair = Pair(stack)
    back, giver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (back, giver):
        stack.callback(sock.close)
        sock.settimeout(PATIENCE)
    _, second = two_clients(stack, pair)
    wait_until(lambda: has(pair))
    data, [fd], _, _ = socket.recv_fds(pair.inbox, 512, 1)
    version, slot, number = balance.HEAD.unpack_from(data)
    assert (version, slot) == (balance.VERSION, 0)
    later = balance.HEAD.pack(version + 1, slot, number) + data[balance.HEAD.size :]
    socket.send_fds(pair.outbox, [later], [fd])
    os.close(fd)
    pair.read(giver)
    found, [fd], _, _ = socket.recv_fds(back, 512, 1)
    assert found == later
    back.setblocking(False)
    socket.send_fds(giver, [data], [fd])  # the giver knows what it has written
    os.close(fd)
    pair.call(pair.giver, lambda: pair.giving.open(0, back.dup()))
    assert second.recv(100) == b"giver 2"


def test_a_message_that_makes_no_sense_ends_nothing(stack):
    pair = Pair(stack)
    _, second = two_clients(stack, pair)
    wait_until(lambda: has(pair))
    for data in (b"x", bytes(8), bytes(100), b"\xff" * 200):
        pair.outbox.send(data)
        with socket.socket() as sock:
            socket.send_fds(pair.outbox, [data], [sock.fileno()])
    pair.read()
    assert second.recv(100) == b"taker 2"
    wait_until(lambda: has(pair) is None)
    assert pair.taker.stats().accepted == 1


def test_a_worker_that_leaves_gives_no_more(stack):
    pair = Pair(stack)
    pair.call(pair.giver, pair.giving.end)
    _, second = two_clients(stack, pair)
    assert second.recv(100) == b"giver 2"
