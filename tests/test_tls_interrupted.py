"""A signal's handler that raises while connections over TLS are served."""

import contextlib
import signal
import socket
import ssl

import pytest

import pymux

from .alarms import needs_alarms, on_alarm
from .inside import kept_objects
from .interrupts import at_each_place, interrupted, needs_tracing
from .tls import NAME
from .tls_peers import OtherEnd, go_on_until

LINES = pymux.Lines()
HERE = ("127.0.0.1", 0)


class Peer:
    """A client in the same thread, which never blocks; it says hello when it can."""

    def __init__(self, address, context):
        self.sock = socket.create_connection(address)
        self.sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.made = context.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)
        self.said = self.over = False

    def pump(self):
        """Go on as far as that goes."""
        try:
            with contextlib.suppress(BlockingIOError):
                data = self.sock.recv(65536)
                self.over = not data
                self.incoming.write(data)
            if not self.said:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.made.do_handshake()
                    self.made.write(b"hello\n")
                    self.said = True
            self.sock.sendall(self.outgoing.read())
        except (ConnectionError, ssl.SSLError):
            self.over = True


def live(mux, peer):
    """The first batch that has anything to tell; False once the peer has lost us."""
    while True:
        peer.pump()
        if batch := mux.harvest(0.01):
            return batch
        if peer.over:
            return False


@needs_tracing
def test_no_place_in_a_handshake_loses_a_connection(papers, secured_by):
    ours, theirs = papers.server(), papers.client()

    def scene(nth):
        with pymux.Mux() as mux:
            listener = mux.listen(HERE, framing=LINES, ssl=ours)
            peer = Peer(listener.address, theirs)
            with peer.sock:
                where, batch = interrupted(lambda: live(mux, peer), nth)
                assert where is None or batch is None  # the exception came out
                messages, lost = [], False
                while not messages and not lost:
                    batch = live(mux, peer) if batch is None else batch
                    lost = not batch or bool(batch.closed)
                    messages += batch.messages if batch else []
                    batch = None
                if secured_by == "adopted":
                    assert messages == [b"hello"], where
                else:  # a step in Python that was cut short ends its connection
                    assert messages == [b"hello"] or lost, where
                assert kept_objects(mux) <= 1
                return where

    assert at_each_place(scene) > 40


@needs_tracing
@pytest.mark.usefixtures("secured_by")
def test_no_place_in_forgetting_a_failed_handshake_leaves_it(papers):
    ours = papers.server()

    def scene(nth):
        with pymux.Mux() as mux:
            listener = mux.listen(HERE, ssl=ours)
            with socket.create_connection(listener.address) as peer:
                peer.sendall(b"no hello at all, is it\n" * 10)

                def fail():
                    while not mux.stats().tls_failed:
                        mux.harvest(0.01)
                    mux.harvest(0)

                where, _ = interrupted(fail, nth)
                fail()
                assert kept_objects(mux) == 0, where
                return where

    assert at_each_place(scene) > 40


@needs_tracing
@pytest.mark.usefixtures("secured_by")
def test_no_place_in_a_connect_leaves_an_object(papers):
    ours, theirs = papers.server(), papers.client()

    def scene(nth):
        with (
            pymux.Server(lambda conn, data: data, HERE, ssl=ours) as server,
            pymux.Mux() as mux,
        ):
            address = server.address

            def connect():
                return mux.connect(address, ssl=theirs, server_hostname=NAME)

            where, _ = interrupted(connect, nth)
            conn = connect()
            opened = False
            while not opened:
                opened = conn in mux.harvest(1).opened
            mux.harvest(0)
            assert kept_objects(mux) <= 2
            return where

    assert at_each_place(scene) > 20


@needs_tracing
@pytest.mark.usefixtures("secured_by")
def test_no_place_in_an_adoption_leaves_an_object(papers):
    ours, theirs = papers.server(), papers.client()

    def scene(nth):
        with pymux.Mux() as mux, contextlib.ExitStack() as stack:
            mine = []

            def adopt():
                sock, peer = socket.socketpair()
                stack.enter_context(sock)
                stack.enter_context(peer)
                mine.append(peer)
                return mux.adopt(sock, ssl=ours, limits=pymux.Limits(max_handshakes=1))

            where, _ = interrupted(adopt, nth)
            while mine:  # what was adopted fails, and makes room
                mine.pop().close()
            for _ in range(4):
                mux.harvest(0)
            adopt()
            peer = OtherEnd(mine.pop(), theirs, server_hostname=NAME)
            go_on_until(mux, peer, lambda acc: acc.opened)
            assert kept_objects(mux) == 1, where
            return where

    assert at_each_place(scene) > 20


class Alarm(Exception):
    """What a signal handler of these tests raises."""


@needs_alarms
@pytest.mark.usefixtures("secured_by")
def test_real_signals_at_any_time_lose_no_line(papers):
    def handler(number, frame):
        raise KeyboardInterrupt

    lines = [b"%d" % k for k in range(3000)]
    with pymux.Mux() as mux, on_alarm(handler):
        listener = mux.listen(HERE, framing=LINES, ssl=papers.server())
        peer = Peer(listener.address, papers.client())
        with peer.sock:
            (conn,) = live(mux, peer).opened
            peer.made.write(b"".join(line + b"\n" for line in lines))
            got, closed, signals = [], False, 0
            while len(got) < 3001 and not closed:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005)
                    peer.pump()
                    batch = mux.harvest(0.01)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    signals += 1
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    continue
                got += batch.messages
                closed = bool(batch.closed)
    assert conn is not None
    assert got == [b"hello", *lines][: len(got)]
