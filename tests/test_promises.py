"""The tests that SECURITY.md names are there, so that its promises stay shown."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from . import floods

TESTS = Path(__file__).parent
SECURITY = TESTS.parent / "SECURITY.md"
if not SECURITY.is_file():
    pytest.skip("SECURITY.md is not here", allow_module_level=True)
TEXT = SECURITY.read_text(encoding="utf-8")
HEADING = "## What is promised, and the tests that show it\n"


def promises():
    """(promise, [what shows it]) for each row of the table."""
    section = TEXT.split(HEADING)[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    table = [row.strip("| ").rsplit(" | ", 1) for row in rows[1:]]
    return [(promise, re.findall(r"`([^`]*)`", shown)) for promise, shown in table]


@cache
def names(path):
    """The tests of a file, in Python or in C."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".c":
        return set(re.findall(r"(?:ONCE|EACH|VIRTUAL)\((\w+)", text))
    return {
        node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def is_there(reference):
    """Whether a test, or a flood, that the table names exists."""
    if reference.startswith("--only "):
        return reference[len("--only ") :] in floods.FLOODS
    file, _, name = reference.partition("::")
    return (TESTS / file).is_file() and name in names(TESTS / file)


@pytest.mark.parametrize(
    "promise, shown", promises(), ids=range(1, len(promises()) + 1)
)
def test_every_promise_is_shown_by_tests_that_exist(promise, shown):
    assert shown
    assert [one for one in shown if not is_there(one)] == []


def test_the_promises_are_found():
    table = dict(promises())
    assert len(table) > 50
    assert sum("::" in one for shown in table.values() for one in shown) > 100


def test_every_flood_shows_a_promise():
    shown = {one for _, them in promises() for one in them}
    assert {f"--only {name}" for name in floods.FLOODS} - shown == set()


def test_every_file_of_tests_that_is_named_exists():
    files = set(re.findall(r"\b(?:c/)?\w+\.(?:py|c)\b", TEXT))
    assert [name for name in sorted(files) if not (TESTS / name).is_file()] == []


@pytest.mark.parametrize(
    "reference",
    ["test_no.py::test_it", "test_life.py::test_no", "c/test_life.c::no", "--only no"],
)
def test_what_is_not_there_is_not_found(reference):
    assert not is_there(reference)
