"""What is asked of the programs: so much at fixed times, every answer checked.

A load leaves its server time to rest, so what it measures is the server's CPU, not
its speed: the same work comes in the same portions to each.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PERIOD = 0.01  # seconds from one portion to the next
AHEAD = 20  # portions that may be unanswered: one that stalls is not sent more
PATIENCE = 20.0  # seconds for the last answers
READ = 262144
SYMBOLS = 1000  # one has its next price 50 portions later: no two come together


class Wrong(Exception):
    """What came back is not what was due."""


@dataclass
class Outcome:
    """A load's figures."""

    messages: int
    cpu: float  # seconds of the server's process
    seconds: float
    late: float  # seconds, of the portion that was sent the latest


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used in all (clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


@dataclass
class Peers:
    """Connections whose answers are kept as they come."""

    socks: list[socket.socket]
    received: list[bytearray] = field(default_factory=list)
    lines: int = 0

    def __post_init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.received = [bytearray() for _ in self.socks]
        for number, sock in enumerate(self.socks):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(sock, selectors.EVENT_READ, number)

    def read(self, seconds: float) -> None:
        """Take what there is, within so many seconds."""
        for key, _ in self.selector.select(max(seconds, 0)):
            data = self.socks[key.data].recv(READ)
            if not data:
                raise Wrong(f"connection {key.data} has ended")
            self.received[key.data] += data
            self.lines += data.count(b"\n")

    def read_until(self, lines: int) -> None:
        """Wait for the answers that are still due."""
        end = time.monotonic() + PATIENCE
        while self.lines < lines:
            if time.monotonic() > end:
                raise Wrong(f"{lines - self.lines} of {lines} lines have not come")
            self.read(0.1)

    def forget(self) -> None:
        """Begin to count."""
        self.lines = 0
        for received in self.received:
            received.clear()

    def close(self) -> None:
        self.selector.close()


@contextlib.contextmanager
def connected(port: int, count: int) -> Iterator[Peers]:
    """So many connections."""
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(count)
        ]
        peers = Peers(socks)
        stack.callback(peers.close)
        yield peers


def paced(
    peers: Peers, pid: int, seconds: float, due: int, send: Callable[[int], None]
) -> Outcome:
    """Send one portion a period; the CPU until all the lines that are due have come.

    A portion that is late delays those behind it: what is sent at once is always the
    same.
    """
    late = 0.0
    each = due // portions(seconds)
    cpu, start = cpu_of(pid), time.monotonic()
    at = start
    for portion in range(portions(seconds)):
        peers.read_until((portion - AHEAD) * each)
        while (now := time.monotonic()) < at:
            peers.read(at - now)
        late = max(late, now - at)
        send(portion)
        at = now + PERIOD
    peers.read_until(due)
    used, ended = cpu_of(pid) - cpu, time.monotonic()
    return Outcome(peers.lines, used, ended - start, late)


def portions(seconds: float) -> int:
    """How many there are."""
    return round(seconds / PERIOD)


def fanout(
    pid: int,
    ports: list[int],
    seconds: float,
    subscribers: int = 200,
    prices: int = 20,
) -> Outcome:
    """Prices, so many a portion; each subscriber wants every tenth symbol."""
    feed_port, port = ports
    wanted = [range(number % 10, SYMBOLS, 10) for number in range(subscribers)]
    sent: list[list[bytes]] = [[] for _ in range(SYMBOLS)]

    def lines(first: int, count: int, price: str) -> bytes:
        made = b""
        for symbol in (at % SYMBOLS for at in range(first, first + count)):
            line = f"SYM{symbol:03} {price}\n".encode()
            sent[symbol].append(line)
            made += line
        return made

    with (
        socket.create_connection(("127.0.0.1", feed_port), PATIENCE) as feed,
        connected(port, subscribers) as peers,
    ):
        feed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        feed.sendall(lines(0, SYMBOLS, "first"))
        for sock, chosen in zip(peers.socks, wanted):
            sock.sendall(b"".join(b"SYM%03d\n" % symbol for symbol in chosen))
        peers.read_until(sum(map(len, wanted)))
        peers.forget()
        for one in sent:
            one.clear()
        total = portions(seconds)
        portion = [lines(prices * n, prices, f"{n}.25") for n in range(total)]
        due = sum(len(sent[symbol]) for chosen in wanted for symbol in chosen)
        outcome = paced(peers, pid, seconds, due, lambda n: feed.sendall(portion[n]))
        for number, chosen in enumerate(wanted):
            came: dict[bytes, list[bytes]] = {}
            for line in peers.received[number].splitlines(keepends=True):
                came.setdefault(bytes(line[:6]), []).append(bytes(line))
            for symbol in chosen:
                name = b"SYM%03d" % symbol
                if came.pop(name, []) != sent[symbol]:
                    raise Wrong(f"subscriber {number} got other prices of {name!r}")
            if came:
                raise Wrong(f"subscriber {number} got {came.keys()} too")
    return outcome


def rpc(
    pid: int,
    ports: list[int],
    seconds: float,
    method: str,
    params: list[object],
    result: object,
    conns: int = 50,
    calls: int = 25,
) -> Outcome:
    """Calls, so many a portion, each on another connection."""
    made = [0] * conns

    def send(portion: int) -> None:
        for call in range(portion * calls, (portion + 1) * calls):
            number = call % conns
            line = {"id": made[number], "method": method, "params": params}
            made[number] += 1
            peers.socks[number].sendall(json.dumps(line).encode() + b"\n")

    with connected(ports[0], conns) as peers:
        outcome = paced(peers, pid, seconds, portions(seconds) * calls, send)
        for number, received in enumerate(peers.received):
            came = [json.loads(line) for line in received.splitlines()]
            right = [{"id": at, "result": result} for at in range(made[number])]
            if sorted(came, key=lambda answer: answer["id"]) != right:
                raise Wrong(f"connection {number} got other answers")
    return outcome
