"""What it costs to move connections to another process.

    python bench/moving.py [--conns 10000] [--framing lines|raw] [--rounds 3]

A server gives its connections to an heir, which is a new process each time. Each
connection has a part of a message that moves along. Prints for each round a line of
JSON: microseconds of wall clock a connection from the first batch to the last word, the
CPU of both, and the longest pause of one batch. In the end every connection is asked,
and each answer checked.
"""

import argparse
import json
import resource
import select
import socket
import statistics
import subprocess
import sys
import time

import pymux
from pymux.server.giver import Giver
from pymux.server.taker import Taker

FRAMINGS = {"lines": pymux.Lines(), "raw": None}


def upper(conn, data):
    return data.upper()


def serve(framing):
    return pymux.Server(upper, ("127.0.0.1", 0), framing=FRAMINGS[framing]).start()


class MeasuredTaker(Taker):
    """Counts the CPU that taking costs."""

    cpu = 0.0

    def _ready(self, sock, events):
        before = time.thread_time()
        super()._ready(sock, events)
        self.cpu += time.thread_time() - before


def be_heir(channel, framing):
    server = serve(framing)
    taker = MeasuredTaker(server, socket.socket(fileno=int(channel)))
    taker.wait()
    print(taker.cpu, flush=True)
    sys.stdin.read()
    server.stop(0)


class Measured(Giver):
    """Notes when batches leave, and how long they take."""

    def __init__(self, *args, **options):
        self.begun = self.cpu = 0.0
        self.pauses = []
        super().__init__(*args, **options)

    def _give_some(self):
        if not self.begun:
            self.begun, self.cpu = time.perf_counter(), time.thread_time()
        before = time.perf_counter()
        super()._give_some()
        self.pauses.append(time.perf_counter() - before)

    def _finish(self):
        self.took = time.perf_counter() - self.begun
        self.cpu = time.thread_time() - self.cpu
        super()._finish()


def measure(conns, framing):
    server = serve(framing)
    socks = []
    for _ in range(conns):
        socks.append(socket.create_connection(server.address))
    part = b"half of " if framing == "lines" else b""
    for sock in socks:
        sock.sendall(part)
    while server.stats().bytes_in < conns * len(part) or (
        server.stats().connections < conns
    ):
        time.sleep(0.01)
    ours, theirs = socket.socketpair()
    heir = subprocess.Popen(
        [sys.executable, __file__, "--heir", str(theirs.fileno()), framing],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    hello = select.poll()
    hello.register(ours, select.POLLIN)
    hello.poll()
    giver = Measured(server, ours)
    giver.wait()
    assert giver.moved == conns, giver
    for sock in socks:
        sock.sendall(b"a line\n")
    for sock in socks:
        wanted = (part + b"a line\n").upper()
        got = b""
        while len(got) < len(wanted):
            got += sock.recv(100)
        assert got == wanted, got
        sock.close()
    heir_cpu = float(heir.stdout.readline())
    heir.communicate()
    server.stop(0)
    return {
        "conns": conns,
        "us_each": round(giver.took / conns * 1e6, 1),
        "giver_cpu_us_each": round(giver.cpu / conns * 1e6, 1),
        "heir_cpu_us_each": round(heir_cpu / conns * 1e6, 1),
        "longest_pause_ms": round(max(giver.pauses) * 1e3, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conns", type=int, default=10000)
    parser.add_argument("--framing", choices=FRAMINGS, default="lines")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heir", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.heir:
        be_heir(*args.heir)
        return
    rounds = []
    for _ in range(args.rounds):
        rounds.append(measure(args.conns, args.framing))
        print(json.dumps(rounds[-1]), flush=True)
    names = "us_each", "giver_cpu_us_each", "heir_cpu_us_each"
    medians = {name: statistics.median(one[name] for one in rounds) for name in names}
    print(json.dumps({"median": medians}))


if __name__ == "__main__":
    main()
