"""Floods and hostile peers: what they cost the peers that behave, and the server.

    python -m tests.floods [--full] [--only NAME] [--backend NAME]

Each flood is a function that raises an AssertionError where the server does not keep
its word, and returns figures; test_floods.py runs the same in a size of seconds. The
server is a process of its own, and so are the slow clients.
"""

import argparse
import contextlib
import errno
import json
import random
import selectors
import socket
import subprocess
import sys
import time

import pymux

from . import bounds, util
from .flood_limits import clinging, deaf, endless, greedy, idle, untaken
from .flooding import KIB, MIB, PATIENCE, connect, crowd, exchange, reset, server
from .processes import python

# -- slow ones ---------------------------------------------------------------------


def ping_pong(socks, rounds, size=64):
    """Seconds that `rounds` messages of each socket take, each checked."""
    messages = [b"message %*d\n" % (size - 9, k) for k in range(len(socks))]
    begun = time.monotonic()
    for _ in range(rounds):
        for sock, message in zip(socks, messages):
            sock.sendall(message)
        for sock, message in zip(socks, messages):
            assert util.recv_exactly(sock, size) == message
    return time.monotonic() - begun


def slow(backend, count=500, fast=10, rounds=200, times=4):
    """Slow readers and slow writers, a byte at a time, beside fast clients.

    The fast ones are measured in turns with the slow ones still and moving. The slow
    readers have each asked for a mebibyte, of which the kernels' buffers hold a part.
    """
    limits = pymux.Limits(max_output=2 * MIB)
    half = count // 2
    with server(backend, handler="grow", limits={"max_output": 2 * MIB}) as it:
        with crowd(it.address, fast) as socks:
            options = json.dumps({"address": it.address, "count": half})
            with python("-m", "tests.flood_slow", options) as child:
                assert child.stdout.readline() == "ready\n", child.stderr.read()
                it.until(lambda f: f["connections"] == fast + 2 * half)
                ping_pong(socks, rounds)
                still, moving, moved = [], [], 0
                for _ in range(times):
                    still.append(ping_pong(socks, rounds))
                    child.stdin.write("go\n")
                    child.stdin.flush()
                    assert child.stdout.readline() == "going\n"
                    moving.append(ping_pong(socks, rounds))
                    it.figures()
                    child.stdin.write("halt\n")
                    child.stdin.flush()
                    moved += int(child.stdout.readline())
                figures = it.figures()
        assert moved > 0
        assert figures["ends"].get("ENOBUFS") is None
        bound = bounds.memory(
            fast + 2 * half,
            framing=pymux.Lines(),
            limits=limits,
            reply=MIB,
            carry=half * 4 * KIB,
            queued=half * (MIB + 2 * bounds.PIECE),
        )
        memory = it.within(bound)
    ratios = sorted(a / b for a, b in zip(still, moving))
    return {
        "slow": 2 * half,
        "bytes one at a time": moved,
        "fast messages/s, slow still": fast * rounds * times / sum(still),
        "fast messages/s, slow moving": fast * rounds * times / sum(moving),
        "share the fast keep (median)": ratios[len(ratios) // 2],
        **memory,
    }


# -- more peers than descriptors ---------------------------------------------------


def full(backend, nofile=64, extra=None, seconds=1.0):
    """A connect flood beyond the descriptor limit, and what it is while it lasts."""
    extra = extra or 3 * nofile
    with server(backend, nofile=nofile) as it, crowd(it.address, 8) as established:
        for sock in established:
            exchange(sock, b"before")
        with crowd(it.address, extra) as socks:
            for k, sock in enumerate(socks):
                sock.sendall(b"%d\n" % k)
            it.until(lambda f: f["accept_pauses"] > 0)
            was = it.until(lambda f: f["connections"] > nofile // 2)
            while True:  # until the accepted peers have been answered
                now = it.figures()
                if now["messages_out"] == was["messages_out"]:
                    break
                was = now
            time.sleep(seconds)  # in which nothing is to happen: how much does?
            now = it.figures()
            cpu = now["cpu"] - was["cpu"]
            turns = now["harvests"] - was["harvests"]
            assert now["connections"] < nofile
            assert turns <= 20 + 30 * seconds, f"{turns} turns with nothing to do"
            assert cpu <= 0.5 * seconds, f"{cpu} s of processor in {seconds} s"
            for sock in established:
                exchange(sock, b"while it is full")
            # each that goes makes room for another, until all have been served
            watch = selectors.DefaultSelector()
            for k, sock in enumerate(socks):
                watch.register(sock, selectors.EVENT_READ, b"%d\n" % k)
            served = 0
            while served < extra:
                events = watch.select(PATIENCE)
                assert events, f"{extra - served} of {extra} wait for ever"
                for key, _ in events:
                    assert util.recv_exactly(key.fileobj, len(key.data)) == key.data
                    watch.unregister(key.fileobj)
                    key.fileobj.shutdown(socket.SHUT_WR)
                    served += 1
            watch.close()
            for sock in established:
                exchange(sock, b"after")
        after = it.figures()
        assert after["refused"] == 0
        assert after["accepted"] == 8 + extra
    return {
        "descriptors": nofile,
        "connects": extra,
        "processor while full %": 100 * cpu / seconds,
        "turns a second while full": turns / seconds,
        "served in the end": served,
    }


# -- resets ------------------------------------------------------------------------

STAGES = {
    "before accept": lambda sock: reset(sock),
    "in a message": lambda sock: (sock.sendall(b"half a li"), reset(sock)),
    "before the answer": lambda sock: (sock.sendall(b"hello\n"), reset(sock)),
    "at the answer": lambda sock: (exchange(sock, b"hello"), reset(sock)),
    "while output is flushed": lambda sock: (
        sock.sendall(b"3000000\n"),
        sock.recv(1000),
        reset(sock),
    ),
    "after half-closing": lambda sock: (
        sock.sendall(b"3000000\n"),
        sock.shutdown(socket.SHUT_WR),
        sock.recv(1),
        reset(sock),
    ),
    "with everything unread": lambda sock: (
        sock.sendall(b"100000\n" * 20),
        time.sleep(0),
        reset(sock),
    ),
}


def resets(backend, each=20, stages=tuple(STAGES)):
    """Resets at every stage, in a random order, beside a peer that is served."""
    order = [stage for stage in stages for _ in range(each)]
    random.Random(each).shuffle(order)
    limits = pymux.Limits(max_output=4 * MIB)
    with server(backend, handler="grow", limits={"max_output": 4 * MIB}) as it:
        with crowd(it.address, 1) as (good,):
            for k, stage in enumerate(order):
                STAGES[stage](connect(it.address))
                exchange(good, b"still here %d." % k)
                if k % 50 == 0:
                    it.figures()
            gone = it.until(lambda f: f["closed"] == len(order) - lost(f, len(order)))
            assert gone["connections"] == 1
            assert gone["queued"] == 0
        after = it.until(lambda f: f["connections"] == 0)
        assert after["buffers"] == 0
        assert set(after["ends"]) <= {"ECONNRESET", "end", "ENOBUFS"}
        bound = bounds.memory(4, framing=pymux.Lines(), limits=limits, reply=3 * MIB)
        memory = it.within(bound)
    return {"resets": len(order), "seen as resets": after["reset"], **memory}


def lost(figures, came):
    """Connections of which the server never heard: reset before they were accepted,
    some kernels do not show them."""
    return came + 1 - figures["accepted"]


# -- many come and go --------------------------------------------------------------


def churn(backend, seconds=1.0, processes=2, most=2000):
    """Connects and closes as fast as they go, descriptors and slots used again; each
    client asks for its own words, and checks that it gets no others."""
    with server(backend) as it:
        options = {"address": it.address, "seconds": seconds, "most": most}
        begun = time.monotonic()
        children = []
        with contextlib.ExitStack() as stack:
            for k in range(processes):
                words = json.dumps({**options, "number": k})
                command = python("-m", "tests.flood_churn", words)
                children.append(stack.enter_context(command))
            for child in children:
                while child.poll() is None:
                    it.figures()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(0.1)
            said = [child.stdout.readline() for child in children]
            for child, line in zip(children, said):
                assert line, child.stderr.read()
        took = time.monotonic() - begun
        counts = [json.loads(line) for line in said]
        total = sum(one["connections"] for one in counts)
        after = it.until(lambda f: f["connections"] == 0)
        assert after["accepted"] == after["closed"] == total
        assert after["buffers"] == after["queued"] == 0
        memory = it.within(
            bounds.memory(
                4096, framing=pymux.Lines(), limits=pymux.Limits(), carry=0, queued=0
            )
        )
    busy = max(one["seconds"] for one in counts)
    return {
        "connects and closes": total,
        "a second": total / busy,
        "checked": sum(one["checked"] for one in counts),
        "of others": 0,
        "seconds": took,
        **memory,
    }


FLOODS = {
    "slow": (slow, {}, {"count": 2000, "rounds": 1000, "times": 10}),
    "full 64": (full, {}, {"extra": 1000, "seconds": 5.0}),
    "full 256": (full, {"nofile": 256}, {"extra": 4000, "seconds": 5.0}),
    "resets": (resets, {}, {"each": 500}),
    "deaf": (deaf, {}, {"count": 1000}),
    "greedy": (greedy, {"count": 20}, {"count": 100}),
    "untaken": (untaken, {}, {"count": 500}),
    "endless line": (endless, {"what": "line"}, {"count": 1000}),
    "endless claim": (endless, {"what": "claim"}, {"count": 1000}),
    "small claim": (endless, {"what": "small claim"}, {"count": 1000}),
    "idle": (idle, {}, {"count": 5000, "seconds": 2.0}),
    "clinging": (clinging, {}, {"count": 5000, "seconds": 2.0}),
    "churn": (churn, {}, {"seconds": 60.0, "most": 10**9, "processes": 3}),
}


def run(name, backend, whole=False):
    """One flood, in the size of a test or in full; its figures."""
    flood, small, large = FLOODS[name]
    sizes = {**small, **large} if whole else small
    if backend == "select" and sizes.get("count", 0) > 300:
        sizes["count"] = 300
    return flood(backend, **sizes)


def main():
    """Run the floods and print what came of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.floods")
    parser.add_argument("--full", action="store_true", help="thousands, for a minute")
    parser.add_argument("--only", choices=sorted(FLOODS), help="this one")
    parser.add_argument("--backend", help="only this one")
    arguments = parser.parse_args()
    failed = 0
    for backend in [arguments.backend] if arguments.backend else pymux.backends():
        for name in [arguments.only] if arguments.only else FLOODS:
            begun = time.monotonic()
            try:
                figures = run(name, backend, arguments.full)
                words = ", ".join(f"{n:,.4g} {what}" for what, n in figures.items())
            except (AssertionError, OSError) as error:
                failed += 1
                words = f"FAILED: {errno.errorcode.get(getattr(error, 'errno', 0), '')}"
                words += str(error)
            took = time.monotonic() - begun
            print(f"{backend:7} {name:14} {took:5.1f} s  {words}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
