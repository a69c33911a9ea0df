"""What is measured: one entry for each load."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import Any

from .contenders import CONTENDERS, Contender

BACKLOG = ("--backlog", "4096")  # a server's default is a scenario of its own
CAPACITY = "pingpong-100"  # what open-loop rates are shares of


@dataclass(frozen=True)
class Scenario:
    """A load, the servers' options under it, and who takes part."""

    name: str
    title: str
    mode: str = "echo"
    conns: int = 100
    size: str = "64"
    depth: int = 1
    framing: str = "raw"
    payload: str = "upper"
    idle: int = 0
    slow: int = 0
    share: float = 0.0  # of the slowest contender's CAPACITY: an open loop
    server: tuple[str, ...] = BACKLOG
    pinned: bool = True  # the server on one CPU; else on all
    figure: str = "per_second"
    groups: tuple[str, ...] = ("base",)
    only: tuple[str, ...] = ("*",)  # names within the groups, as globs
    rounds: int | None = None  # instead of the run's
    timeout: float = 5.0
    quick: bool = False
    quick_conns: int | None = None

    @property
    def tls(self) -> bool:
        """Whether it is over TLS, as its contenders are."""
        return "tls" in self.groups

    @property
    def total(self) -> int:
        """Connections in all."""
        return self.conns + self.idle + self.slow

    def smaller(self) -> Scenario:
        """As the quick run has it."""
        conns = self.quick_conns or self.conns
        return replace(self, conns=conns, rounds=1 if self.quick_conns else None)

    def described(self) -> str:
        """The title, in figures."""
        return self.title.format(conns=self.conns)

    def contenders(self) -> list[Contender]:
        """Who takes part, by group and name."""
        return [
            contender
            for contender in CONTENDERS
            if contender.group in self.groups
            and any(fnmatch.fnmatch(contender.name, glob) for glob in self.only)
        ]

    def load_options(self, seconds: float, warmup: float, rate: float) -> list[str]:
        """The load generator's command line, without port and process."""
        options: dict[str, object] = {
            "conns": self.conns,
            "size": self.size,
            "depth": self.depth,
            "framing": self.framing,
            "payload": self.payload,
            "idle": self.idle,
            "slow": self.slow,
            "warmup": warmup,
            "duration": seconds,
            "timeout": self.timeout,
        }
        if self.share:
            options["rate"] = f"{rate:.1f}"
        words = [self.mode]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words


def _pingpong(conns: int, **fields: Any) -> Scenario:
    title = f"ping-pong, 64 B, {conns:,} connection{'s' if conns > 1 else ''}"
    scenario = Scenario(f"pingpong-{conns}", title, conns=conns)
    return replace(scenario, **fields)


LINES = Scenario(
    "lines",
    "lines of 64 B, 32 in flight on each of 100 connections",
    depth=32,
    framing="lines",
    groups=("base", "backends", "lines"),
    quick=True,
)

# What an idle connection costs, over TLS. Handshakes take their time.
TLS_MEMORY = Scenario(
    "tls-memory",
    "TLS: resident memory of an idle connection ({conns:,} of them)",
    mode="memory",
    conns=2000,
    groups=("tls",),
    figure="memory",
    rounds=2,
)
TLS = (
    Scenario(
        "tls-pingpong-1",
        "TLS: ping-pong, 64 B, 1 connection",
        conns=1,
        groups=("tls",),
        figure="latency",
    ),
    Scenario(
        "tls-pingpong-100",
        "TLS: ping-pong, 64 B, 100 connections",
        groups=("tls",),
        quick=True,
    ),
    replace(
        LINES,
        name="tls-lines",
        title=f"TLS: {LINES.title}",
        groups=("tls",),
        quick=False,
    ),
    Scenario(
        "tls-echo-64k",
        "TLS: echo of 64 KiB as it came, 20 connections",
        size="65536",
        conns=20,
        payload="echo",
        server=(*BACKLOG, "--payload", "echo"),
        groups=("tls",),
    ),
    Scenario(
        "tls-handshakes",
        "TLS: connect, a full handshake, one answer, close; 20 at a time",
        mode="churn",
        conns=20,
        groups=("tls",),
        figure="cpu",
    ),
    Scenario(
        "tls-compute",
        "TLS: 100 connections beside a thread that computes without a pause",
        server=(*BACKLOG, "--compute"),
        pinned=False,
        groups=("tls",),
        only=("[!c]*",),
    ),
    TLS_MEMORY,
    replace(
        TLS_MEMORY,
        name="tls-memory-64k",
        title="TLS: the same after an echo of 64 KiB",
        size="65536",
        payload="echo",
        server=(*BACKLOG, "--payload", "echo"),
    ),
)

