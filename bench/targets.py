"""What pymux sets out to reach: each a ratio within one run on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .summary import Summary

C = "c-epoll"
UVLOOP = "uvloop-protocol"
TUNED = "uvloop-tuned"


class Target(NamedTuple):
    """One line of the table."""

    work: str
    who: str
    against: str
    figure: str
    wanted: float
    at_least: bool
    reached: float | None

    @property
    def met(self) -> bool | None:
        """None when it was not measured."""
        if self.reached is None:
            return None
        if self.at_least:
            return self.reached >= self.wanted
        return self.reached <= self.wanted


class _Judge:
    """Makes targets from a summary."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def ratio(
        self,
        scenario: str,
        who: str,
        wanted: float,
        against: str,
        figure: str = "per_second",
        at_least: bool = True,
        other: str | None = None,
    ) -> Target:
        """`who` over `against`, in the same scenario or in another."""
        reached = self.summary.ratio(
            figure, (scenario, who), (other or scenario, against)
        )
        words = f"{against} in {other}" if other else against
        return Target(scenario, who, words, figure, wanted, at_least, reached)

    def plain(self, scenario: str, who: str, wanted: float, figure: str) -> Target:
        """A figure that must not be greater."""
        value = self.summary.value(scenario, who, figure)
        reached = value.median if value else None
        return Target(scenario, who, "", figure, wanted, False, reached)


def judge(summary: Summary) -> list[Target]:
    """All targets; those that this run did not measure have no figure."""
    return list(_targets(_Judge(summary)))


def _targets(judge: _Judge) -> Iterator[Target]:
    for scenario in ("pingpong-100", "pingpong-1000"):
        for form, wanted in (("batch", 1.0), ("function", 0.95), ("coroutine", 0.87)):
            yield judge.ratio(scenario, f"pymux-{form}", wanted, C)
            yield judge.ratio(scenario, f"pymux-{form}", 1.0, UVLOOP)
    # Where C took 0.2 and uvloop 1.1: absolute, and as a share of uvloop's.
    for form, wanted in (("batch", 0.4), ("function", 0.75), ("coroutine", 1.3)):
        who, hundred = f"pymux-{form}", "pingpong-100"
        yield judge.plain(hundred, who, wanted, "user_us")
        yield judge.ratio(hundred, who, wanted / 1.1, UVLOOP, "user_us", False)
    for form in ("batch", "columns"):  # bytes.upper, and as C does it: by vectors
        yield judge.ratio("lines", f"pymux-{form}", 0.85, C)
    yield judge.ratio("lines", "pymux-list", 1.2, TUNED)
    yield judge.ratio("lines", "pymux-function", 0.95, TUNED)
    yield judge.ratio("lines", "pymux-function", 20.0, "uvloop-streams")
    for scenario in ("size-64k-1", "size-64k"):
        for form in ("batch", "function", "coroutine"):
            for peer in ("selectors", UVLOOP):
                yield judge.ratio(scenario, f"pymux-{form}", 1.0, peer)
    for form in ("batch", "function", "coroutine"):
        yield judge.ratio("compute", f"pymux-{form}", 3.0, UVLOOP)
    for form in ("batch", "function"):
        yield judge.ratio("pingpong-1", f"pymux-{form}", 1.0, C, "p50", False)
        spin = f"pymux-{form}-spin-50us"
        yield judge.ratio("pingpong-1", spin, 0.35, C, "p50", False)
    for form, wanted in (("batch", 220), ("function", 220), ("coroutine", 650)):
        yield judge.plain("memory", f"pymux-{form}", wanted, "memory")
    for form in ("batch", "function", "coroutine"):
        who = f"pymux-{form}"
        yield judge.ratio("idle", who, 0.95, who, other="pingpong-100")
    for form in ("batch", "function", "coroutine"):
        yield judge.plain("burst", f"pymux-{form}", 0, "listen_drops")
        yield judge.ratio("burst", f"pymux-{form}", 3.0, "asyncio-protocol")
    yield from _over_tls(judge)


# Shares of a peer's throughput, on a machine where each has a CPU for itself: asked for
# as the inverse shares of its CPU for a message.
TLS_SHARES: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("tls-pingpong-100", "function-tls", {"c": 0.93, "a": 1.9, "u": 4.0, "k": 1.15}),
    ("tls-pingpong-100", "function-tls-portable", {"c": 0.65, "a": 1.4, "u": 2.8}),
    ("tls-pingpong-100", "batch-tls", {"c": 0.95}),
    ("tls-pingpong-100", "coroutine-tls", {"c": 0.9}),
    ("tls-lines", "function-tls", {"a": 1.3, "u": 2.4, "k": 1.05}),
    ("tls-lines", "function-tls-portable", {"a": 1.1, "u": 2.0}),
    ("tls-lines", "batch-tls", {"c": 0.95}),
    ("tls-echo-64k", "function-tls", {"c": 1.0, "a": 1.15, "u": 2.5, "k": 1.1}),
    ("tls-echo-64k", "function-tls-portable", {"a": 1.0, "u": 2.2}),
)
# Shares of a peer's latency, CPU or memory, at most.
TLS_COSTS: tuple[tuple[str, str, str, dict[str, float]], ...] = (
    ("tls-pingpong-1", "p50", "function-tls", {"c": 1.0, "u": 0.85}),
    ("tls-pingpong-1", "p50", "function-tls-portable", {"u": 0.95}),
    ("tls-handshakes", "cpu_us", "function-tls", {"c": 1.1, "a": 0.9, "u": 0.9}),
    ("tls-handshakes", "cpu_us", "function-tls-portable", {"a": 0.95, "u": 0.95}),
    ("tls-memory", "memory", "function-tls", {"c": 1.1, "a": 0.06, "u": 0.65}),
    ("tls-memory", "memory", "function-tls-portable", {"u": 0.8}),
    ("tls-memory-64k", "memory", "function-tls", {"a": 0.05, "u": 0.1}),
    ("tls-memory-64k", "memory", "function-tls-portable", {"u": 0.4}),
)
TLS_PEERS = {
    "c": "c-epoll-tls",
    "a": "asyncio-protocol-tls",
    "u": "uvloop-protocol-tls",
    "k": "uvloop-protocol-tls-kept",
}


def _over_tls(judge: _Judge) -> Iterator[Target]:
    for scenario, form, shares in TLS_SHARES:
        for peer, share in shares.items():
            who, most = f"pymux-{form}", 1 / share
            yield judge.ratio(scenario, who, most, TLS_PEERS[peer], "cpu_us", False)
    for scenario, cost, form, shares in TLS_COSTS:
        for peer, share in shares.items():
            who = f"pymux-{form}"
            yield judge.ratio(scenario, who, share, TLS_PEERS[peer], cost, False)
    for form, wanted in (("function-tls", 3.0), ("function-tls-portable", 1.5)):
        yield judge.ratio("tls-compute", f"pymux-{form}", wanted, TLS_PEERS["u"])
