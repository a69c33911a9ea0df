"""No wall clock in the package nor in the core: it jumps."""

import ast
import re
from pathlib import Path

import pytest

import pymux

PACKAGE = Path(pymux.__file__).parent
CORE = Path(__file__).parent.parent / "csrc"
WALL = {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"}
IN_C = re.compile(
    r"\b(CLOCK_REALTIME\w*|gettimeofday|timespec_get|time\s*\(|localtime\w*|"
    r"GetSystemTime\w*|ftime)\b|\btime\s*\("
)


def wall_clocks(path):
    """Where a module asks for the time of day: names with their lines."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "time" and node.attr in WALL:
                found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found += [(node.lineno, a.name) for a in node.names if a.name in WALL]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names]
            found += [(node.lineno, name) for name in names if name == "datetime"]
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_module_asks_for_the_time_of_day(path):
    assert wall_clocks(path) == []


@pytest.mark.skipif(not CORE.is_dir(), reason="the core's source is not here")
def test_no_file_of_the_core_asks_for_the_time_of_day():
    found = [
        (path.name, line)
        for path in sorted(CORE.glob("*.[ch]"))
        for line in path.read_text().splitlines()
        if IN_C.search(line)
    ]
    assert found == []


def test_the_check_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("import time\nfrom time import time_ns\nnow = time.time()\n")
    assert wall_clocks(path) == [(2, "time_ns"), (3, "time")]
    assert IN_C.search("clock_gettime(CLOCK_REALTIME, &t);")
    assert IN_C.search("time(NULL)")
    assert not IN_C.search("clock_gettime(CLOCK_MONOTONIC, &t);")
