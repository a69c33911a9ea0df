"""A soak: good and bad clients together, for as long as one likes.

    python -m tests.soak --minutes N [--backend NAME] [--form FORM] [--clients N]

The server is a process of its own, on the loopback. Good clients keep their
connections for a while and have every byte that comes back compared; bad ones reset,
read nothing, never end a line, say nothing, cling. It says how it goes, and ends with a
summary and 0, or 1 where

- a byte was wrong, missing, or of another's;
- the server's count of bytes or connections is not the clients' own;
- its resident memory rose over the last three quarters of the time;
- a descriptor, a byte queued or a buffer was left at the end.
"""

import argparse
import contextlib
import random
import selectors
import socket
import sys
import time

from . import flooding, util
from .processes import descriptors_allowed

KIB, MIB = 1 << 10, 1 << 20
BLOB = random.Random(0).randbytes(MIB).replace(b"\n", b"\0")
LIMITS = {"max_output": 2 * MIB, "idle_timeout": 5.0, "close_timeout": 2.0}
MAX_SIZE = 65536
RISE = 64 * KIB  # bytes a minute: less is the allocator's breathing
LEAST = 4 * MIB  # bytes risen in all, before a slope means anything


class Client:
    """A good one: sends lines, and owes nothing when it has got them back."""

    kind = "good"

    def __init__(self, address, rng):
        self.sock = socket.create_connection(address, 30)
        self.sock.setblocking(False)
        self.random = rng
        self.left = rng.choice((1, 10, 100, 1000))
        self.unsent = b""
        self.owed = bytearray()
        self.sent = self.got = self.messages = 0
        self.done = False

    def line(self):
        """A message of a random size, most of them small."""
        size = min(int(self.random.paretovariate(0.9) * 12), 60_000)
        start = self.random.randrange(len(BLOB) - size)
        return BLOB[start : start + size] + b"\n"

    def step(self):
        """Send a piece."""
        if not self.unsent and self.left and len(self.owed) < 2 * MAX_SIZE:
            self.unsent = self.line()
            self.left -= 1
            self.messages += 1
        if self.unsent:
            cut = self.random.randrange(len(self.unsent)) + 1
            with contextlib.suppress(BlockingIOError):
                sent = self.sock.send(self.unsent[:cut])
                self.sent += sent
                self.owed += self.unsent[:sent]
                self.unsent = self.unsent[sent:]
        elif not self.left and not self.done:
            self.done = True
            self.sock.shutdown(socket.SHUT_WR)

    def receive(self):
        """Compare what came; whether it goes on."""
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return True
        if not data:
            assert self.done, "the server ended a good client's stream"
            assert not self.owed, f"{len(self.owed)} bytes never came back"
            return False
        self.got += len(data)
        assert self.owed.startswith(data), "other bytes came back than were sent"
        del self.owed[: len(data)]
        return True


class Rude(Client):
    """Resets in the middle of whatever it is."""

    kind = "resetting"

    def step(self):
        super().step()
        if self.random.randrange(20) == 0:
            flooding.reset(self.sock)
            self.done = None

    def receive(self):
        if self.done is None:
            return False
        return super().receive()


class Deaf(Client):
    """Sends and reads nothing, until the server or it has had enough."""

    kind = "deaf"

    def step(self):
        try:
            self.sent += self.sock.send(BLOB[:60_000] + b"\n")
        except BlockingIOError:
            pass
        except ConnectionError:
            self.done = None
        if self.random.randrange(300) == 0:
            flooding.reset(self.sock)
            self.done = None

    def receive(self):
        return self.done is not None


class Endless(Client):
    """Never ends its line."""

    kind = "endless"

    def step(self):
        try:
            self.sent += self.sock.send(BLOB[:8192])
        except BlockingIOError:
            pass
        except ConnectionError:
            self.done = None

    def receive(self):
        if self.done is None:
            return False
        try:
            return bool(self.sock.recv(1))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False


class Silent(Client):
    """Says a part of a line at most, and waits to be ended."""

    kind = "silent"

    def step(self):
        if not self.sent and self.random.randrange(2):
            self.sent += self.sock.send(b"half a li")

    def receive(self):
        try:
            return bool(self.sock.recv(4096))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False


