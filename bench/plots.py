"""The report's plots, as SVG: the same figures always give the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from .contenders import CONTENDERS, is_main
from .scenarios import CONNS, DEPTHS, SIZES
from .summary import LATENCIES, Summary

pyplot.rcParams.update(
    {
        "svg.hashsalt": "pymux",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)
# Black for C, warm for pymux, cold and muted for the others.
PALETTES = {
    "c": ["#000000", "#777777"],
    "pymux": ["#a50000", "#e0301e", "#f57c2b", "#f9b233", "#c2185b"],
    "peer": [
        "#1f77b4", "#0b3c5d", "#17becf", "#2ca02c", "#7fbf7b", "#9467bd",
        "#5b3a8c", "#8c6d4f", "#708090", "#b07aa1", "#4e8a8b", "#a0a0c8", "#c9a227",
    ],
}  # fmt: skip
MARKERS = "os^vDPX<>*hd"
FAMILIES = {c.name: c.family for c in CONTENDERS}
PINGPONG = (1, 10, 100, 1000, 10000)


def draw(summary: Summary, source: Path) -> list[Path]:
    """Every plot that the run has figures for."""
    made = []
    for name, plot in PLOTS.items():
        figure = plot(summary)
        if figure is None:
            continue
        path = source.with_name(f"{source.stem}-{name}.svg")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
        made.append(path)
    return made


def places() -> dict[str, int]:
    """Each contender's place in its family: the same in every plot."""
    found: dict[str, int] = {}
    for family in PALETTES:
        members = [n for n, f in FAMILIES.items() if f == family]
        found.update({name: place for place, name in enumerate(members)})
    return found


PLACES = places()


def colour(name: str) -> str:
    """A contender's colour."""
    palette = PALETTES[FAMILIES.get(name, "peer")]
    return palette[PLACES.get(name, 0) % len(palette)]


def style(name: str) -> dict[str, Any]:
    """Of a line: pymux and C stand out."""
    family = FAMILIES.get(name, "peer")
    return {
        "label": name,
        "color": colour(name),
        "marker": MARKERS[PLACES.get(name, 0) % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.1 if family == "peer" else 2.2,
        "linestyle": "--" if family == "c" else "-",
    }


def names_in(summary: Summary, scenarios: list[str]) -> list[str]:
    """Contenders of any of the scenarios, each once."""
    found = [n for s in scenarios for n in summary.contenders(s)]
    return [n for n in dict.fromkeys(found) if is_main(n)]


def throughput(summary: Summary) -> Any:
    """Messages a second against connections; where a line ends, a cross."""
    points = [n for n in PINGPONG if f"pingpong-{n}" in summary.scenarios()]
    if len(points) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 5))
    names = names_in(summary, [f"pingpong-{n}" for n in points])
    for name in names:
        values = [summary.value(f"pingpong-{n}", name, "per_second") for n in points]
        there = [(n, v.median) for n, v in zip(points, values) if v]
        if not there:
            continue
        xs, ys = zip(*there)
        axes.plot(xs, ys, **style(name))
        if any(
            (f"pingpong-{n}", name) in summary.refused for n in points if n > xs[-1]
        ):
            axes.plot(xs[-1], ys[-1], "x", ms=11, mew=2, color=colour(name))
            note = (5, -12)
            axes.annotate(
                f"{name} ends", there[-1], note, textcoords="offset points", size=8
            )
    axes.set(xscale="log", xlabel="connections", ylabel="messages/s", ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Ping-pong, 64 B: messages a second against connections")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bars(
    names: list[str], parts: dict[str, list[float]], title: str, unit: str, log: bool
) -> Any:
    """Horizontal bars, stacked; the first contender on top."""
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.28 * len(names)))
    left = [0.0] * len(names)
    for i, (label, values) in enumerate(parts.items()):
        axes.barh(
            names,
            values,
            left=None if log else left,
            color=[colour(name) for name in names],
            alpha=1.0 if i == 0 else 0.4,
            label=label,
        )
        left = [a + b for a, b in zip(left, values)]
    for y, total in enumerate(left):
        axes.annotate(
            f" {total:,.0f}" if total >= 100 else f" {total:.2f}",
            (total, y),
            va="center",
            size=8,
        )
    axes.invert_yaxis()
    axes.set(title=title, xlabel=unit)
    if log:
        axes.set_xscale("log")
    if len(parts) > 1:
        axes.legend(loc="lower right")
    return figure


