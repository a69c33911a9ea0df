"""Connections for the benchmark cases: pymux on one side, plain sockets on the
other, in one thread."""

from __future__ import annotations

import socket

import pytest

import pymux


class Pair:
    """A mux with `count` accepted connections, and their peers."""

    def __init__(self, count=1, framing=None):
        self.mux = pymux.Mux()
        self.listener = self.mux.listen(("127.0.0.1", 0), framing=framing)
        self.peers = []
        self.conns = []
        for _ in range(count):
            peer = socket.create_connection(self.listener.address)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peers.append(peer)
            if len(self.peers) % 100 == 0:
                self.accept()
        while len(self.conns) < count:
            self.accept()

    def accept(self):
        self.conns += self.mux.harvest(0.1).opened

    def feed(self, data):
        """Let every peer send this."""
        for peer in self.peers:
            peer.sendall(data)

    def take(self, messages):
        """Harvest until so many have come; the last batch."""
        while True:
            batch = self.mux.harvest(5)
            messages -= len(batch)
            if messages <= 0:
                return batch

    def drain(self):
        """Flush, and let the peers read what they were sent."""
        self.mux.harvest(0)
        for peer in self.peers:
            peer.setblocking(False)
            try:
                while peer.recv(1 << 20):
                    pass
            except BlockingIOError:
                peer.setblocking(True)

    def close(self):
        for peer in self.peers:
            peer.close()
        self.mux.close()


@pytest.fixture
def pair():
    """A function that makes a `Pair`; all are closed at the end."""
    made = []

    def make(count=1, framing=None):
        made.append(Pair(count, framing))
        return made[-1]

    yield make
    for one in made:
        one.close()
