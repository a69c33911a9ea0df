"""The clients of the load tests, in a process of their own and in pure Python.

    python -m tests.load_clients KIND OPTIONS

where OPTIONS is a JSON object. It says a JSON object in a line for each thing done,
and waits for a line before the next. What is wrong ends it with an AssertionError.
"""

import json
import random
import resource
import selectors
import socket
import struct
import sys
import time

PATIENCE = 30  # seconds in which something must happen
WINDOW = 65536  # bytes a client sends ahead of what it got back
BLOB = random.Random(0).randbytes(1 << 20)  # all payloads are cut from it


def say(**what):
    """Tell the other side, and wait until it has answered."""
    print(json.dumps(what), flush=True)
    sys.stdin.readline()


class Stream:
    """One client of an echo: what it still has to send, and what is to come back."""

    def __init__(self, address, messages, rng):
        self.sock = socket.create_connection(address)
        self.sock.setblocking(False)
        self.random = rng
        self.left = messages
        self.unsent = b""
        self.owed = bytearray()  # sent, and not yet come back
        self.received = 0

    def message(self):
        """A frame of a random size, most of them small."""
        size = min(int(self.random.paretovariate(0.9) * 12) - 12, 4000)
        start = self.random.randrange(len(BLOB) - size)
        return struct.pack(">I", size) + BLOB[start : start + size]

    def send(self):
        """Send a piece of random size; whether the kernel took any."""
        if len(self.owed) > WINDOW or not self.has_more:
            return False
        while self.left and len(self.unsent) < 200:
            self.unsent += self.message()
            self.left -= 1
        cut = self.random.randrange(len(self.unsent)) + 1
        try:
            sent = self.sock.send(self.unsent[:cut])
        except BlockingIOError:
            return False
        self.owed += self.unsent[:sent]
        self.unsent = self.unsent[sent:]
        if not self.unsent and not self.left:
            self.sock.shutdown(socket.SHUT_WR)
        return True

    @property
    def has_more(self):
        """Whether anything is left to be sent."""
        return bool(self.unsent or self.left)

    def receive(self):
        """Compare what came with what was sent; False at the end of the stream."""
        data = self.sock.recv(1 << 18)
        if not data:
            assert not self.has_more, "the server ended a stream in its middle"
            assert not self.owed, f"{len(self.owed)} bytes never came back"
            return False
        assert self.owed.startswith(data), "other bytes came back than were sent"
        del self.owed[: len(data)]
        self.received += len(data)
        return True

    def reset(self):
        """Leave without a word."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


def many(address, clients, messages, resets, seed):
    """So many clients at once, each of which must get every byte back in order.

    Meanwhile `resets` more clients connect, send, and reset at a random moment.
    """
    rng = random.Random(seed)
    streams = [Stream(address, messages, rng) for _ in range(clients)]
    say(connected=clients)
    started = time.monotonic()
    watch = selectors.DefaultSelector()
    for stream in streams:
        watch.register(stream.sock, selectors.EVENT_READ, stream)
    sending = list(streams)
    open_count = clients
    doomed = []
    total = 0
    left_to_reset = resets
    last = started
    while open_count:
        coming = min(left_to_reset, rng.randrange(2 + resets // 25))
        left_to_reset -= coming
        doomed += [Stream(address, messages, rng) for _ in range(coming)]
        for _ in range(rng.randrange(len(doomed) + 1)):
            doomed.pop(rng.randrange(len(doomed))).reset()
        progress = [stream.send() for stream in doomed + sending]
        sending = [stream for stream in sending if stream.has_more]
        events = watch.select(0 if any(progress) else 0.01)
        for key, _ in events:
            stream = key.data
            if not stream.receive():
                total += stream.received
                watch.unregister(stream.sock)
                stream.sock.close()
                open_count -= 1
        now = time.monotonic()
        if events or any(progress):
            last = now
        assert now - last < PATIENCE, f"nothing moves; {open_count} clients are left"
    for stream in doomed:
        stream.reset()
    say(
        bytes=total,
        resets=resets - left_to_reset,
        seconds=time.monotonic() - started,
    )


def slow(address, size):
    """One client of an echo that reads only when it can send no more."""
    with socket.create_connection(address) as sock:
        say(connected=1)
        started = time.monotonic()
        sock.setblocking(False)
        watch = selectors.DefaultSelector()
        watch.register(sock, selectors.EVENT_READ)
        length = len(BLOB) - 7  # no power of two: a block out of place shows
        pattern = memoryview(BLOB[:length] * 2)
        sent = received = 0
        while received < size:
            if sent < size:
                at = sent % length
                try:
                    sent += sock.send(pattern[at : at + min(length, size - sent)])
                    if sent == size:
                        sock.shutdown(socket.SHUT_WR)
                    continue
                except BlockingIOError:
                    pass
            assert watch.select(PATIENCE), "nothing comes back any more"
            data = sock.recv(65536)
            assert data, f"the stream ended after {received} of {size} bytes"
            at = received % length
            assert data == pattern[at : at + len(data)], f"wrong after {received}"
            received += len(data)
        assert watch.select(PATIENCE), "the stream does not end"
        assert sock.recv(1) == b"", "more came back than was sent"
    say(bytes=received, seconds=time.monotonic() - started)


def senders(address, count):
    """Clients that always have something to send, until the server has enough."""
    socks = [socket.create_connection(address) for _ in range(count)]
    say(connected=count)
    chunk = bytes(65536)
    watch = selectors.DefaultSelector()
    for sock in socks:
        sock.setblocking(False)
        fill(sock, chunk)
        watch.register(sock, selectors.EVENT_WRITE)
    say(filled=count)
    last = time.monotonic()
    while watch.get_map():
        events = watch.select(0.5)
        for key, _ in events:
            try:
                key.fileobj.send(chunk)
            except BlockingIOError:
                continue
            except ConnectionError:
                watch.unregister(key.fileobj)
        if events:
            last = time.monotonic()
        assert time.monotonic() - last < PATIENCE, "nothing is taken any more"
    for sock in socks:
        sock.close()
    say(done=count)


def fill(sock, chunk):
    """Send until the kernel takes no more."""
    try:
        while True:
            sock.send(chunk)
    except BlockingIOError:
        pass


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kind = {"many": many, "slow": slow, "senders": senders}[sys.argv[1]]
    options = json.loads(sys.argv[2])
    kind(tuple(options.pop("address")), **options)
