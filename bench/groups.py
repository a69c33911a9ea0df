"""What a message of a group costs: over a broker, and to the members here.

    python -m bench.groups [nats] [redis] [here]

Over a broker: a process of its own sends N messages of 64 bytes, encoded ahead, with
stamps as a worker gives them; the group hears them, and then its one member, whose
peer is in that process too. Here: a turn of 1 and of 8 messages to 100 members. The
figures are microseconds of CPU of the measured process, kernel included, with the
broker and the other process on another core.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymux

N = int(os.environ.get("N", "200000"))
SIZE = 64
MEMBERS = 100
SENDER = b"0123456789abcdef"
SUBJECT = b"pymux.bench"


def report(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def on_core(number: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[number % len(allowed)]})


@contextmanager
def child(work: Callable[..., Any], *args: Any) -> Iterator[None]:
    """A process beside this one, on another core."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            all_cores()
            on_core(1)
            work(*args)
            code = 0
        finally:
            os._exit(code)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def all_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES)


CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


# --- the brokers ------------------------------------------------------------------


def nats_stamped(number: int, data: bytes) -> bytes:
    head = b"NATS/1.0\r\nPymux: %b.%d\r\n\r\n" % (SENDER, number)
    sizes = SUBJECT, len(head), len(head) + len(data)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (*sizes, head, data)


def redis_stamped(number: int, data: bytes) -> bytes:
    text = b"PYMUX/1 %b.%d\n%b" % (SENDER, number, data)
    sizes = len(SUBJECT), SUBJECT, len(text), text
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % sizes


PROGRAMS = {
    "nats": ["nats-server", "-a", "127.0.0.1", "-p"],
    "redis": [
        *("redis-server", "--save", "", "--bind", "127.0.0.1"),
        *("--client-output-buffer-limit", "pubsub", "0", "0", "0", "--port"),
    ],
}
STAMPED = {"nats": nats_stamped, "redis": redis_stamped}
BACKPLANES = {"nats": pymux.Nats, "redis": pymux.Redis}
HELLOS = {"nats": b'CONNECT {"verbose":false,"headers":true}\r\n', "redis": b""}


@contextmanager
def broker(kind: str) -> Iterator[int]:
    """A broker on another core; its port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    all_cores()
    program = subprocess.Popen(
        [*PROGRAMS[kind], str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: on_core(1),
    )
    on_core(0)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        program.kill()
        program.wait()


def publish(kind: str, port: int, begin: int) -> None:
    """Publish N messages, and one more that jumps: the end."""
    stamped, data = STAMPED[kind], b"x" * SIZE
    numbers = range(begin, begin + N)
    pieces = [
        b"".join(stamped(number, data) for number in numbers[at : at + 100])
        for at in range(0, N, 100)
    ]
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(HELLOS[kind])
        for piece in pieces:
            sock.sendall(piece)
            if kind == "redis":
                got = 0
                while got < 400:  # ":1\r\n" for each
                    got += len(sock.recv(65536))
        sock.sendall(stamped(begin + N + 1, data))
        time.sleep(600)


def drain(address: Any) -> None:
    """The peer of a member, which reads."""
    with socket.create_connection(address) as sock:
        while sock.recv(1 << 20):
            pass


def over(kind: str, with_member: bool) -> None:
    """Measure the messages of a broker."""
    ended = False

    def end(group: pymux.Group, lost: int) -> None:
        nonlocal ended
        ended = True

    with broker(kind) as port, pymux.Mux() as mux:
        where = ("127.0.0.1", port)
        room = pymux.Group("bench", BACKPLANES[kind](where), on_gap=end)
        room.attach(mux)
        listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_output=1 << 30))
        with child(drain, listener.address):
            opened: list[pymux.Connection] = []
            while not room.connected or not opened:
                opened += mux.harvest(0.1).opened
            if with_member:
                room.add(opened[0])
            with child(publish, kind, port, 1):
                before = mux.stats().bytes_in
                while mux.stats().bytes_in == before:
                    mux.harvest(5)
                began, cpu = time.monotonic(), time.process_time()
                while not ended:
                    mux.harvest(5)
                cpu = time.process_time() - cpu
                took = time.monotonic() - began
    report(
        what=f"{kind}: a message{' delivered to a member' * with_member}",
        us=round(cpu / N * 1e6, 2),
        per_s=round(N / took),
    )


# --- here -------------------------------------------------------------------------


def drain_many(address: Any) -> None:
    with pymux.Mux() as mux:
        for _ in range(MEMBERS):
            mux.connect(address)
        while True:
            mux.harvest()


def here(together: int) -> None:
    """Measure deliveries to members here, so many messages a turn."""
    room = pymux.Group("bench")
    data = b"x" * SIZE
    with pymux.Mux() as mux:
        listener = mux.listen(("127.0.0.1", 0), limits=pymux.Limits(max_output=1 << 30))
        with child(drain_many, listener.address):
            while len(room) < MEMBERS:
                for conn in mux.harvest(1).opened:
                    room.add(conn)
            rounds = max(N // MEMBERS // together, 100)
            cpu = time.process_time()
            for _ in range(rounds):
                for _ in range(together):
                    room.send(data)
                mux.harvest(0)
                while mux.stats().queued > 1 << 20:
                    mux.harvest(0.001)
            cpu = time.process_time() - cpu
    report(
        what=f"here: a delivery, {together} a turn to {MEMBERS} members",
        us=round(cpu / (rounds * together * MEMBERS) * 1e6, 2),
    )


def main(kinds: list[str]) -> None:
    on_core(0)
    for kind in kinds or ["nats", "redis", "here"]:
        if kind == "here":
            for together in 1, 8:
                here(together)
        elif shutil.which(PROGRAMS[kind][0]) is None:
            report(what=f"{kind}: {PROGRAMS[kind][0]} is not installed")
        else:
            for with_member in False, True:
                over(kind, with_member)


if __name__ == "__main__":
    main(sys.argv[1:])
