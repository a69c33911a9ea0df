"""`python -m bench`: run, show the table, write the JSON, the report, the plots."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import machine, report, runner
from .contenders import CONTENDERS, matches
from .scenarios import CAPACITY, SCENARIOS, Scenario
from .summary import Summary

RESULTS = Path(__file__).parent / "results"
QUICK_GROUPS = ("base", "lines", "numpy", "tls")
SHARED = 0.1  # of a CPU, taken by others: too much to compare throughput
SPARE_DESCRIPTORS = 64  # of a server or the load, beside its connections


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every scenario, longer")
    parser.add_argument("--only", metavar="GLOBS", help="scenarios, comma-separated")
    parser.add_argument("--contenders", metavar="GLOBS", help="likewise")
    parser.add_argument("--rounds", type=int, help="default: 3, or 5 with --full")
    parser.add_argument("--seconds", type=float, help="of each run: 0.35, or 1")
    parser.add_argument("--warmup", type=float, help="before each: 0.1, or 0.25")
    parser.add_argument(
        "--retries", type=int, default=0, help="of a run that others disturbed"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--list", action="store_true", help="show names, run nothing")
    return parser.parse_args(words)


def chosen_scenarios(args: argparse.Namespace) -> list[Scenario]:
    """Those named; else all, or the quick ones."""
    chosen = [s for s in SCENARIOS if args.full or args.only or s.quick]
    if args.only:
        chosen = [s for s in chosen if matches(s.name, args.only)]
    if not args.full:
        chosen = [s.smaller() for s in chosen]
    if any(s.share for s in chosen) and all(s.name != CAPACITY for s in chosen):
        chosen = [*(s for s in SCENARIOS if s.name == CAPACITY), *chosen]
    return chosen


def make_plan(args: argparse.Namespace) -> runner.Plan:
    """What to run, and what not and why."""
    limit = machine.raise_descriptor_limit()
    skipped = {c.name: why for c in CONTENDERS if (why := c.missing())}
    scenarios, contenders = [], {}
    for scenario in chosen_scenarios(args):
        needed = scenario.total + SPARE_DESCRIPTORS
        if needed > limit:
            skipped[scenario.name] = (
                f"needs {needed:,} descriptors, the limit is {limit:,}"
            )
            continue
        contenders[scenario.name] = [
            contender
            for contender in scenario.contenders()
            if contender.name not in skipped
            and (args.full or args.contenders or contender.group in QUICK_GROUPS)
            and matches(contender.name, args.contenders or "*")
        ]
        if contenders[scenario.name]:
            scenarios.append(scenario)
    return runner.Plan(
        scenarios,
        contenders,
        quick=not args.full,
        rounds=args.rounds or (5 if args.full else 3),
        seconds=args.seconds or (1.0 if args.full else 0.35),
        warmup=args.warmup or (0.25 if args.full else 0.1),
        retries=args.retries,
        skipped=skipped,
    )


@contextmanager
def progress(total: int) -> Iterator[Callable[[str, str, int], None]]:
    """A bar with rich, a line a scenario without."""
    try:
        from rich import progress as bars
    except ImportError:
        seen: set[str] = set()

        def line(scenario: str, contender: str, number: int) -> None:
            if scenario not in seen:
                seen.add(scenario)
                print(f"{scenario} ...", flush=True)

        yield line
        return
    columns = (
        bars.TextColumn("{task.description:48}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, refresh_per_second=2) as shown:
        task = shown.add_task("", total=total)

        def advance(scenario: str, contender: str, number: int) -> None:
            text = f"{scenario} [dim]round {number + 1}[/] {contender}"
            shown.update(task, description=text)
            shown.advance(task)

        yield advance


def default_output(quick: bool) -> Path:
    """results/quick-DATE.json or results/full-DATE.json."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return RESULTS / f"{'quick' if quick else 'full'}-{stamp}.json"


def main(words: list[str] | None = None) -> int:
    """Run the bench."""
    args = parse(words)
    plan = make_plan(args)
    if args.list:
        for scenario in plan.scenarios:
            names = ", ".join(c.name for c in plan.contenders[scenario.name])
            print(f"{scenario.name}: {scenario.described()}\n    {names}")
    for name, why in plan.skipped.items():
        print(f"skipped: {name}: {why}")
    if args.list:
        return 0
    if not plan.scenarios:
        print("nothing to run; --list shows the names", file=sys.stderr)
        return 2
    print(f"{plan.runs()} runs, about {plan.duration() / 60:.0f} minutes")
    with progress(plan.runs()) as step:
        outcome = runner.run_plan(plan, step)
    output = args.output or default_output(plan.quick)
    output.parent.mkdir(parents=True, exist_ok=True)
    runner.save(outcome, output)
    summary = Summary(outcome)
    for shown in filter(None, [report.table(summary), report.tls_table(summary)]):
        print(shown)
    if summary.others()[0] > SHARED:
        print("others were using this machine: trust CPU per message, not messages/s")
    for path in [output, *report.write(output)]:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
