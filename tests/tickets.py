"""What arrives over TLS 1.3 of clients that send, close, and never read.

    python -m tests.tickets [--clients 200] [--bytes 200000] [--rounds 3]

Session tickets that a server sends behind the handshake stay unread; the client's
kernel resets when it closes, and what the server has not read then is lost. Servers:
pymux on each engine, asyncio's, uvloop's.
"""

import argparse
import asyncio
import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pymux

from . import util
from .handshakes import ENGINES, engine
from .loops import LOOPS, Loop
from .tls import Papers, secure

TOGETHER = 8  # clients at once


def send_only(address, context, clients, size):
    """So many clients that send so many bytes, and close."""

    def one(_):
        with contextlib.closing(secure(address, context)) as peer:
            peer.sendall(b"x" * size)

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(one, range(clients)))


class Counts:
    """What has arrived, and how many have ended."""

    def __init__(self):
        self.bytes = self.ended = 0

    def received(self, conn, data):
        self.bytes += len(data)

    def closed(self, conn, error):
        self.ended += 1


class Counting(asyncio.Protocol):
    """The same, of one connection of an asyncio server."""

    def __init__(self, counts):
        self.counts = counts

    def data_received(self, data):
        self.counts.bytes += len(data)

    def connection_lost(self, error):
        self.counts.ended += 1


def of_pymux(papers, clients, size, backend=None, num_tickets=None):
    """The bytes that arrive at a server of pymux's."""
    counts = Counts()
    ours = papers.server()
    if num_tickets is not None:
        ours.num_tickets = num_tickets
    with util.serving(counts, backend, ssl=ours) as server:
        send_only(server.address, papers.client(), clients, size)
        util.wait_until(lambda: counts.ended == clients, 60)
    return counts.bytes


def of_loop(name, papers, clients, size):
    """The bytes that arrive at a server of an asyncio loop's."""
    counts = Counts()

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Counting(counts), "127.0.0.1", 0, ssl=papers.server(), backlog=300
        )
        address = server.sockets[0].getsockname()
        await loop.run_in_executor(
            None, send_only, address, papers.client(), clients, size
        )
        while counts.ended < clients:
            await asyncio.sleep(0.01)
        server.close()

    Loop(name).run(main())  # errors of its connections are not what is counted
    return counts.bytes


def main():
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.tickets")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=200_000, help="of each")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    papers = Papers()
    size = arguments.clients, arguments.bytes
    shares = {}

    def note(name, arrived):
        shares.setdefault(name, []).append(100 * arrived / (size[0] * size[1]))

    for _ in range(arguments.rounds):
        for name in ENGINES:
            with contextlib.suppress(pymux.BackendUnavailable), engine(name):
                # the portable engine cannot hold tickets back
                tickets = 0 if name == "portable" else None
                note(f"pymux, {name}", of_pymux(papers, *size, num_tickets=tickets))
        for name in LOOPS:
            note(name, of_loop(name, papers, *size))
    for name, percents in shares.items():
        print(f"{name:<16}", *(f"{percent:6.1f} %" for percent in percents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
