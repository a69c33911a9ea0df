"""The programs and those that they are compared with do the same work."""

import json

import pytest

from . import report
from .programs import __main__ as programs
from .programs import loads

SECONDS = 0.05
NAMES = [one.name for one in programs.PROGRAMS]


def named(name):
    return next(one for one in programs.PROGRAMS if one.name == name)


@pytest.mark.parametrize("variant", ["pymux", "asyncio", "uvloop"])
@pytest.mark.parametrize("name", NAMES)
def test_a_program_answers_as_it_should(name, variant):
    if variant == "uvloop":
        pytest.importorskip("uvloop")
    outcome = programs.measure(named(name), variant, SECONDS)
    assert outcome.messages == {"fanout": 20 * 20}.get(name, 25) * 5
    assert outcome.cpu > 0


def test_a_price_that_does_not_come_is_noticed(monkeypatch):
    """Two prices of a symbol at once: the program passes on the last."""
    monkeypatch.setattr(loads, "PATIENCE", 0.3)
    fanout = named("fanout")
    twice = 2 * loads.SYMBOLS
    with (
        programs.running(fanout.command("pymux"), fanout.ports) as (pid, ports),
        pytest.raises(loads.Wrong, match="have not come"),
    ):
        loads.fanout(pid, ports, SECONDS, prices=twice)


def test_a_wrong_answer_is_noticed():
    rpc = named("rpc-wait")
    with (
        programs.running(rpc.command("pymux"), rpc.ports) as (pid, ports),
        pytest.raises(loads.Wrong, match="got other answers"),
    ):
        loads.rpc(pid, ports, SECONDS, method="upper", params=["a"], result="a")


def test_what_was_measured_is_kept_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs.os, "sched_setaffinity", lambda pid, cpus: None)
    page, kept = tmp_path / "page.md", tmp_path / "runs.json"
    page.write_text(f"<!-- bench:programs -->\nold\n{report.END}\n")
    words = ["--only", "fanout", "--variants", "pymux,asyncio"]
    words += ["--rounds", "2", "--seconds", str(SECONDS)]
    assert programs.main([*words, "--output", str(kept), "--into", str(page)]) == 0
    runs = json.loads(kept.read_text())["runs"]
    order = [one["variant"] for one in runs]
    assert order == ["pymux", "asyncio", "asyncio", "pymux"]
    shown = page.read_text()
    assert "| fanout " in shown and "asyncio / pymux" in shown and "old" not in shown
    assert programs.table(runs) in capsys.readouterr().out
    page.write_text(f"<!-- bench:programs -->{report.END}\n")
    assert programs.main([str(kept), "--into", str(page)]) == 0
    assert page.read_text() == shown


def test_a_program_that_does_not_start_is_told():
    command = [programs.sys.executable, "-c", ""]
    with (
        pytest.raises(RuntimeError, match="did not start: python -c"),
        programs.running(command, 1),
    ):
        pass
