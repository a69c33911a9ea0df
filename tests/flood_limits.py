"""Floods of peers that each of the limits must stop."""

import contextlib
import selectors
import struct
import time

import pymux

from . import bounds, util
from .flooding import KIB, PATIENCE, connect, crowd, exchange, server


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
