"""`python -m bench.report results/X.json`: a Markdown report and SVG plots."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import targets
from .contenders import is_main
from .summary import LOAD_BOUND, Spread, Summary

# A page has a table of these between `<!-- bench:NAME -->` and END.
TABLES = ("main", "short", "cpu", "tls")
PLOTS = {"main": "-throughput", "cpu": "-cpu"}  # that go with them
END = "<!-- bench:end -->"

# Of the main table, what a first page shows.
SHORT_ROWS = ("c-epoll", "pymux-batch", "pymux-function", "pymux-coroutine")
SHORT_ROWS += ("uvloop-protocol", "asyncio-protocol")
SHORT_COLUMNS = (
    ("pingpong-100", "per_second", "messages/s, 100 connections"),
    ("pingpong-100", "user_us", "user CPU a message, us"),
    ("lines", "per_second", "lines/s, 32 in flight"),
    ("memory", "memory", "bytes an idle connection"),
)

Column = tuple[str, str, str]  # a scenario, a figure, the title

# The columns of the main table, as far as the run has them.
COLUMNS = (
    ("pingpong-1", "p50", "1 conn, p50 us"),
    ("pingpong-100", "per_second", "100 conns, msg/s"),
    ("pingpong-100", "user_us", "user us/msg"),
    ("pingpong-1000", "per_second", "1,000 conns, msg/s"),
    ("pingpong-10000", "per_second", "10,000 conns, msg/s"),
    ("lines", "per_second", "lines, msg/s"),
    ("size-64k", "per_second", "64 KiB, msg/s"),
    ("echo-64k", "per_second", "64 KiB echo, msg/s"),
    ("idle", "per_second", "100 + 18,000 idle, msg/s"),
    ("compute", "per_second", "beside a busy thread, msg/s"),
    ("burst", "per_second", "burst, conns/s"),
    ("memory", "memory", "bytes/idle conn"),
)

# What a message costs, whatever the load generator can ask for.
CPU_COLUMNS = (
    ("pingpong-100", "64 B, 100 connections"),
    ("size-64k", "64 KiB upper-cased, 20 connections"),
    ("echo-64k", "64 KiB echoed, 20 connections"),
    ("size-64k-1", "64 KiB upper-cased, 1 connection"),
    ("echo-64k-1", "64 KiB echoed, 1 connection"),
)

# Throughput is what the load generator could ask for: CPU stands beside it.
TLS_COLUMNS = (
    ("tls-pingpong-1", "p50", "1 conn, p50 us"),
    ("tls-pingpong-100", "per_second", "64 B, msg/s"),
    ("tls-pingpong-100", "cpu_us", "CPU us/msg"),
    ("tls-lines", "per_second", "lines, msg/s"),
    ("tls-lines", "cpu_us", "CPU us/line"),
    ("tls-echo-64k", "per_second", "64 KiB echo, msg/s"),
    ("tls-echo-64k", "cpu_us", "CPU us/msg"),
    ("tls-handshakes", "cpu_us", "handshake, CPU us"),
    ("tls-memory", "memory", "bytes/idle conn"),
    ("tls-memory-64k", "memory", "after 64 KiB"),
    ("tls-compute", "per_second", "beside a busy thread, msg/s"),
)

SMALL = 5  # a run of so few scenarios has a column for each
MANY = 20  # of more contenders, variants are left to the scenarios' own tables


def number(value: float) -> str:
    """Three digits at least, thousands separated."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(value: Spread | None) -> str:
    """The median, with the least and the greatest where they are several."""
    if value is None:
        return "-"
    if value.rounds == 1:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} - {number(value.high)})"


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned, so that a terminal can show it too."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(w) for cell, w in zip(cells[1:], widths[1:])]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def table(summary: Summary) -> str:
    """The main table: a line a contender, a column a scenario."""
    present = [s for s in summary.scenarios() if not s.startswith("tls-")]
    columns = [c for c in COLUMNS if c[0] in present]
    if len({c[0] for c in columns}) < len(present) <= SMALL:
        known = {c[0] for c in columns}
        columns += [(s, "per_second", f"{s}, 1/s") for s in present if s not in known]
    names = dict.fromkeys(n for c in columns for n in summary.contenders(c[0]))
    if len(names) > MANY:
        names = dict.fromkeys(filter(is_main, names))
    return medians(summary, list(names), columns) if columns else ""


