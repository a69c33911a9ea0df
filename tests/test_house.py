"""Rooms import only lower rooms, and private names stay in their room.

docs/architecture.md says which rooms there are, and what stands in each.
"""

import ast
import re
from pathlib import Path

import pymux

PACKAGE = Path(pymux.__file__).parent
FLOORS = (  # lowest first; the rooms of one floor do not import each other
    "values systemd",
    "engine",
    "objects selector figures",
    "handlers",
    "mux",
    "service client groups metrics",
    "server",
    "aio workers",
    "run",
    "cli __init__",
    "__main__",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
CORE = {"engine", "selector"}  # they may import _core
BACK = {("objects", "mux"), ("values", "objects")}  # for annotations alone
PYTHONS = {"_exit", "_getframe", "_args_from_interpreter_flags"}


def modules(root):
    """(room, path, tree) of each file of a package."""
    for path in sorted(root.rglob("*.py")):
        first = path.relative_to(root).parts[0]
        yield first.replace(".py", ""), path, ast.parse(path.read_text())


def imported(root, path, tree):
    """(room, names, whether for annotations alone) of each import of the package."""
    typing = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = path.relative_to(root).parts[: -node.level]
            parts += tuple(node.module.split(".")) if node.module else ()
            names = [alias.name for alias in node.names]
            for room in parts[:1] or names:
                yield room, names, id(node) in typing


def is_set_on_self(node):
    return isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"


def made(tree):
    """Private names that a file makes: functions, names, slots, attributes of self."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Attribute) and is_set_on_self(node):
            yield node.attr


def faults(root):
    """(file, what is wrong) wherever a rule is broken."""
    files = list(modules(root))
    own = {room: set(PYTHONS) for room, _, _ in files}
    for room, _, tree in files:
        own[room].update(made(tree))
    for room, path, tree in files:
        file = path.relative_to(root).as_posix()
        for other, names, typing in imported(root, path, tree):
            if other == "_core":
                if room not in CORE:
                    yield file, "imports _core"
            elif other != room:
                up = FLOOR[other] >= FLOOR[room]
                if up and not (typing and (room, other) in BACK):
                    yield file, f"imports {other}"
                if any(name.startswith("_") for name in names):
                    yield file, f"imports a private name of {other}"
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            if re.match("_[^_]", name) and name not in own[room]:
                yield file, ast.unparse(node)


def test_rooms_import_lower_ones_and_keep_to_their_private_names():
    assert sorted(set(faults(PACKAGE))) == []


def test_every_file_stands_in_a_room():
    assert {room for room, _, _ in modules(PACKAGE)} == FLOOR.keys()


def test_no_file_is_longer_than_it_may_be():
    lines = {
        path.relative_to(PACKAGE).as_posix(): path.read_text().count("\n")
        for _, path, _ in modules(PACKAGE)
    }
    most = {"mux.py": 350}
    assert [name for name in lines if lines[name] > most.get(name, 500)] == []


def test_no_file_of_the_core_is_longer_than_500_lines():
    core = Path(__file__).parents[1] / "csrc"
    lines = {path.name: path.read_text().count("\n") for path in core.glob("*.[ch]")}
    assert "mux.c" in lines
    assert [name for name in lines if lines[name] > 500] == []


BAD = {
    "values/errors.py": "from ..engine.turn import Turn\n",
    "engine/turn.py": "from .._core import lib\n",
    "objects/batch.py": "from .._core import lib\nfrom ..mux import Mux\n",
    "objects/connection.py": "if TYPE_CHECKING:\n    from ..mux import Mux\n",
    "handlers/base.py": "from ..objects.batch import _bounds\nconn._status = 3\n",
    "mux.py": "from . import service\nfrom .handlers import base\n",
}


def test_the_check_finds_what_it_looks_for(tmp_path):
    for name, text in BAD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(faults(tmp_path)) == [
        ("handlers/base.py", "imports a private name of objects"),
        ("handlers/base.py", "conn._status"),
        ("mux.py", "imports service"),
        ("objects/batch.py", "imports _core"),
        ("objects/batch.py", "imports mux"),
        ("values/errors.py", "imports engine"),
    ]