# Growth: the same work, four times and four times again.
GROWING = ("c-epoll", "pymux-batch", "pymux-function", "pymux-coroutine")
CONNS = (1, 4, 16, 64, 256, 1024, 4096, 18000)
SIZES = (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
DEPTHS = (1, 4, 16, 64)

SCENARIOS = (
    _pingpong(1, figure="latency", groups=("base", "spin"), quick=True),
    _pingpong(10),
    _pingpong(100, groups=("base", "backends", "spin"), quick=True),
    _pingpong(1000, groups=("base", "backends"), quick=True),
    _pingpong(10000, groups=("base", "backends"), rounds=3),
    Scenario("size-1k", "ping-pong, 1 KiB, 100 connections", size="1024"),
    Scenario("size-64k", "ping-pong, 64 KiB, 20 connections", size="65536", conns=20),
    Scenario("size-64k-1", "ping-pong, 64 KiB, 1 connection", size="65536", conns=1),
    *(
        Scenario(
            f"echo-64k{suffix}",
            f"echo of 64 KiB as it came, {conns} connection{'s' * (conns > 1)}",
            size="65536",
            conns=conns,
            payload="echo",
            server=(*BACKLOG, "--payload", "echo"),
        )
        for suffix, conns in (("", 20), ("-1", 1))
    ),
    Scenario(
        "stream",
        "one connection, 64 KiB messages, 16 in flight",
        size="65536",
        conns=1,
        depth=16,
    ),
    LINES,
    replace(
        LINES,
        name="lines-mixed",
        title="lines of 16 to 112 B, 32 in flight on each of 100 connections",
        size="16-112",
        groups=("base", "lines"),
        quick=False,
    ),
    Scenario("idle", "ping-pong, 64 B, 100 connections beside 18,000 idle", idle=18000),
    Scenario(
        "memory",
        "resident memory of an idle connection ({conns:,} of them)",
        mode="memory",
        conns=18000,
        figure="memory",
        rounds=3,
        quick=True,
        quick_conns=4000,
    ),
    Scenario(
        "burst",
        "10,000 connects at once, each with one answer; the servers' own backlogs",
        mode="burst",
        conns=10000,
        server=(),
        rounds=2,
        timeout=17,  # the fifth attempt follows the fourth by 16 seconds
    ),
    Scenario(
        "churn",
        "connect, one answer, close; 100 at a time",
        mode="churn",
    ),
    Scenario("slow", "100 fast connections beside one slow reader", slow=1),
    Scenario(
        "compute",
        "100 connections beside a thread that computes without a pause",
        server=(*BACKLOG, "--compute"),
        pinned=False,  # on one CPU, who holds the GIL would also hold the CPU
        only=("[!c]*",),
    ),
    Scenario(
        "rate-50",
        "open loop, 100 connections, half of the slowest contender's capacity",
        share=0.5,
        figure="latency",
    ),
    Scenario(
        "rate-80",
        "open loop, 100 connections, 80% of the slowest contender's capacity",
        share=0.8,
        figure="latency",
    ),
    Scenario(
        "numpy",
        "a 256 x 256 matrix product for each of 100 connections' messages",
        payload="matmul",
        size="1024",
        groups=("numpy",),
    ),
    *TLS,
    *(
        _pingpong(
            conns,
            name=f"grow-conns-{conns}",
            only=GROWING,
            figure="cpu",
            rounds=3,
        )
        for conns in CONNS
    ),
    *(
        Scenario(
            f"grow-size-{size}",
            f"growth: ping-pong, {size:,} B, 20 connections",
            conns=20,
            size=str(size),
            only=GROWING,
            figure="cpu",
            rounds=3,
        )
        for size in SIZES
    ),
    *(
        Scenario(
            f"grow-depth-{depth}",
            f"growth: lines of 64 B, {depth} in flight on each of 100 connections",
            depth=depth,
            framing="lines",
            only=GROWING,
            figure="cpu",
            rounds=3,
        )
        for depth in DEPTHS
    ),
)
