"""The type stub of the compiled module says what the module has."""

import ast
from pathlib import Path

import pytest

import pymux
from pymux import _core

STUB = Path(pymux.__file__).with_name("_core.pyi")


@pytest.fixture(scope="module")
def tree():
    return ast.parse(STUB.read_text(encoding="utf-8"))


def annotated(body):
    """{name: the name of its annotation} for each `name: Annotation` of a body."""
    return {
        node.target.id: ast.unparse(node.annotation)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def declared(tree):
    """The names that the stub gives to `lib`."""
    kind = annotated(tree.body)["lib"]
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == kind
    ]
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    return methods | set(annotated(found.body))


def test_the_stub_declares_every_name_of_the_module(tree):
    assert sorted(set(dir(_core.lib)) - declared(tree)) == []


def test_the_stub_declares_no_other_name(tree):
    assert sorted(declared(tree) - set(dir(_core.lib))) == []


def test_the_stub_declares_ffi_and_lib_alone(tree):
    public = {name for name in annotated(tree.body) if not name.startswith("_")}
    assert public == {"ffi", "lib"}


def test_each_function_takes_as_many_arguments_as_the_c_one(tree):
    kind = annotated(tree.body)["lib"]
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == kind
    ]
    for node in found.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        static = any(
            isinstance(d, ast.Name) and d.id == "staticmethod"
            for d in node.decorator_list
        )
        stub = len(node.args.posonlyargs + node.args.args) - (not static)
        function = getattr(_core.lib, node.name)
        assert stub == len(_core.ffi.typeof(function).args), node.name


def test_each_function_of_the_module_but_the_one_in_python_carries_the_prefix():
    names = [name for name in dir(_core.lib) if not name.startswith("PMX_")]
    assert [name for name in names if not name.startswith("pmx_")] == ["pymux_tls"]


def test_the_package_is_marked_as_typed():
    assert STUB.with_name("py.typed").exists()
