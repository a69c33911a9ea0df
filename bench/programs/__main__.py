"""`python -m bench.programs`: the CPU of each program under the same load."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import machine, report, runner
from ..contenders import TOP_PAD, matches
from . import loads

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
VARIANTS = ("pymux", "uvloop", "asyncio", "asyncio-top-pad")


class Program(NamedTuple):
    """A program of examples/, and what it is asked."""

    name: str
    title: str
    load: Callable[[int, list[int], float], loads.Outcome]
    ports: int  # that it names as it starts

    def command(self, variant: str) -> list[str]:
        """The command line; ports are picked by the system."""
        ports = ["0"] * self.ports
        file = self.name.partition("-")[0]
        if variant == "pymux":
            return [sys.executable, str(EXAMPLES / f"{file}.py"), *ports]
        options = ["--uvloop"] if variant == "uvloop" else []
        start = ["env", *TOP_PAD] if variant == "asyncio-top-pad" else []
        program = str(HERE / f"{file}_asyncio.py")
        return [*start, sys.executable, program, *options, *ports]


PROGRAMS = (
    Program(
        "fanout",
        "market data: 2,000 prices a second, each to 20 of 200 subscribers",
        loads.fanout,
        ports=2,
    ),
    Program(
        "rpc-wait",
        "2,500 calls a second over 50 connections, each waiting 1 ms in the loop",
        functools.partial(loads.rpc, method="wait", params=[0.001], result=0.001),
        ports=1,
    ),
    Program(
        "rpc-thread",
        "2,500 calls a second over 50 connections, each made in a thread",
        functools.partial(loads.rpc, method="upper", params=["acme"], result="ACME"),
        ports=1,
    ),
)


@contextlib.contextmanager
def running(command: list[str], ports: int) -> Iterator[tuple[int, list[int]]]:
    """A program that listens: its process, its ports."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], runner.START_TIMEOUT)
        lines = [process.stdout.readline() for _ in range(ports)] if ready else []
        if not all(lines) or not lines:
            raise RuntimeError(f"did not start: {runner.shown(command)}")
        yield process.pid, [int(line.split()[-1]) for line in lines]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(program: Program, variant: str, seconds: float) -> loads.Outcome:
    """One variant, once, as a fresh process."""
    command = runner.pinned(program.command(variant), machine.cpus().server)
    with running(command, program.ports) as (pid, ports):
        return program.load(pid, ports, seconds)


def run(
    programs: list[Program], variants: list[str], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """All rounds: every variant once, then again in reverse order."""
    runs = []
    for program in programs:
        for number in range(rounds):
            for variant in variants if number % 2 == 0 else reversed(variants):
                outcome = measure(program, variant, seconds)
                head = {"program": program.name, "variant": variant, "round": number}
                runs.append({**head, **dataclasses.asdict(outcome)})
    return runs


def costs(runs: list[dict[str, Any]], program: str, variant: str) -> list[float]:
    """CPU seconds for 100,000 messages, by round."""
    return [
        100_000 * one["cpu"] / one["messages"]
        for one in runs
        if (one["program"], one["variant"]) == (program, variant)
    ]


def table(runs: list[dict[str, Any]]) -> str:
    """A line a program: CPU seconds for 100,000 messages, and ratios within a round."""
    names = list(dict.fromkeys(one["program"] for one in runs))
    variants = list(dict.fromkeys(one["variant"] for one in runs))
    others = [name for name in variants if name != "pymux" and "pymux" in variants]
    rows = []
    for name in names:
        cells = [name]
        for variant in variants:
            each = costs(runs, name, variant)
            low, middle, high = min(each), statistics.median(each), max(each)
            cells.append(f"{middle:.2f} ({low:.2f} - {high:.2f})")
        ours = costs(runs, name, "pymux")
        for other in others:
            ratios = [a / b for a, b in zip(costs(runs, name, other), ours)]
            cells.append(f"{statistics.median(ratios):.2f}")
        rows.append(cells)
    header = ["program", *(f"{v}, CPU s" for v in variants)]
    return report.grid([*header, *(f"{o} / pymux" for o in others)], rows)


def described(outcome: dict[str, Any]) -> str:
    """The programs, when and where they ran."""
    facts = outcome["machine"]
    titles = "; ".join(f"`{n}`: {title}" for n, title in outcome["programs"].items())
    return (
        f"CPU seconds of the server's process for 100,000 messages: medians of "
        f"{outcome['rounds']} interleaved rounds of {outcome['seconds']:g} s, the "
        f"least and the greatest; ratios within a round. {titles}. Measured "
        f"{outcome['date'][:10]} on {facts['cpu']}, {facts['cpus']} CPUs, load average "
        f"{facts['load_average']:.1f}, {facts['system']}; "
        f"{outcome['versions']['python']}, uvloop "
        f"{outcome['versions'].get('uvloop', 'not installed')}."
    )


def run_all(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for, with the machine and the versions."""
    cpus, facts = machine.cpus(), machine.facts()
    if cpus.load is not None:  # the load is this process
        os.sched_setaffinity(0, {int(cpus.load)})
    chosen = [one for one in PROGRAMS if matches(one.name, args.only)]
    versions = machine.versions()
    variants = [
        variant
        for variant in VARIANTS
        if matches(variant, args.variants)
        and (variant != "uvloop" or "uvloop" in versions)
    ]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "versions": versions,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "programs": {one.name: one.title for one in chosen},
        "runs": run(chosen, variants, args.rounds, args.seconds),
    }


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.programs", description=__doc__
    )
    parser.add_argument("source", nargs="?", type=Path, metavar="FILE.json")
    parser.add_argument("--only", metavar="GLOBS", default="*", help="programs")
    parser.add_argument("--variants", metavar="GLOBS", default="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="its table")
    args = parser.parse_args(words)
    if args.source:  # a run that was kept is shown again
        outcome = json.loads(args.source.read_text(encoding="utf-8"))
    else:
        outcome = run_all(args)
    parts = [table(outcome["runs"]), described(outcome)]
    print("\n\n".join(parts))
    if args.output:
        runner.save(outcome, args.output)
    if args.into:
        report.replace(args.into, "programs", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
