"""Figures as Prometheus takes them: families of samples, and their text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .fields import KINDS, NOW, POWERS, SUM

__all__ = ["CONTENT_TYPE", "Family", "exposition", "families"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Figures = dict[str, Any]

# What a histogram is called, and which counter is the sum of what it counts.
HISTOGRAMS = {
    "turn_rows": ("turn_messages", "messages_in"),
    "turn_ns": ("turn_seconds", "turn_sum"),
    "outside_ns": ("outside_seconds", "outside_sum"),
}
# Told as parts of others.
PARTS = {"accept_pauses", "shortages", "handshake_pauses", "turn_sum", "outside_sum"}


class Sample(NamedTuple):
    """One value: the family's name goes before `suffix`."""

    suffix: str
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """The samples of one name.

    Attributes:
        name: without the suffix of a counter.
        kind: "counter", "gauge" or "histogram".
        help: a line.
        samples: of all workers.
    """

    name: str
    kind: str
    help: str
    samples: list[Sample]


def families(workers: Sequence[Figures]) -> list[Family]:
    """Return the families of the figures of some workers.

    Args:
        workers: what a file's reader gives; a worker may lack figures.
    """
    found = []
    for name, (kind, unit, help) in KINDS.items():
        having = [one for one in workers if name in one]
        if not having or name in PARTS:
            continue
        if kind == POWERS:
            found.append(_histogram(name, unit, help, having))
        elif kind in (SUM, NOW):
            scale = 1e9 if unit else 1
            title = "pymux_" + (name.removesuffix("_ns") + "_seconds" if unit else name)
            suffix, said = ("_total", "counter") if kind == SUM else ("", "gauge")
            samples = [
                Sample(suffix, _labels(one), one[name] / scale if unit else one[name])
                for one in having
            ]
            found.append(Family(title, said, help, samples))
    found.append(_pauses([one for one in workers if "accept_pauses" in one]))
    found += _processes([one for one in workers if "processes" in one])
    return [family for family in found if family.samples]


def exposition(workers: Sequence[Figures]) -> str:
    """Return the text that Prometheus reads, of the figures of some workers.

    Args:
        workers: what a file's reader gives.

    >>> print(exposition([{"worker": 0, "accepted": 7}]), end="")
    # HELP pymux_accepted_total Connections that were accepted.
    # TYPE pymux_accepted_total counter
    pymux_accepted_total{worker="0"} 7
    """
    return "".join(_lines(families(workers)))


def _lines(all_families: list[Family]) -> Iterator[str]:
    for name, kind, help, samples in all_families:
        told = name + "_total" if kind == "counter" else name
        yield f"# HELP {told} {help}\n# TYPE {told} {kind}\n"
        for suffix, labels, value in samples:
            pairs = ",".join(f'{key}="{said}"' for key, said in labels.items())
            yield f"{name}{suffix}{{{pairs}}} {value}\n"


def _labels(one: Figures, **others: str) -> dict[str, str]:
    return {"worker": str(one["worker"]), **others}


def _histogram(name: str, unit: str, help: str, having: list[Figures]) -> Family:
    """Return a histogram: bucket k counts what is less than 2^(k + 1)."""
    title, sum_of = HISTOGRAMS[name]
    scale = 1e9 if unit else 1
    samples = []
    for one in having:
        so_far = 0
        for power, count in enumerate(one[name][:-1], 1):
            so_far += count
            edge = 2**power / scale if unit else 2**power - 1
            samples.append(Sample("_bucket", _labels(one, le=repr(edge)), so_far))
        so_far += one[name][-1]
        samples.append(Sample("_bucket", _labels(one, le="+Inf"), so_far))
        total = one.get(sum_of, 0)
        samples.append(Sample("_sum", _labels(one), total / scale if unit else total))
        samples.append(Sample("_count", _labels(one), so_far))
    return Family("pymux_" + title, "histogram", help, samples)


def _pauses(having: list[Figures]) -> Family:
    """Return the pauses of accepting by their cause."""
    samples = []
    for one in having:
        lack, shakes = one.get("shortages", 0), one.get("handshake_pauses", 0)
        causes = {
            "max_connections": max(one["accept_pauses"] - lack - shakes, 0),
            "max_handshakes": shakes,
            "shortage": lack,
        }
        samples += [
            Sample("_total", _labels(one, cause=cause), count)
            for cause, count in causes.items()
        ]
    help = KINDS["accept_pauses"].help
    return Family("pymux_accept_pauses", "counter", help, samples)


def _processes(having: list[Figures]) -> list[Family]:
    """Return what the processes of each worker do now."""
    counts, stuck = [], []
    for one in having:
        processes = [process for process in one["processes"] if process["pid"]]
        longest = max((process["in_handler"] for process in processes), default=0.0)
        counts.append(Sample("", _labels(one), len(processes)))
        stuck.append(Sample("", _labels(one), longest))
    return [
        Family("pymux_processes", "gauge", "Processes that count now.", counts),
        Family(
            "pymux_in_handler_seconds",
            "gauge",
            "For how long a handler has been running without a turn.",
            stuck,
        ),
    ]
