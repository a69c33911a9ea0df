"""Runs contenders under scenarios, round by round, and keeps every figure."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import select
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import build, machine
from .contenders import Contender
from .scenarios import CAPACITY, Scenario

START_TIMEOUT = 20.0  # seconds for a server to say that it listens
LOAD_TIMEOUT = 300.0  # seconds: it has limits of its own, far below
START_TYPICAL = 0.25  # seconds in which most do, and end
CONNECT_TYPICAL = 80e-6  # seconds a connection
BURST_TYPICAL = 20.0  # seconds: dropped connects are tried again, ever later


DISTURBED = 0.15  # of a CPU, taken by others: worth another try
Step = Callable[[str, str, int], None]  # scenario, contender, round


@dataclass
class Plan:
    """What to run, and for how long."""

    scenarios: list[Scenario]
    contenders: dict[str, list[Contender]]  # by scenario
    quick: bool
    rounds: int
    seconds: float
    warmup: float
    retries: int = 0  # of a run in which others used the machine
    skipped: dict[str, str] = field(default_factory=dict)

    def rounds_of(self, scenario: Scenario) -> int:
        """A scenario may ask for fewer rounds than the plan."""
        return min(self.rounds, scenario.rounds or self.rounds)

    def runs(self) -> int:
        """How many runs there are in all."""
        return sum(
            len(self.contenders[scenario.name]) * self.rounds_of(scenario)
            for scenario in self.scenarios
        )

    def duration(self) -> float:
        """Seconds that it takes, about."""
        each = self.seconds + self.warmup + START_TYPICAL
        connections = sum(
            len(self.contenders[scenario.name])
            * self.rounds_of(scenario)
            * scenario.total
            for scenario in self.scenarios
        )
        bursts = sum(
            len(self.contenders[scenario.name]) * self.rounds_of(scenario)
            for scenario in self.scenarios
            if scenario.mode == "burst"
        )
        return (
            self.runs() * each + connections * CONNECT_TYPICAL + bursts * BURST_TYPICAL
        )


def pinned(command: list[str], cpus: str | None) -> list[str]:
    """The command on these CPUs; as it is where there is but one."""
    return command if cpus is None else ["taskset", "-c", cpus, *command]


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int, Any]]:
    """A running server, its port, and the file of what it says on stderr."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT)
            line = process.stdout.readline().decode() if ready else ""
            if not line.startswith("listening on "):
                process.kill()
                raise RuntimeError(f"did not start: {last_line(errors)}")
            yield process, int(line.split()[2].rpartition(":")[2]), errors
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def shown(command: list[str]) -> str:
    """The command as it can be pasted in a clone, wherever that is."""
    root = f"{build.HERE.parent}{os.sep}"
    words = ["python" if w == sys.executable else w.replace(root, "") for w in command]
    return shlex.join(words)