class Hasty(Client):
    """Connects and goes."""

    kind = "hasty"

    def step(self):
        if self.random.randrange(2):
            flooding.reset(self.sock)
        self.done = None

    def receive(self):
        return self.done is not None


KINDS = [*8 * (Client,), *2 * (Rude, Deaf, Endless, Hasty, Hasty), Silent]
FIRST = b"hello\n"  # of the client that comes before them


class Soak:
    """The crowd, and the accounts of it."""

    def __init__(self, server, clients, seed):
        self.server = server
        self.most = clients
        self.random = random.Random(seed)
        self.watch = selectors.DefaultSelector()
        self.alive = {}
        self.came = {kind.kind: 0 for kind in KINDS}
        self.sent = self.good = self.got = self.messages = 0
        self.wrong = []
        self.samples = []  # (seconds, resident, descriptors, connections)

    def add(self):
        """One more, of a random kind."""
        kind = self.random.choice(KINDS)
        client = kind(self.server.address, random.Random(self.random.random()))
        self.came[client.kind] += 1
        self.alive[client] = None
        self.watch.register(client.sock, selectors.EVENT_READ, client)

    def leave(self, client):
        """It is over with this one."""
        del self.alive[client]
        if client.sock.fileno() < 0:  # it has reset: by its number
            gone = [k for k in self.watch.get_map().values() if k.data is client]
            for key in gone:
                self.watch.unregister(key.fd)
        else:
            self.watch.unregister(client.sock)
            client.sock.close()
        self.sent += client.sent
        self.good += client.sent if client.kind == "good" else 0
        self.got += client.got
        self.messages += client.messages

    def turn(self, more):
        """Everybody sends a piece; what has come is compared."""
        while more and len(self.alive) < self.most:
            self.add()
        for client in list(self.alive):
            self.guarded(client, client.step)
            if client in self.alive and client.done is None:
                self.leave(client)
        for key, _ in self.watch.select(0.001):
            client = key.data
            if client in self.alive and not self.guarded(client, client.receive):
                self.leave(client)

    def guarded(self, client, act):
        """What act() returns; what went wrong is kept, and ends the client."""
        try:
            return act()
        except (AssertionError, OSError) as error:
            if client.kind == "good" or isinstance(error, AssertionError):
                self.wrong.append(f"{client.kind}: {error}")
            client.done = None
            return False

    def sample(self, since):
        """The server's figures now."""
        figures = self.server.figures("collect")
        self.samples.append(
            (
                time.monotonic() - since,
                figures["resident"],
                figures["descriptors"],
                figures["connections"],
            )
        )
        return figures


