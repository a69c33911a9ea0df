"""`pymux.Selector` beside the standard library's: `python -m bench.selector`.

Each cell is a call of `select()` with so many descriptors registered and so many
ready, in rounds that alternate between the two; medians, and the median of the rounds'
ratios. The last rows are what a program does beside waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import selectors
import socket
import statistics
import sys
import time

import pymux

STANDARD = {
    "epoll": "EpollSelector",
    "kqueue": "KqueueSelector",
    "poll": "PollSelector",
    "select": "SelectSelector",
}
REGISTERED = (1, 100, 10_000)
READY = (0, 1, 100)
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


@contextlib.contextmanager
def descriptors(registered, ready):
    """So many descriptors, of which so many are readable."""
    quiet, loud = os.pipe(), os.pipe()
    os.write(loud[1], b"x")
    held = [os.dup(loud[0] if k < ready else quiet[0]) for k in range(registered)]
    try:
        yield held
    finally:
        for number in (*quiet, *loud, *held):
            os.close(number)


def timed(call, count):
    """Nanoseconds for one of so many calls."""
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / count


def compare(name, ours, theirs, rounds, span):
    """Alternate, for about so many seconds a round, and print a row."""
    once = min(timed(ours, 3), timed(theirs, 3))
    count = max(1, int(span * 1e9 / once))
    figures = []
    for k in range(rounds):
        if k % 2:
            figures.append((timed(ours, count), timed(theirs, count)))
        else:
            figures.append((timed(theirs, count), timed(ours, count))[::-1])
    our, their = (statistics.median(column) for column in zip(*figures))
    ratio = statistics.median(b / a for a, b in figures)
    print(f"| {name} | {our:,.0f} | {their:,.0f} | {ratio:.2f} |", flush=True)
    return ratio


def selecting(backend, standard, rounds, span):
    """The cells: registered, ready, and with which timeout."""
    for registered in REGISTERED:
        if backend == "select" and registered > 900:
            continue
        for ready in READY:
            if ready > registered:
                continue
            with (
                descriptors(registered, ready) as held,
                pymux.Selector(backend) as ours,
                standard() as theirs,
            ):
                for number in held:
                    ours.register(number, READ, number)
                    theirs.register(number, READ, number)
                assert len(ours.select(0)) == len(theirs.select(0)) == ready
                for timeout in (0, 10, None) if ready else (0,):
                    yield compare(
                        f"select({timeout}), {registered:,} registered, {ready} ready",
                        lambda: ours.select(timeout),  # noqa: B023 (called at once)
                        lambda: theirs.select(timeout),  # noqa: B023 (called at once)
                        rounds,
                        span,
                    )


def changing(backend, standard, rounds, span):
    """What is done beside waiting."""

    def register(selector, sock):
        selector.register(sock, READ)
        selector.unregister(sock)

    def modify(selector, sock):
        selector.modify(sock, READ | WRITE)
        selector.modify(sock, READ)

    ours_sock, theirs_sock = socket.socketpair()
    with (
        ours_sock,
        theirs_sock,
        pymux.Selector(backend) as ours,
        standard() as theirs,
    ):
        yield compare(
            "register and unregister",
            lambda: register(ours, ours_sock),
            lambda: register(theirs, ours_sock),
            rounds,
            span,
        )
        ours.register(ours_sock, READ)
        theirs.register(ours_sock, READ)
        yield compare(
            "modify twice",
            lambda: modify(ours, ours_sock),
            lambda: modify(theirs, ours_sock),
            rounds,
            span,
        )


def looping(backend, standard, rounds, span):
    """Messages through asyncio's streams and back, 20 connections at once."""

    async def answer(reader, writer):
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def open_all():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        where = server.sockets[0].getsockname()
        return server, [await asyncio.open_connection(*where) for _ in range(20)]

    async def talk(streams):
        for _, writer in streams:
            writer.write(b"x" * 64)
        for reader, _ in streams:
            await reader.readexactly(64)

    async def close(server, streams):
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loops = [asyncio.SelectorEventLoop(pymux.Selector(backend))]
    loops.append(asyncio.SelectorEventLoop(standard()))
    opened = [loop.run_until_complete(open_all()) for loop in loops]
    yield compare(
        "asyncio streams, 20 echoes",
        lambda: loops[0].run_until_complete(talk(opened[0][1])),
        lambda: loops[1].run_until_complete(talk(opened[1][1])),
        rounds,
        span,
    )
    for loop, (server, streams) in zip(loops, opened):
        loop.run_until_complete(close(server, streams))
        loop.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backend", choices=pymux.backends(), default=None)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.01, help="a round")
    options = parser.parse_args()
    backend = options.backend or pymux.backends()[0]
    standard = getattr(selectors, STANDARD[backend], None)
    if standard is None:
        sys.exit(f"the standard library has no {STANDARD[backend]} here")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    python = f"{sys.implementation.name} {sys.version.split()[0]}"
    print(f"| {python}, {backend} | pymux ns | {STANDARD[backend]} ns | times |")
    print("|---|--:|--:|--:|")
    least = 10.0
    for part in (selecting, changing, looping):
        for ratio in part(backend, standard, options.rounds, options.seconds):
            least = min(least, ratio)
    print(f"\nat least {least:.2f} times as fast")


if __name__ == "__main__":
    main()
