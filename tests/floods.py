"""Floods and hostile peers: what they cost those who behave, and the server.

    python -m tests.floods [--full] [--only NAME] [--backend NAME]

Each flood is a function that raises an AssertionError where the server does not keep
its word, and returns figures; test_floods.py runs the same in a size of seconds. The
server is a process of its own, and so are the slow clients.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

import pymux

from . import bounds, util
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
            while True:  # until those who are in have been answered
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
    """Resets at every stage, in a random order, beside one who is served."""
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


# -- peers against each limit ------------------------------------------------------


def deaf(backend, count=100):
    """Peers that never read while everybody is sent to, against `max_output`."""
    limits = {"max_output": 256 * KIB}
    piece = 32 * KIB
    with (
        server(backend, handler="shout", framing=["prefix", {}], limits=limits) as it,
        crowd(it.address, count),
        connect(it.address) as good,
    ):
        it.until(lambda f: f["connections"] == count + 1)
        said = 0
        while it.figures()["ends"].get("ENOBUFS", 0) < count:
            good.sendall(struct.pack(">I", 5) + b"%d" % piece)
            assert util.recv_exactly(good, 8) == b"\0\0\0\4done"
            said += 1
            assert said < 5000, "they take for ever"
        after = it.figures()
        assert after["connections"] == 1
        assert after["queued"] == 0
        memory = it.within(
            bounds.memory(
                count,
                framing=pymux.LengthPrefix(),
                limits=pymux.Limits(**limits),
                reply=piece,
                carry=0,
            )
        )
    return {"deaf peers": count, "ended with ENOBUFS": count, **memory}


def greedy(backend, count=100, size=200 * KIB):
    """Peers that send and never read the echo: reading from them pauses."""
    limits = {"high_water": 16 * KIB, "low_water": 4 * KIB}
    with (
        server(backend, framing=["raw", {}], limits=limits) as it,
        crowd(it.address, count) as socks,
        connect(it.address) as good,
    ):
        stuck, chunk = set(), bytes(size)
        for sock in socks:
            sock.setblocking(False)
        while len(stuck) < count:
            for sock in socks:
                if sock in stuck:
                    continue
                try:
                    sock.send(chunk)
                except BlockingIOError:
                    if not selectable(sock):
                        stuck.add(sock)
        good.sendall(b"and me?")
        assert util.recv_exactly(good, 7) == b"and me?"
        now = it.figures()
        assert now["connections"] == count + 1
        # high water, and what was read from it at a time
        most = count * (16 * KIB + 262_144)
        assert now["queued"] <= most, f"{now['queued']} bytes queued"
        memory = it.within(
            bounds.memory(
                count,
                framing=pymux.Raw(),
                limits=pymux.Limits(**limits),
                queued=most + count * 2 * bounds.PIECE,
            )
        )
    return {"greedy peers": count, "KiB queued of each": most / count / KIB, **memory}


def selectable(sock):
    """Whether the kernel takes more within a moment."""
    watch = selectors.DefaultSelector()
    watch.register(sock, selectors.EVENT_WRITE)
    try:
        return bool(watch.select(0.05))
    finally:
        watch.close()


def untaken(backend, count=50, size=300 * KIB):
    """Small messages to coroutines that take none: what waits for them is bounded."""
    limits = {"high_water": 16 * KIB, "low_water": 4 * KIB}
    with (
        server(backend, form="sleeper", limits=limits) as it,
        crowd(it.address, count) as socks,
    ):
        text = b"0123456789abcde\n" * (size // 16)
        for sock in socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.sendall(text)
        was = it.until(lambda f: f["messages_in"] > count * 200)
        while (now := it.figures())["bytes_in"] != was["bytes_in"]:
            was = now
        # high water, at so many bytes a message, and what a harvest brought at once
        most = count * (16 * KIB / (15 + 64) + 4096)
        assert now["messages_in"] <= most, f"{now['messages_in']} wait to be taken"
        memory = it.within(
            bounds.memory(
                count,
                framing=pymux.Lines(),
                limits=pymux.Limits(**limits),
                form="coroutine",
                queued=0,
            )
        )
    return {"peers": count, "messages untaken": now["messages_in"], **memory}


def endless(backend, count=100, what="line"):
    """Peers that never send a delimiter, or claim a huge length, against `max_size`."""
    size = 100_000
    kind = "lines" if what == "line" else "prefix"
    head = {
        "line": b"",
        "claim": b"\xff\xff\xff\xff",
        "small claim": struct.pack(">I", size),
    }[what]
    with (
        server(backend, framing=[kind, {"max_size": size}]) as it,
        crowd(it.address, count) as socks,
    ):
        before = it.until(lambda f: f["connections"] == count)
        for sock in socks:
            sock.setblocking(False)
            sock.send(head + b"x")
        if what == "small claim":  # it may be meant: but no memory before it comes
            now = it.until(lambda f: f["bytes_in"] - before["bytes_in"] == 5 * count)
            assert now["buffers"] <= count * 1024, "memory by the claim"
            for _ in range(20):  # nearly all of it
                for sock in socks:
                    sock.send(bytes((size - 1000) // 20))
            now = it.until(lambda f: f["bytes_in"] >= count * (size - 1000))
            assert now["connections"] == count
        else:
            alive = set(socks)
            while alive:
                for sock in list(alive):
                    try:
                        sock.send(b"x" * 8192)
                    except BlockingIOError:
                        continue
                    except ConnectionError:
                        alive.discard(sock)
            it.until(lambda f: f["ends"].get("EMSGSIZE") == count)
        memory = it.within(
            bounds.memory(
                count,
                framing=pymux.Lines(max_size=size),
                limits=pymux.Limits(),
                queued=0,
            )
        )
    return {"endless peers": count, **memory}


def idle(backend, count=200, seconds=0.5):
    """Peers that say nothing, against `idle_timeout`, beside one that does."""
    with (
        server(backend, limits={"idle_timeout": seconds}) as it,
        crowd(it.address, count),
        connect(it.address) as good,
    ):
        deadline = time.monotonic() + PATIENCE
        while it.figures()["ends"].get("ETIMEDOUT", 0) < count:
            exchange(good, b"I do")
            assert time.monotonic() < deadline, "they stay"
        assert it.figures()["connections"] == 1
        memory = it.within(
            bounds.memory(
                count, framing=pymux.Lines(), limits=pymux.Limits(), carry=0, queued=0
            )
        )
    return {"idle peers": count, "ended with ETIMEDOUT": count, **memory}


def clinging(backend, count=200, seconds=0.5):
    """Peers that never close when they are closed, against `close_timeout`."""
    with (
        server(backend, handler="part", limits={"close_timeout": seconds}) as it,
        crowd(it.address, count) as socks,
    ):
        for sock in socks:
            sock.sendall(b"bye\n")
        for sock in socks:
            assert util.recv_all(sock) == b"bye\n"
        after = it.until(lambda f: f["ends"].get("ETIMEDOUT") == count)
        assert after["connections"] == 0
        memory = it.within(
            bounds.memory(
                count, framing=pymux.Lines(), limits=pymux.Limits(), carry=0, queued=0
            )
        )
    return {"clinging peers": count, "ended with ETIMEDOUT": count, **memory}


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