def last_line(errors: Any) -> str:
    """The last line of a server's stderr: the exception, if it died of one."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word"


def incomplete(result: dict[str, Any]) -> bool:
    """Whether the server did not take all the connections."""
    return bool(result["opened"] < result["wanted"])


def refusal(result: dict[str, Any], contender: Contender) -> str | None:
    """Why a run must not be compared, or None: an answer or a connection amiss."""
    amiss = [
        f"{result[key]} {key}"
        for key in ("refused", "lost", "wrong", "unanswered")
        if result[key]
    ]
    if not amiss:
        return None
    words = f"{', '.join(amiss)}; {result['error']}"
    if incomplete(result):
        words = f"stopped at {result['opened']:,} connections; {words}"
        if contender.stops:
            words = f"{words}; {contender.stops}"
    return words


def run_once(
    scenario: Scenario, contender: Contender, plan: Plan, rate: float
) -> dict[str, Any]:
    """One contender, once: a fresh server, a load, a record."""
    cpus = machine.cpus()
    command = contender.command(scenario.framing, scenario.server)
    # spinning is off with one usable CPU, so a server that spins is not pinned
    alone = scenario.pinned and contender.group != "spin"
    command = pinned(command, cpus.server if alone else cpus.unpinned)
    record: dict[str, Any] = {"server": shown(command), "refused": None}
    try:
        with server(command) as (process, port, errors):
            options = scenario.load_options(plan.seconds, plan.warmup, rate)
            options += ["--port", str(port), "--pid", str(process.pid)]
            if scenario.share and cpus.load is not None:
                options.append("--spin")  # it has a CPU for itself: sends on time
            load = pinned([str(build.load(scenario.tls)), *options], cpus.load)
            record["load"] = shown(load)
            done = subprocess.run(
                load, capture_output=True, text=True, check=False, timeout=LOAD_TIMEOUT
            )
            if done.returncode:
                raise RuntimeError(done.stderr.strip())
            record["result"] = json.loads(done.stdout)
            record["refused"] = refusal(record["result"], contender)
            if record["refused"] and process.poll() is not None:
                record["refused"] += f"; the server died: {last_line(errors)}"
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        record["refused"] = str(error)
    return record


def disturbance(record: dict[str, Any]) -> float:
    """CPUs that others kept busy meanwhile."""
    result = record.get("result", {})
    seconds = result.get("seconds", 0.0)
    return result["others_cpu"] / seconds if seconds else 0.0


def run_undisturbed(
    scenario: Scenario, contender: Contender, plan: Plan, rate: float
) -> dict[str, Any]:
    """Run once; as often as the plan allows while others use the machine."""
    records = []
    for _ in range(plan.retries + 1):
        records.append(run_once(scenario, contender, plan, rate))
        if disturbance(records[-1]) <= DISTURBED:
            return records[-1]
    return min(records, key=disturbance)


def rate_of(scenario: Scenario, runs: list[dict[str, Any]]) -> float:
    """The open loop's rate: a share of what the slowest contender can do."""
    if not scenario.share:
        return 0.0
    speeds: dict[str, list[float]] = {}
    for run in runs:
        if run["scenario"] == CAPACITY and not run["refused"]:
            speeds.setdefault(run["contender"], []).append(run["result"]["per_second"])
    slowest = min((statistics.median(s) for s in speeds.values()), default=0.0)
    return scenario.share * slowest


def run_scenario(
    scenario: Scenario, plan: Plan, runs: list[dict[str, Any]], step: Step
) -> None:
    """Add all rounds of a scenario to the runs."""
    stopped: set[str] = set()  # what cannot work will not work next time
    rate = rate_of(scenario, runs)
    if scenario.share and not rate:
        plan.skipped[scenario.name] = f"nobody's rate under {CAPACITY} is known"
        return
    for number in range(plan.rounds_of(scenario)):
        order = plan.contenders[scenario.name]
        for contender in order if number % 2 == 0 else reversed(order):
            step(scenario.name, contender.name, number)
            if contender.name in stopped:
                continue
            record = run_undisturbed(scenario, contender, plan, rate)
            if "result" not in record or incomplete(record["result"]):
                stopped.add(contender.name)
            head = {"scenario": scenario.name, "contender": contender.name}
            runs.append({**head, "round": number, **record})


def run_plan(plan: Plan, step: Step) -> dict[str, Any]:
    """Run everything; `step` hears of each run before it starts."""
    machine_facts = machine.facts()
    for tls in {scenario.tls for scenario in plan.scenarios}:
        build.load(tls)
        build.epoll(tls)
    cpus = machine.cpus()
    if cpus.server is not None:  # this process must not disturb the server
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {int(cpus.server)})
    runs: list[dict[str, Any]] = []
    with contextlib.suppress(KeyboardInterrupt):  # what was measured is kept
        for scenario in plan.scenarios:
            run_scenario(scenario, plan, runs, step)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "machine": machine_facts,
        "versions": machine.versions(),
        "plan": {
            "quick": plan.quick,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warmup": plan.warmup,
            "retries": plan.retries,
        },
        "scenarios": {s.name: s.described() for s in plan.scenarios},
        "skipped": plan.skipped,
        "runs": runs,
    }


def save(report: dict[str, Any], path: os.PathLike[str]) -> None:
    """Write the JSON: one run a line, so that two reports can be compared."""
    head = {key: value for key, value in report.items() if key != "runs"}
    runs = ",\n  ".join(json.dumps(run) for run in report["runs"])
    text = json.dumps(head, indent=1)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{text[:-2]},\n "runs": [\n  {runs}\n ]\n}}\n')
