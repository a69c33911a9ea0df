"""`python -m bench.calls`: which servers ask the system for memory at each message.

Counts a server's calls of mmap, munmap, mremap, brk and madvise under a load, by
strace, which slows it down: the counts are to be read and no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import build, machine, report, runner
from .contenders import Contender, matches
from .scenarios import SCENARIOS, Scenario

CALLS = ("mmap", "munmap", "mremap", "brk", "madvise")
SCENARIO_NAMES = "pingpong-100,size-64k,echo-64k"


@contextlib.contextmanager
def counted(pid: int) -> Iterator[dict[str, int]]:
    """Count the calls of a process meanwhile; they are there at the end."""
    counts: dict[str, int] = {}
    with tempfile.NamedTemporaryFile("r") as table:
        command = ["strace", "-f", "-c", "-e", f"trace={','.join(CALLS)}"]
        tracer = subprocess.Popen(
            [*command, "-o", table.name, "-p", str(pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        with tracer, tracer.stderr:
            word = tracer.stderr.readline()
            if "attached" not in word:
                raise RuntimeError(word.strip() or "strace said nothing")
            try:
                yield counts
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.wait()
        for line in table:
            *figures, name = line.split() or [""]
            if name in CALLS:  # share, seconds, microseconds a call, calls, errors
                counts[name] = int(figures[3])


def per_message(
    scenario: Scenario, contender: Contender, seconds: float
) -> dict[str, float]:
    """One server under one load: its calls of each kind, by message."""
    command = contender.command(scenario.framing, scenario.server)
    with runner.server(command) as (process, port, _):
        options = scenario.load_options(seconds, 0.0, 0.0)
        with counted(process.pid) as counts:
            done = subprocess.run(
                [str(build.load(scenario.tls)), *options, "--port", str(port)],
                capture_output=True,
                text=True,
                check=True,
                timeout=runner.LOAD_TIMEOUT,
            )
    result = json.loads(done.stdout)
    if why := runner.refusal(result, contender):
        raise RuntimeError(why)
    messages = result["messages"] + result["opened"]  # the first of each connection
    return {name: counts.get(name, 0) / messages for name in CALLS}


def table(scenario: Scenario, contenders: list[Contender], seconds: float) -> str:
    """A line a contender, a column a call."""
    rows = []
    for contender in contenders:
        try:
            counts = per_message(scenario, contender, seconds)
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(f"{contender.name}: {error}", file=sys.stderr)
            continue
        cells = [f"{counts[name]:.2f}" for name in CALLS]
        rows.append([contender.name, *cells])
    return report.grid(["contender", *CALLS], rows)


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    parser.add_argument("--only", metavar="GLOBS", default=SCENARIO_NAMES)
    parser.add_argument("--contenders", metavar="GLOBS", default="*")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each load")
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    args = parser.parse_args(words)
    machine.raise_descriptor_limit()
    parts = []
    for scenario in SCENARIOS:
        if not matches(scenario.name, args.only):
            continue
        contenders = [
            contender
            for contender in scenario.contenders()
            if matches(contender.name, args.contenders) and not contender.missing()
        ]
        title = f"{scenario.name}: {scenario.described()}; calls a message"
        parts.append(f"{title}\n\n{table(scenario, contenders, args.seconds)}\n")
        print(parts[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
