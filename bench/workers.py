"""`python -m bench.workers`: what a worker costs beside a server without workers.

The same handler is served by `serve` in one process, by `serve(workers=1)`, and, with a
handler that computes for 20 us, by one worker and by two. One load generator asks them
in turn, each on a core of its own, and checks every answer. Prints a line a comparison:
the ratios of throughput and of CPU a message, as medians of rounds that took turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from . import build

CODE = """
import logging, sys, time
import pymux

def upper(conn, data):
    return data.upper()

def computing(conn, data):
    until = time.perf_counter_ns() + 20_000
    while time.perf_counter_ns() < until:
        pass
    return data.upper()

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name, workers = sys.argv[1:]
    pymux.serve(globals()[name], ("127.0.0.1", 0), framing=pymux.Lines(),
                workers=int(workers) or None)
"""
CONNS, DEPTH = 100, 4


class Served(NamedTuple):
    """A running server: its port, and the processes that serve."""

    port: int
    pids: list[int]


class Figures(NamedTuple):
    """Of one round: messages a second, and microseconds of CPU a message."""

    rate: float
    cost: float


@contextmanager
def served(folder: str, handler: str, workers: int, core: int) -> Iterator[Served]:
    """A server in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, os.path.join(folder, "app.py"), handler, str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert child.stderr is not None
    pids = [] if workers else [child.pid]
    try:
        for line in child.stderr:
            if found := re.search(r"worker \d+ \(pid (\d+)\) serves", line):
                pids.append(int(found[1]))
            if found := re.search(r"listening on 127.0.0.1:(\d+)", line):
                yield Served(int(found[1]), pids)
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate()


def cpu_of(pids: list[int]) -> float:
    """The CPU time of these processes so far, in seconds."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(server: Served, seconds: float, core: int) -> Figures:
    """One round of load."""
    command = [build.load(), "echo", "--port", str(server.port)]
    command += ["--conns", str(CONNS), "--depth", str(DEPTH), "--framing", "lines"]
    command += ["--warmup", "0", "--duration", str(seconds)]
    before = cpu_of(server.pids)
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    found: dict[str, Any] = json.loads(done.stdout)
    wrong = {key: found.get(key) for key in ("refused", "unanswered", "wrong", "lost")}
    if any(wrong.values()):
        raise RuntimeError(f"answers are missing or wrong: {wrong}")
    count = found["messages"]
    return Figures(
        count / found["seconds"], (cpu_of(server.pids) - before) / count * 1e6
    )


def compare(a: Served, b: Served, rounds: int, seconds: float, core: int) -> str:
    """Measure both in turn; return how `b` is to `a`."""
    one, other = [], []
    for _ in range(rounds):
        one.append(measure(a, seconds, core))
        other.append(measure(b, seconds, core))
    rates = [y.rate / x.rate for x, y in zip(one, other, strict=True)]
    costs = [y.cost / x.cost for x, y in zip(one, other, strict=True)]
    rate, cost = statistics.median(rates), statistics.median(costs)
    at = statistics.median(x.rate for x in one)
    return f"throughput x {rate:.3f}, CPU a message x {cost:.3f} ({at:,.0f} a second)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="of each comparison")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = cores[0], cores[-1]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with open(os.path.join(folder, "app.py"), "w") as file:
            file.write(CODE)

        def start(handler: str, workers: int) -> Served:
            return stack.enter_context(served(folder, handler, workers, ours))

        rest = options.rounds, options.seconds, theirs
        line = compare(start("upper", 0), start("upper", 1), *rest)
        print("one worker to serve():", line, flush=True)
        line = compare(start("computing", 1), start("computing", 2), *rest)
        print("two workers to one, a handler of 20 us:", line, flush=True)


if __name__ == "__main__":
    main()
