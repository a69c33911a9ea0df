"""How evenly do connections that stay open spread over workers?

    python -m tests.balance                 8 workers, each way of coming, 3 times
    python -m tests.balance --workers 4 --trials 1 --json

Connections come one by one, one by one while those that are there talk, and in a burst.
All stay open. The figure is that of the busiest worker, over the mean; each connection
must be answered.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from .inside_figures import Reader
from .supervised import supervised, wait_until

APP = """
def handler(conn, data):
    return data
"""
WAYS = {"one by one": 16, "talking": 64, "burst": 400}
PAUSE = 0.004  # seconds between connections that come one by one
MOST = 1.1  # of the busiest worker's connections, over the mean


class Clients:
    """Connections to one server, all of them open."""

    def __init__(self, address):
        self.address = address
        self.socks = []

    def come(self, count, pause=0.0):
        for _ in range(count):
            self.socks.append(socket.create_connection(self.address, timeout=30))
            if pause:
                time.sleep(pause)

    def ask(self):
        """Send and check one message on each."""
        socks = list(self.socks)
        for k, sock in enumerate(socks):
            sock.sendall(b"%d" % k)
        for k, sock in enumerate(socks):
            assert sock.recv(100) == b"%d" % k, f"connection {k} was not answered"

    def leave(self):
        for sock in self.socks:
            sock.close()
        self.socks.clear()


@contextlib.contextmanager
def talking(clients):
    """The clients that are there talk all the time."""
    over = threading.Event()
    failed = []

    def talk():
        try:
            while not over.wait(0.001):
                clients.ask()
        except (OSError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


def slots_of(server):
    """The figures of each slot."""
    with Reader(server.wait_for(r"the figures are in (\S+)")[1]) as pages:
        return pages.read()


def trial(server, way):
    """Let connections come; how many each worker has, and how many were given away."""
    given = sum(slot["given_away"] for slot in slots_of(server))
    clients = Clients(server.address)
    count = WAYS[way]
    began = time.perf_counter()
    try:
        if way == "talking":
            with talking(clients):
                clients.come(count, PAUSE)
        else:
            clients.come(count, 0.0 if way == "burst" else PAUSE)
        clients.ask()
        took = time.perf_counter() - began
        counts = [slot["connections"] for slot in slots_of(server)]
        given = sum(slot["given_away"] for slot in slots_of(server)) - given
    finally:
        clients.leave()
    wait_until(lambda: not sum(slot["connections"] for slot in slots_of(server)))
    return {"way": way, "counts": counts, "given": given, "seconds": round(took, 3)}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.balance")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--most", type=float, default=MOST)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    worst = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        supervised(Path(folder), app=APP, workers=str(args.workers)) as server,
    ):
        for way in WAYS:
            for _ in range(args.trials):
                found = trial(server, way)
                total = sum(found["counts"])
                assert total == WAYS[way], found
                ratio = max(found["counts"]) * args.workers / total
                found["ratio"] = round(ratio, 3)
                worst = max(worst, ratio)
                if args.json:
                    print(json.dumps(found), flush=True)
                else:
                    print(
                        f"{way:<11}{total:>4} connections  busiest / mean "
                        f"{ratio:.2f}  given away {found['given']:>3}  "
                        f"{found['counts']}",
                        flush=True,
                    )
    print(f"worst {worst:.2f}; at most {args.most}", file=sys.stderr)
    return worst > args.most


if __name__ == "__main__":
    sys.exit(main())
