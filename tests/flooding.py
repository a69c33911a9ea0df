"""What floods need: the server in a process of its own, and crowds of clients."""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time

from . import util
from .processes import descriptors_allowed, python

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 60  # seconds in which something must happen on a loaded machine
RESET = struct.pack("ii", 1, 0)


class Server:
    """The server's process, and what it says of itself."""

    def __init__(self, child):
        self.child = child
        line = child.stdout.readline()
        assert line, "the server failed:\n" + child.stderr.read()
        self.address = tuple(json.loads(line))
        self.lock = threading.Lock()
        self.idle = self.figures()["resident"]
        self.peak = self.most = 0  # bytes resident beyond that, and in buffers

    def figures(self, ask="figures"):
        """Its figures now: those of `Stats`, resident, descriptors, cpu, ends."""
        with self.lock:
            self.child.stdin.write(ask + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        assert line, "the server failed:\n" + self.child.stderr.read()
        said = json.loads(line)
        if hasattr(self, "idle"):
            self.peak = max(self.peak, said["resident"] - self.idle)
            self.most = max(self.most, said["buffers"])
        return said

    def until(self, condition, timeout=PATIENCE):
        """The figures for which condition(figures) holds first."""
        deadline = time.monotonic() + timeout
        while not condition(figures := self.figures()):
            assert time.monotonic() < deadline, f"it did not come to that: {figures}"
            time.sleep(0.002)
        return figures

    def within(self, bound):
        """Assert that it never took more than so many bytes; figures of it."""
        self.figures()
        assert self.most <= bound, f"{self.most} bytes in buffers, {bound} allowed"
        # Sanitizers, and PyPy, give back what was freed when they like.
        exact = sys.implementation.name == "cpython"
        if exact and "asan" not in os.environ.get("LD_PRELOAD", ""):
            assert self.peak <= bound, f"{self.peak} bytes more, {bound} allowed"
        return {
            "MiB in buffers": self.most / MIB,
            "MiB taken": self.peak / MIB,
            "MiB allowed": bound / MIB,
        }


@contextlib.contextmanager
def server(backend, **options):
    """A `Server`."""
    options["backend"] = backend
    with python("-m", "tests.flood_server", json.dumps(options)) as child:
        yield Server(child)


def connect(address, source=None):
    """A blocking socket."""
    return socket.create_connection(address, PATIENCE, source)


def reset(sock):
    """Leave without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@contextlib.contextmanager
def crowd(address, count):
    """So many connected sockets, reset at the end."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(descriptors_allowed(count + 200))
        socks = []
        stack.callback(lambda: [reset(sock) for sock in socks])
        socks += [connect(address) for _ in range(count)]
        yield socks


def exchange(sock, message):
    """Assert that an echo of lines works for this socket."""
    sock.sendall(message + b"\n")
    assert util.recv_exactly(sock, len(message) + 1) == message + b"\n"
