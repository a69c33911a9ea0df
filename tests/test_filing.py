"""The tests are filed as README.md says: short files, nothing private but in one."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = (TESTS / "README.md").read_text(encoding="utf-8")
IN_C = sorted({*TESTS.glob("c/*.[ch]"), *TESTS.glob("c/fuzz/*.[ch]")})
MOST = 500  # lines of a file
KNOWS = {
    "inside.py",
    "inside_figures.py",
    "test_house.py",
}  # what the package is like inside
OTHERS = {"_exit", "_getframe", "_replace", "_set_running_loop", "_clear_type_cache"}
# What users import.
PACKAGES = {"pymux", "pymux.aio", "pymux.metrics", "pymux.systemd"}


def private_uses(text):
    """(line, name) of each private attribute of another object, and of each import
    from inside the package."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            private = re.match("_[^_]", node.attr) and node.attr not in OTHERS
            if private and not own:
                found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            if module.split(".")[0] == "pymux" and module not in PACKAGES:
                found.append((node.lineno, module))
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found += [
                (node.lineno, name)
                for name in names
                if name.startswith("pymux") and name not in PACKAGES
            ]
    return found


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.py")), ids=lambda path: path.name)
def test_a_file_is_short_and_uses_nothing_private(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST
    assert path.name in KNOWS or private_uses(text) == []


@pytest.mark.parametrize("path", IN_C, ids=lambda path: path.name)
def test_a_file_in_c_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST


def test_every_helper_is_in_the_readme():
    named = set(re.findall(r"`([\w*]+\.py)`", README))
    helpers = {path.name for path in TESTS.glob("*.py")} - {"__init__.py"}
    patterns = [name.replace("*", r"\w*").replace(".", r"\.") for name in named]
    assert [
        name
        for name in sorted(helpers)
        if not any(re.fullmatch(pattern, name) for pattern in patterns)
        and not name.startswith("test_")
    ] == []


def test_the_check_finds_what_it_looks_for():
    text = "from pymux.mux import Mux\nimport pymux.run\nconn._engine\nself._own\n"
    assert [line for line, _ in private_uses(text)] == [1, 2, 3]
