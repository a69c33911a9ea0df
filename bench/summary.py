"""Medians and their spread, from the raw figures of a report."""

from __future__ import annotations

import json
import os
import statistics
from typing import Any, NamedTuple

Result = dict[str, Any]  # of one run, as load.c printed it
LATENCIES = ("p50", "p90", "p99", "p99.9", "max")
LOAD_BOUND = 0.95  # of its CPU: beyond it the load generator sets the pace


class Spread(NamedTuple):
    """A figure over the rounds that count."""

    median: float
    low: float
    high: float
    rounds: int


def cpu_split(results: list[Result]) -> tuple[float, float]:
    """User and system CPU of the server, in microseconds a message.

    The total is exact; the split is what the kernel sampled at its ticks, so
    rounds are put together before it is taken.
    """
    messages = sum(r["messages"] for r in results)
    total = sum(r["server"]["cpu"] for r in results)
    user = sum(r["server"]["user_ticks"] for r in results)
    system = sum(r["server"]["system_ticks"] for r in results)
    if not messages:
        return 0.0, 0.0
    each = 1e6 * total / messages
    share = user / (user + system) if user + system else 0.0
    return each * share, each * (1 - share)


def memory(result: Result) -> float:
    """Resident bytes a connection, beyond those that were there first."""
    server = result["server"]
    grown = server["rss_kib"] - server["base_rss_kib"]
    return float(1024.0 * grown / (result["conns"] - server["base_conns"]))


def figure(result: Result, name: str) -> float | None:
    """One figure of one run."""
    if name in LATENCIES:
        latency = result["latency_us"] or result["open_us"]
        return float(latency[name]) if latency else None
    if name == "lag_p99":
        return float(result["lag_us"]["p99"]) if result["lag_us"] else None
    if name == "memory":
        return memory(result)
    if name in ("user_us", "system_us", "cpu_us"):
        user, system = cpu_split([result])
        return {"user_us": user, "system_us": system, "cpu_us": user + system}[name]
    if name in ("rss_mib", "base_rss_mib", "after_rss_mib"):
        return float(result["server"][name.replace("_mib", "_kib")]) / 1024
    if name == "load_cpu":
        load = result["load"]
        return float(load["user"] + load["system"]) / (result["seconds"] or 1)
    return float(result[name])


class Summary:
    """A report, by scenario and contender."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.rounds: dict[tuple[str, str], dict[int, Result]] = {}
        self.refused: dict[tuple[str, str], list[str]] = {}
        for run in report["runs"]:
            key = run["scenario"], run["contender"]
            if run["refused"]:
                self.refused.setdefault(key, []).append(run["refused"])
            else:
                self.rounds.setdefault(key, {})[run["round"]] = run["result"]

    @classmethod
    def load(cls, path: os.PathLike[str]) -> Summary:
        """Read a report's JSON."""
        with open(path, encoding="utf-8") as file:
            return cls(json.load(file))

    def scenarios(self) -> list[str]:
        """Names, in the order of the run."""
        return list(self.report["scenarios"])

    def contenders(self, scenario: str) -> list[str]:
        """Names, in the order of the first round."""
        names = [
            r["contender"] for r in self.report["runs"] if r["scenario"] == scenario
        ]
        return list(dict.fromkeys(names))

    def others(self) -> tuple[float, float]:
        """CPUs that other processes kept busy: the median run, the worst tenth."""
        shares = sorted(
            result["others_cpu"] / result["seconds"]
            for rounds in self.rounds.values()
            for result in rounds.values()
            if result["seconds"]
        )
        if not shares:
            return 0.0, 0.0
        return statistics.median(shares), shares[len(shares) * 9 // 10]

    def value(self, scenario: str, contender: str, name: str) -> Spread | None:
        """The figure's median, least and greatest; None where no round counts."""
        results = list(self.rounds.get((scenario, contender), {}).values())
        values = [v for r in results if (v := figure(r, name)) is not None]
        if not values:
            return None
        middle = statistics.median(values)
        if name in ("user_us", "system_us"):
            user, system = cpu_split(results)
            middle = user if name == "user_us" else system
        return Spread(middle, min(values), max(values), len(values))

    def ratio(
        self, name: str, one: tuple[str, str], other: tuple[str, str]
    ) -> float | None:
        """The figure of (scenario, contender) `one` over that of `other`.

        Rounds interleave, so each is compared with the other's same round, and
        the median taken; CPU figures, which need all rounds, are divided whole.
        """
        ours, theirs = self.rounds.get(one, {}), self.rounds.get(other, {})
        if name.endswith("_us"):
            mine, its = self.value(*one, name), self.value(*other, name)
            if mine is None or its is None or not its.median:
                return None
            return mine.median / its.median
        ratios = []
        for number in ours.keys() & theirs.keys():
            a, b = figure(ours[number], name), figure(theirs[number], name)
            if a is not None and b:
                ratios.append(a / b)
        return statistics.median(ratios) if ratios else None
