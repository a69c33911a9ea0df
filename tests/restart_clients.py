"""Clients that check every byte while the workers of a server are replaced.

    python -m tests.restart_clients KIND HOST PORT CONNECTIONS THINK [--short]

KIND is raw, lines or prefixed. Each connection asks, waits for the whole answer, thinks
for THINK seconds and asks again; a short one closes instead, and a new one is made. A
line on standard output says that every connection has had an answer. At the end of
standard input the clients ask no more, wait for what is owed and print what they saw
as JSON.
"""

import argparse
import collections
import contextlib
import errno
import heapq
import json
import random
import selectors
import socket
import struct
import sys
import time

LETTERS = bytes(range(97, 123)) * 40
UNANSWERED = 30.0  # seconds after which an answer counts as lost
SIZE = struct.Struct("!I")


def raw(rng):
    """One request of some bytes: (pieces to send, the answer)."""
    data = text(rng, 1 + rng.randrange(512))
    return [data], data.upper()


def lines(rng):
    """32 lines at once."""
    data = b"".join(text(rng, rng.randrange(60)) + b"\n" for _ in range(32))
    return [data], data.upper()


def prefixed(rng):
    """A frame, cut in the middle of its head or its body; some frames are large."""
    size = rng.choice((0, 5, 300, 5000, 90000 if rng.random() < 0.1 else 50))
    payload = text(rng, size)
    frame = SIZE.pack(size) + payload
    first = rng.randrange(len(frame))
    second = rng.randrange(first, len(frame))
    pieces = frame[:first], frame[first:second], frame[second:]
    return [piece for piece in pieces if piece], SIZE.pack(size) + payload.upper()


def text(rng, size):
    """Lower-case letters, which differ from request to request."""
    begin = rng.randrange(26)
    part = LETTERS[begin : begin + min(size, 999)]
    return (part * (size // len(part) + 1))[:size] if size else b""


KINDS = {"raw": raw, "lines": lines, "prefixed": prefixed}


class Connection:
    """One client: what it has yet to send, and the answer that it waits for."""

    def __init__(self, number):
        self.number = number
        self.sock = None
        self.connected = False
        self.slow = False
        self.out = collections.deque()
        self.expected = b""
        self.got = 0
        self.since = 0.0  # when it asked; 0: it waits for nothing
        self.answered = 0


class Clients:
    """All connections of one kind, in one thread."""

    def __init__(self, args):
        self.args = args
        self.rng = random.Random(args.seed)
        self.request = KINDS[args.kind]
        self.selector = selectors.DefaultSelector()
        self.timers = []  # (time, order, function, connection)
        self.order = 0
        self.seen = collections.Counter()
        self.worst = 0.0
        self.asks = True
        self.fresh = args.connections  # those that have had no answer yet
        self.conns = [Connection(number) for number in range(args.connections)]

    def later(self, delay, function, conn):
        self.order += 1
        heapq.heappush(
            self.timers, (time.monotonic() + delay, self.order, function, conn)
        )

    def run(self):
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        for number, conn in enumerate(self.conns):
            self.later(number / 4000, self.connect, conn)
        while self.asks or any(conn.since for conn in self.conns):
            self.turn()
        for conn in self.conns:
            if conn.sock is not None:
                self.drop(conn)
        print(json.dumps({**self.seen, "worst": round(self.worst, 3)}), flush=True)

    def turn(self):
        now = time.monotonic()
        wait = 0.5
        if self.timers:
            wait = min(wait, max(self.timers[0][0] - now, 0))
        for key, events in self.selector.select(wait):
            if key.data is None:
                self.selector.unregister(sys.stdin)
                self.asks = False
            else:
                self.handle(key.data, events)
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            _, _, function, conn = heapq.heappop(self.timers)
            function(conn)
        if self.order % 16 == 0 or not self.asks:
            for conn in self.conns:
                if conn.since and now - conn.since > UNANSWERED:
                    self.fail(conn, "unanswered")

    def connect(self, conn):
        if not self.asks or conn.sock is not None:
            return
        conn.sock = socket.socket()
        # A peer that reads slowly, or less than is sent: the server has to queue.
        conn.slow = self.args.kind == "prefixed" and conn.number % 3 == 0
        if conn.slow:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.sock.setblocking(False)
        conn.connected, conn.since = False, time.monotonic()
        error = conn.sock.connect_ex((self.args.host, self.args.port))
        if error not in (0, errno.EINPROGRESS):
            self.fail(conn, "not_connected")
            return
        self.seen["connects"] += 1
        self.selector.register(conn.sock, selectors.EVENT_WRITE, conn)

    def ask(self, conn):
        if not self.asks or conn.sock is None or conn.since:
            return
        pieces, conn.expected = self.request(self.rng)
        conn.got, conn.since = 0, time.monotonic()
        conn.out.extend(pieces)
        self.send(conn)

    def send(self, conn):
        """Send a piece; the next one a moment later, so that it arrives by itself."""
        if conn.sock is None or not conn.out:
            return
        try:
            sent = conn.sock.send(conn.out[0])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.fail(conn, "reset")
            return
        rest = conn.out[0][sent:]
        if rest:
            conn.out[0] = rest
        else:
            conn.out.popleft()
        if conn.out:
            self.later(0.01 if rest else self.rng.random() * 0.02, self.send, conn)

    def handle(self, conn, events):
        if conn.sock is None:
            return
        if not conn.connected:
            error = conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.fail(conn, "not_connected")
                return
            conn.connected, conn.since = True, 0.0
            self.selector.modify(conn.sock, selectors.EVENT_READ, conn)
            self.ask(conn)
            return
        try:
            data = conn.sock.recv(2000 if conn.slow else 65536)
        except BlockingIOError:
            return
        except OSError:
            self.fail(conn, "reset" if conn.since else "closed_idle")
            return
        if not data:
            self.fail(conn, "cut" if conn.since else "closed_idle")
            return
        expected = conn.expected[conn.got : conn.got + len(data)]
        conn.got += len(data)
        if data != expected:
            self.fail(conn, "wrong")
        elif conn.got == len(conn.expected) and not conn.out:
            self.answer(conn)
        elif conn.slow:  # read on in a moment
            self.selector.unregister(conn.sock)
            self.later(0.005, self.read_on, conn)

    def read_on(self, conn):
        if conn.sock is not None:
            self.selector.register(conn.sock, selectors.EVENT_READ, conn)

    def answer(self, conn):
        self.seen["answers"] += 1
        self.worst = max(self.worst, time.monotonic() - conn.since)
        conn.since = 0.0
        conn.answered += 1
        if conn.answered == 1:
            self.fresh -= 1
            if not self.fresh:
                print("ready", flush=True)
        if self.args.short:
            self.drop(conn)
            self.later(self.args.think, self.connect, conn)
        else:
            self.later(self.args.think * (0.5 + self.rng.random()), self.ask, conn)

    def fail(self, conn, what):
        self.seen[what] += 1
        self.seen["failed"] += what != "closed_idle"
        self.seen["reconnects"] += not self.args.short
        self.drop(conn)
        self.later(0.1, self.connect, conn)

    def drop(self, conn):
        with contextlib.suppress(KeyError):
            self.selector.unregister(conn.sock)
        conn.sock.close()
        conn.sock, conn.since = None, 0.0
        conn.out.clear()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("think", type=float)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    Clients(parser.parse_args()).run()


if __name__ == "__main__":
    main()