def slope(points):
    """Bytes a second, by least squares through (seconds, bytes)."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    return above / below if below else 0.0


def soak(minutes, backend, form, clients, seed=93):
    """Run it; the list of what was wrong."""
    options = {"framing": ["lines", {"max_size": MAX_SIZE}], "limits": LIMITS}
    if form != "object":
        options["form"] = form
    with (
        descriptors_allowed(clients + 200),
        flooding.server(backend, **options) as server,
    ):
        with flooding.connect(server.address) as sock:
            flooding.exchange(sock, FIRST[:-1])  # it has what it needs from then on
        before = server.figures("collect")
        crowd = Soak(server, clients, seed)
        begun = time.monotonic()
        end = begun + 60 * minutes
        every = min(60.0, 60 * minutes / 24)
        next_look = begun + every
        while (now := time.monotonic()) < end:
            crowd.turn(True)
            if now >= next_look:
                next_look += every
                say(crowd, crowd.sample(begun))
        # good clients finish, the others are ended
        deadline = time.monotonic() + 60
        while crowd.alive and time.monotonic() < deadline:
            crowd.turn(False)
        for client in list(crowd.alive):
            if client.kind == "good":
                crowd.wrong.append(f"a good client was left, owed {len(client.owed)}")
            flooding.reset(client.sock)
            crowd.leave(client)
        server.until(lambda f: f["connections"] == 0)
        time.sleep(0.2)
        after = server.figures("collect")
    return summary(crowd, before, after, time.monotonic() - begun)


def say(crowd, figures):
    """A line of how it goes."""
    seconds, resident, descriptors, connections = crowd.samples[-1]
    flow = f"{figures['bytes_in'] / MIB:>9,.0f} in {figures['bytes_out'] / MIB:>9,.0f}"
    print(
        f"{seconds / 60:7.2f} min  {figures['accepted']:>9,} accepted "
        f"{connections:>5} open  {figures['messages_in']:>11,} messages  "
        f"MiB {flow} out  {resident / MIB:6.1f} MiB resident  "
        f"{descriptors:>5} descriptors  {figures['cpu']:7.1f} s processor  "
        f"{len(crowd.wrong)} wrong",
        flush=True,
    )


def summary(crowd, before, after, seconds):
    """Print what came of it; the list of what was wrong."""
    wrong = list(crowd.wrong)
    steady = crowd.samples[len(crowd.samples) // 4 :]
    rate = slope([(x, y) for x, y, _, _ in steady])
    risen = steady[-1][1] - steady[0][1] if steady else 0
    came = sum(crowd.came.values()) + 1
    if rate * 60 > RISE and rate * steady[-1][0] > LEAST:
        wrong.append(f"resident memory rises by {rate * 60 / KIB:.0f} KiB a minute")
    for what in ("queued", "buffers", "connections"):
        if after[what]:
            wrong.append(f"{after[what]} {what} at the end")
    if after["descriptors"] != before["descriptors"]:
        wrong.append(f"{after['descriptors'] - before['descriptors']} descriptors left")
    if after["accepted"] != after["closed"]:
        wrong.append(f"{after['accepted']} accepted, {after['closed']} closed")
    if not 0 <= came - after["accepted"] <= crowd.came["hasty"]:
        wrong.append(f"{came} connected, {after['accepted']} accepted")
    if not crowd.good <= after["bytes_in"] - len(FIRST) <= crowd.sent:
        wrong.append(
            f"{after['bytes_in']} bytes in; good clients sent {crowd.good}, all of "
            f"them {crowd.sent}"
        )
    if after["bytes_out"] < crowd.got:
        wrong.append(f"{after['bytes_out']} bytes out, {crowd.got} came")
    print(f"\nsoak of {seconds / 60:.1f} minutes, {after['backend']}")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in crowd.came.items())
    print(f"  connections   {came - 1:,}: {kinds}")
    print(f"  messages      {after['messages_in']:,} in, {after['messages_out']:,} out")
    print(
        f"  bytes         {after['bytes_in']:,} in, {after['bytes_out']:,} out; "
        f"{crowd.got:,} compared, {len(crowd.wrong)} clients with wrong ones"
    )
    shown = crowd.samples[:: -(-len(crowd.samples) // 12) or 1]
    marks = ", ".join(f"{sample[1] / MIB:.1f}" for sample in shown)
    print(f"  resident MiB  {before['resident'] / MIB:.1f} before; {marks}; ", end="")
    print(f"{after['resident'] / MIB:.1f} after")
    print(
        f"  its slope     {rate * 60 / KIB:+.1f} KiB a minute over the last three "
        f"quarters ({risen / KIB:+.0f} KiB)"
    )
    print(
        f"  descriptors   {before['descriptors']} before, {after['descriptors']} after"
    )
    print(
        f"  processor     {after['cpu'] - before['cpu']:.1f} s of "
        f"{seconds:.1f} s ({100 * (after['cpu'] - before['cpu']) / seconds:.0f} %)"
    )
    print(f"  ends          {after['ends']}" if after["ends"] else "", end="")
    print("\n" + ("\n".join(["FAILED:", *wrong[:20]]) if wrong else "passed"))
    return wrong


def main():
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--backend", help="one of pymux.backends(); the best")
    parser.add_argument("--form", choices=util.FORMS, default="object")
    parser.add_argument("--clients", type=int, default=200, help="at once")
    arguments = parser.parse_args()
    wrong = soak(
        arguments.minutes, arguments.backend, arguments.form, arguments.clients
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