def tls_table(summary: Summary) -> str:
    """The same over TLS, as far as the run has it."""
    columns = [c for c in TLS_COLUMNS if c[0] in summary.scenarios()]
    names = dict.fromkeys(n for c in columns for n in summary.contenders(c[0]))
    return medians(summary, list(names), columns) if columns else ""


def medians(summary: Summary, names: Sequence[str], columns: Sequence[Column]) -> str:
    """A line a contender: the medians, an x where it was not compared."""
    rows = []
    for name in names:
        cells = []
        for scenario, figure, _ in columns:
            value = summary.value(scenario, name, figure)
            refused = summary.refused.get((scenario, name))
            cells.append(number(value.median) if value else "x" if refused else "-")
        rows.append([name, *cells])
    return grid(["contender", *(title for _, _, title in columns)], rows)


def machine_line(summary: Summary) -> str:
    """The machine and the versions, in a sentence."""
    facts, versions = summary.report["machine"], summary.report["versions"]
    plan = summary.report["plan"]
    virtual = ", a virtual machine" if facts["virtual"] else ""
    listed = ", ".join(
        version if name in ("python", "cc") else f"{name} {version}"
        for name, version in versions.items()
    )
    usual, worst = summary.others()
    return (
        f"Measured {summary.report['date'][:10]} on {facts['cpu']}, {facts['cpus']} "
        f"CPUs{virtual}, {facts['memory_gib']} GiB, {facts['system']}; {listed}. "
        f"Server on CPU {facts['server_cpu']}, load on CPU {facts['load_cpu']}; "
        f"{plan['rounds']} interleaved rounds of {plan['seconds']} s, medians. "
        f"Other processes took {usual:.0%} of a CPU in the median run, {worst:.0%} or "
        "more in every tenth."
    )


def details(summary: Summary, scenario: str) -> str:
    """One scenario: every contender, every figure."""
    header = ["contender", "per second", "p50 us", "p99 us", "p99.9 us"]
    header += ["user us", "system us", "RSS MiB"]
    figures = ["p50", "p99", "p99.9", "user_us", "system_us", "rss_mib"]
    has_memory = "memory" in scenario
    if scenario == "burst":
        header += ["before", "after all closed"]
        figures += ["base_rss_mib", "after_rss_mib"]
    is_open_loop = scenario.startswith("rate-")
    header.append("sent late, p99 us" if is_open_loop else "load CPU")
    if has_memory:
        header.insert(1, "bytes/conn")
    rows, notes = [], []
    for name in summary.contenders(scenario):
        for reason in dict.fromkeys(summary.refused.get((scenario, name), [])):
            notes.append(f"- {name}: not compared: {reason}")
        speed = summary.value(scenario, name, "per_second")
        if speed is None:
            continue
        cells = [name]
        if has_memory:
            cells.append(spread(summary.value(scenario, name, "memory")))
        cells.append(spread(speed))
        for figure in figures:
            value = summary.value(scenario, name, figure)
            cells.append(number(value.median) if value else "-")
        load = summary.value(scenario, name, "load_cpu")
        if is_open_loop:
            late = summary.value(scenario, name, "lag_p99")
            cells.append(number(late.median) if late else "-")
        elif load:
            mark = "*" if load.median >= LOAD_BOUND else ""
            cells.append(f"{load.median:.0%}{mark}")
        rows.append(cells)
    title = f"### {scenario}: {summary.report['scenarios'][scenario]}"
    parts = [title, grid(header, rows)] if rows else [title]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def target_table(summary: Summary) -> str:
    """The targets that this run can tell of."""
    rows = []
    for target in targets.judge(summary):
        if target.reached is None:
            continue
        sign = ">=" if target.at_least else "<="
        times = f" x {target.against}" if target.against else ""
        wanted = f"{sign} {number(target.wanted)}{times}"
        verdict = "met" if target.met else "**missed**"
        reached = number(target.reached)
        rows.append([target.work, target.who, target.figure, wanted, reached, verdict])
    header = ["scenario", "who", "figure", "target", "reached", ""]
    return grid(header, rows) if rows else ""


