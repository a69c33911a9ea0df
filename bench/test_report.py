"""The tables that pages show come from the figures."""

import re

import pytest

from . import report
from .summary import Summary


def run(scenario, contender, number, cpu):
    """One run of 1,000 messages, in which the server used `cpu` milliseconds."""
    server = {"cpu": cpu / 1e3, "user_ticks": 0.02, "system_ticks": 0.06}
    result = {
        "messages": 1000,
        "per_second": 5000.0,
        "seconds": 0.2,
        "others_cpu": 0.01,
        "server": server,
    }
    head = {"scenario": scenario, "contender": contender, "round": number}
    return {**head, "refused": None, "result": result}


@pytest.fixture
def summary():
    """Three rounds of two contenders in two scenarios."""
    runs = [
        run(scenario, contender, number, cpu * (number + 1))
        for number in range(3)
        for scenario, cpu in (("pingpong-100", 4), ("echo-64k", 40))
        for contender in ("c-epoll", "pymux-batch")
    ]
    machine = {"cpu": "Z80", "cpus": 2, "memory_gib": 1, "system": "Linux 6"}
    return Summary(
        {
            "date": "2026-11-30",
            "machine": {**machine, "virtual": False, "server_cpu": 0, "load_cpu": 1},
            "versions": {},
            "plan": {"rounds": 3, "seconds": 0.2},
            "scenarios": {"pingpong-100": "", "echo-64k": ""},
            "runs": runs,
        }
    )


def test_each_table_goes_between_its_own_markers(summary, tmp_path):
    page = tmp_path / "page.md"
    parts = [f"<!-- bench:{name} -->\nold\n{report.END}" for name in report.TABLES]
    page.write_text("\nbetween\n".join(parts))
    for name in report.TABLES:
        report.into(page, name, summary, [])
    text = page.read_text()
    assert "old" not in text
    assert text.count("between") == len(report.TABLES) - 1
    assert text.count(report.END) == len(report.TABLES)
    main, short, cpu = text.split(report.END)[:3]
    assert "100 conns, msg/s" in main and "Measured 2026-11-30" in main
    assert "lines/s, 32 in flight" in short and "Measured" not in short
    assert "| pymux-batch |" in cpu and "Measured 2026-11-30" in cpu


def test_the_tls_table_has_scenarios_over_tls_alone(summary):
    assert report.tls_table(summary) == ""
    summary.report["scenarios"] = {"tls-pingpong-100": "", "pingpong-100": ""}
    for one in summary.report["runs"]:
        one["scenario"] = "tls-pingpong-100"
    head, _, *rows = report.tls_table(Summary(summary.report)).splitlines()
    assert "64 B, msg/s | CPU us/msg" in head
    assert len(rows) == 2
    assert "tls" not in report.table(Summary(summary.report))


def test_a_table_comes_with_its_plot(summary, tmp_path):
    page = tmp_path / "page.md"
    plots = [tmp_path / f"run-{name}.svg" for name in ("throughput", "cpu", "memory")]
    for name, shown in (("main", ["throughput"]), ("short", []), ("cpu", ["cpu"])):
        page.write_text(f"<!-- bench:{name} -->{report.END}")
        report.into(page, name, summary, plots)
        links = [f"![run-{plot}](run-{plot}.svg)" for plot in shown]
        assert re.findall(r"!\[.*", page.read_text()) == links


def test_the_cpu_table_has_microseconds_and_their_spread(summary):
    *_, row = report.cpu_table(summary).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "pymux-batch",
        "8 (4 - 12)",
        "80 (40 - 120)",
    ]


def test_a_page_without_the_markers_is_left_as_it_is(summary, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"<!-- bench:main -->\nold\n{report.END}\n")
    with pytest.raises(SystemExit, match="bench:cpu"):
        report.into(page, "cpu", summary, [])
    assert "old" in page.read_text()
