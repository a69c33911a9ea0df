"""Load: many clients at once, a slow reader, always-ready senders, random resets.

    python -m tests.load [--clients N] [--messages N] [--backend NAME] [--full]

The server runs in this process, the clients in another. Each load is a function that
raises an AssertionError where the server does not keep its word, and returns figures;
test_load.py runs the same functions in a smaller size.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
import time

import pymux

from . import util
from .processes import descriptors_allowed, python

MIB = 1 << 20
MARGIN = 16 * MIB  # how far memory may grow beyond what limits say, allocators and all


class Clients:
    """The process of the clients."""

    def __init__(self, child):
        self.child = child

    def hear(self, what):
        """The next thing they did, which must be this one."""
        line = self.child.stdout.readline()
        assert line, "the clients failed:\n" + self.child.stderr.read()
        said = json.loads(line)
        assert what in said
        return said

    def go(self):
        """Let them do the next thing."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()


@contextlib.contextmanager
def clients_of(server, kind, **options):
    """Clients of a server, as `load_clients` describes them."""
    options["address"] = server.address
    with python("-m", "tests.load_clients", kind, json.dumps(options)) as child:
        yield Clients(child)


def resident():
    """Bytes of memory that this process has, or None where it cannot be told.

    PyPy and AddressSanitizer give back what was freed when they like, so that their
    size tells nothing.
    """
    if sys.implementation.name == "pypy" or "asan" in os.environ.get("LD_PRELOAD", ""):
        return None
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def many(backend, form="function", clients=5000, messages=200, resets=500):
    """Clients at once, each of which gets every byte back in order.

    `resets` others connect, send and reset meanwhile.
    """
    handler = util.in_form(form, bytes)
    with (
        descriptors_allowed(clients + resets + 200),
        util.serving(handler, backend, framing=pymux.LengthPrefix()) as server,
        clients_of(
            server,
            "many",
            clients=clients,
            messages=messages,
            resets=resets,
            seed=clients,
        ) as process,
    ):
        process.hear("connected")
        util.wait_until(lambda: server.stats().connections == clients)
        process.go()
        figures = process.hear("bytes")
        came = clients + figures["resets"]
        util.wait_until(lambda: server.stats().closed == came)
        stats = server.stats()
        process.go()
    assert stats.messages_in >= clients * messages
    assert stats.bytes_out >= figures["bytes"] >= 4 * clients * messages
    assert (stats.accepted, stats.connections) == (came, 0)
    return {
        "clients": clients,
        "messages": clients * messages,
        "MiB each way": figures["bytes"] / MIB,
        "resets": figures["resets"],
        "seconds": figures["seconds"],
    }


def slow(backend, form="function", size=64 * MIB):
    """One connection whose client reads slowly gets it whole; memory stays bounded."""
    limits = pymux.Limits()
    handler = util.in_form(form, bytes)
    with (
        util.serving(handler, backend, limits=limits) as server,
        clients_of(server, "slow", size=size) as process,
    ):
        process.hear("connected")
        before = resident()
        process.go()
        peak = Peak(server)
        with peak:
            figures = process.hear("bytes")
        process.go()
    assert figures["bytes"] == size
    # What a harvest reads may come on top of high water.
    assert peak.queued <= limits.high_water + (256 << 10), f"{peak.queued} queued"
    grown = peak.resident - before if before else 0
    assert grown <= limits.max_output + MARGIN, f"{grown} bytes more"
    return {
        "MiB each way": size / MIB,
        "KiB queued at most": peak.queued / 1024,
        "MiB grown": grown / MIB,
        "seconds": figures["seconds"],
    }


class Peak:
    """While it is entered, looks how much a server holds."""

    def __init__(self, server):
        self.server = server
        self.queued = 0
        self.resident = 0
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        """In a thread of its own."""
        while not self.enough.wait(0.002):
            self.queued = max(self.queued, self.server.stats().queued)
            self.resident = max(self.resident, resident() or 0)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *exc):
        self.enough.set()
        self.thread.join()


def fair(backend, senders=100, each=512 << 10):
    """Always-ready senders are served alike, by the bytes each of them was served."""
    served = {}
    taken = []
    enough = threading.Event()

    def handler(conn, data):
        served[conn] = served.get(conn, 0) + len(data)
        taken.append(len(data))
        if not enough.is_set() and sum(served.values()) >= senders * each:
            counts.extend(served.values())
            enough.set()

    counts = []
    with (
        util.serving(handler, backend, drain_timeout=0) as server,
        clients_of(server, "senders", count=senders) as process,
    ):
        process.hear("connected")
        util.wait_until(lambda: server.stats().connections == senders)
        with util.held(server):
            process.go()
            process.hear("filled")
        process.go()
        assert enough.wait(30), "the server is not served itself"
        server.stop(0)
        process.hear("done")
        process.go()
    assert len(counts) == senders, f"{senders - len(counts)} were never served"
    mean = sum(counts) / senders
    assert mean / 2 <= min(counts) <= max(counts) <= mean * 2, sorted(counts)
    return {
        "senders": senders,
        "KiB least": min(counts) / 1024,
        "KiB most": max(counts) / 1024,
        "reads": len(taken),
    }


def main():
    """Run each load on each backend and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.load")
    parser.add_argument("--clients", type=int, help="how many at once")
    parser.add_argument("--messages", type=int, help="how many of each client")
    parser.add_argument("--backend", help="only this one")
    parser.add_argument(
        "--full", action="store_true", help="5,000 clients of 200 messages each"
    )
    arguments = parser.parse_args()
    clients = arguments.clients or (5000 if arguments.full else 300)
    messages = arguments.messages or (200 if arguments.full else 50)
    for backend in [arguments.backend] if arguments.backend else pymux.backends():
        fewer = min(clients, 300) if backend == "select" else clients
        for form in util.FORMS:
            report(many, backend, form, fewer, messages, fewer // 10)
        report(slow, backend)
        report(fair, backend)


def report(load, backend, *arguments):
    """Run a load and print its figures in a line."""
    started = time.monotonic()
    figures = load(backend, *arguments)
    figures["seconds"] = time.monotonic() - started
    form = arguments[0] if arguments else ""
    print(
        f"{load.__name__:5} {backend:7} {form:15}",
        ", ".join(f"{value:,.6g} {name}" for name, value in figures.items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