def markdown(summary: Summary, plots: list[Path]) -> str:
    """The whole report."""
    parts = ["# Bench report", machine_line(summary)]
    parts += filter(None, [table(summary), tls_table(summary)])
    parts.append(
        "An x is a contender of which no round counted: the reason stands with the "
        "scenario. CPU is the server's, in microseconds a message. A star marks "
        "where the load generator had no CPU to spare: there messages/s are what it "
        "could ask for, and CPU a message is the figure to compare."
    )
    parts += [f"![{path.stem}]({path.name})" for path in plots]
    reached = target_table(summary)
    if reached:
        parts += ["## Targets", reached]
    parts.append("## Scenarios")
    parts += [details(summary, scenario) for scenario in summary.scenarios()]
    skipped = summary.report["skipped"]
    if skipped:
        parts.append("## Skipped")
        parts.append("\n".join(f"- {name}: {why}" for name, why in skipped.items()))
    return "\n\n".join(parts) + "\n"


def cpu_table(summary: Summary) -> str:
    """The server's CPU for a message, in microseconds: a line a contender."""
    columns = [c for c in CPU_COLUMNS if c[0] in summary.scenarios()]
    names = dict.fromkeys(n for c in columns for n in summary.contenders(c[0]))
    rows = []
    for name in names:
        values = [summary.value(scenario, name, "cpu_us") for scenario, _ in columns]
        rows.append([name, *map(spread, values)])
    return grid(["contender", *(title for _, title in columns)], rows)


def replace(page: Path, name: str, parts: list[str]) -> None:
    """Replace what stands on a page between the markers of a table."""
    text, begin = page.read_text(encoding="utf-8"), f"<!-- bench:{name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{page} has no {begin}, followed by {END}")
    body = "\n\n".join(parts)
    page.write_text(f"{head}{begin}\n{body}\n{END}{tail}", encoding="utf-8")


def into(page: Path, name: str, summary: Summary, plots: list[Path]) -> None:
    """Put one of the TABLES on a page that has its markers."""
    if name == "short":
        parts = [medians(summary, SHORT_ROWS, SHORT_COLUMNS)]
    elif name == "cpu":
        parts = [cpu_table(summary), machine_line(summary)]
    elif name == "tls":
        parts = [tls_table(summary), machine_line(summary)]
    else:
        parts = [table(summary), machine_line(summary)]
    for path in plots:
        if path.stem.endswith(PLOTS.get(name, ())):
            shown = Path(os.path.relpath(path, page.parent)).as_posix()
            parts.append(f"![{path.stem}]({shown})")
    replace(page, name, parts)


def write(
    source: Path, shown_on: Path | None = None, shown: str = TABLES[0]
) -> list[Path]:
    """Write X.md and X-*.svg beside X.json; returns what was written."""
    summary = Summary.load(source)
    try:
        from . import plots
    except ImportError as error:
        print(f"no plots: {error}", file=sys.stderr)
        drawn = []
    else:
        drawn = plots.draw(summary, source)
    page = source.with_suffix(".md")
    page.write_text(markdown(summary, drawn), encoding="utf-8")
    if shown_on:
        into(shown_on, shown, summary, drawn)
    return [page, *drawn]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("source", type=Path, metavar="X.json")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="its table too")
    parser.add_argument("--table", choices=TABLES, default=TABLES[0], help="which")
    args = parser.parse_args()
    for path in write(args.source, args.into, args.table):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