def cpu(summary: Summary) -> Any:
    """CPU a message, user and system."""
    scenario = "pingpong-100"
    names, users, systems = [], [], []
    for name in names_in(summary, [scenario]):
        user = summary.value(scenario, name, "user_us")
        system = summary.value(scenario, name, "system_us")
        if user and system:
            names.append(name)
            users.append(user.median)
            systems.append(system.median)
    if not names:
        return None
    title = "The server's CPU for a message: 64 B, 100 connections (solid: user)"
    parts = {"user": users, "system": systems}
    return bars(names, parts, title, "microseconds", False)


def latency(summary: Summary) -> Any:
    """Percentiles at the fixed rates; of the ping-pong where there are none."""
    measured = {scenario for scenario, _ in summary.rounds}
    rates: list[str] = ["rate-50", "rate-80"]
    shown = [name for name in rates if name in measured]
    shown = shown or list({"pingpong-100"} & measured)
    if not shown:
        return None
    size = (4.5 * len(shown) + 1, 4.5)
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, sharey=True)
    names = names_in(summary, shown)
    for panel, scenario in zip([axes] if len(shown) == 1 else axes, shown):
        for name in names:
            values = [summary.value(scenario, name, p) for p in LATENCIES]
            ys = [v.median for v in values if v]
            if len(ys) == len(LATENCIES):
                panel.plot(LATENCIES, ys, **style(name))
        panel.set(yscale="log", title=scenario, ylabel="latency, microseconds")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("Latency, from the time each message was due")
    return figure


def memory(summary: Summary) -> Any:
    """Resident bytes of an idle connection."""
    names, values = [], []
    for name in names_in(summary, ["memory"]):
        value = summary.value("memory", name, "memory")
        if value and value.median > 0:
            names.append(name)
            values.append(value.median)
    if not names:
        return None
    title = "Resident memory of an idle connection"
    return bars(names, {"bytes": values}, title, "bytes", True)


def growth(summary: Summary) -> Any:
    """CPU a message as connections, payload and depth grow."""
    kinds = {"conns": CONNS, "size": SIZES, "depth": DEPTHS}
    labels = {
        "conns": "connections (64 B, ping-pong)",
        "size": "payload, bytes (20 connections)",
        "depth": "in flight on each of 100 connections (lines)",
    }
    present = summary.scenarios()
    kinds = {
        kind: steps
        for kind, steps in kinds.items()
        if sum(f"grow-{kind}-{step}" in present for step in steps) > 1
    }
    if not kinds:
        return None
    size = (4.2 * len(kinds) + 1, 4)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=size)
    for panel, (kind, steps) in zip([axes] if len(kinds) == 1 else axes, kinds.items()):
        scenarios = {step: f"grow-{kind}-{step}" for step in steps}
        names = names_in(summary, list(scenarios.values()))
        for name in names:
            there = [
                (step, value.median)
                for step, scenario in scenarios.items()
                if (value := summary.value(scenario, name, "cpu_us"))
            ]
            if there:
                xs, ys = zip(*there)
                panel.plot(xs, ys, **style(name))
        panel.set(xscale="log", yscale="log", xlabel=labels[kind])
        panel.set(ylabel="server CPU, us a message")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("Growth: no line may rise faster than what it is drawn against")
    figure.tight_layout()
    return figure


PLOTS = {
    "throughput": throughput,
    "cpu": cpu,
    "latency": latency,
    "memory": memory,
    "growth": growth,
}
