"""Every public name says what it is, and `help(pymux)` shows no more than that."""

import ast
import dataclasses
import importlib.metadata
import inspect
import pydoc
import re
import textwrap
import types

import pytest

import pymux

# Those of classes that Python or a dataclass makes, or whose meaning is fixed.
UNDERSTOOD = {"__init__", "__repr__", "__del__", "__len__", "__lt__", "__next__"}
UNDERSTOOD |= {"__anext__", "__exit__", "__aexit__", "__post_init__", "__eq__"}
UNDERSTOOD |= {"__hash__", "__setattr__", "__delattr__", "__getattr__", "__enter__"}
UNDERSTOOD |= {"__replace__", "__annotate_func__"}  # from Python 3.13 and 3.14 on

UNIONS = {"Address", "Framing", "Handler"}  # a union cannot have a docstring
NAMES = [name for name in pymux.__all__ if name not in UNIONS]


def public():
    """(dotted name, object) for each name of the package and of its classes."""
    for name in NAMES:
        found = getattr(pymux, name)
        yield name, found
        if not inspect.isclass(found):
            continue
        for member, value in members(found):
            if member in UNDERSTOOD or not callable(inspect.unwrap(target(value))):
                continue
            if not member.startswith("_") or member.startswith("__"):
                yield f"{name}.{member}", target(value)


def members(found):
    """(name, value) of what a class and its bases in the package have."""
    for base in found.__mro__:
        if base.__module__.startswith("pymux."):
            fields = getattr(base, "_fields", None)  # of a named tuple
            made = () if fields is None else ("__new__", *fields)
            yield from (item for item in vars(base).items() if item[0] not in made)


def target(value):
    """The function of a method or property, or the value itself."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    return value


def attributes(found):
    """The public attributes of a class that are neither methods nor properties."""
    if dataclasses.is_dataclass(found):
        return {field.name for field in dataclasses.fields(found)}
    names = {
        name
        for name, value in vars(found).items()
        if isinstance(value, types.MemberDescriptorType)
    }
    if "__init__" in vars(found):
        names |= names_assigned(found.__init__)
    return {name for name in names if not name.startswith("_")}


def names_assigned(function):
    """The names that a function gives to attributes of `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


FUNCTIONS = [
    (name, found)
    for name, found in public()
    if inspect.isfunction(inspect.unwrap(found)) and not name.endswith("__")
]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(pymux, name))]


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_every_public_name_is_documented(name):
    found = dict(public())[name]
    assert found.__doc__, name
    first, *rest = found.__doc__.splitlines()
    assert first.strip().endswith((".", "?")), "the first line is one sentence"
    assert not rest or not rest[0].strip(), "an empty line stands behind it"


@pytest.mark.parametrize("name, function", FUNCTIONS)
def test_every_argument_is_documented(name, function):
    parameters = [
        one for one in inspect.signature(function).parameters if one != "self"
    ]
    for one in parameters:
        assert re.search(rf"^ +{one}: ", function.__doc__, re.M), f"{name}: {one}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_attribute_of_a_class_is_documented(name):
    found = getattr(pymux, name)
    for one in sorted(attributes(found)):
        assert re.search(rf"^ +{one}: ", found.__doc__, re.M), f"{name}.{one}"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_package_has_an_example(name):
    assert ">>> " in getattr(pymux, name).__doc__


@pytest.mark.parametrize("name", pymux.aio.__all__)
def test_every_name_of_aio_and_its_methods_are_documented(name):
    found = getattr(pymux.aio, name)
    assert found.__doc__
    for member in vars(found) if inspect.isclass(found) else ():
        if not member.startswith("_"):
            assert inspect.getdoc(getattr(found, member)), member


def test_the_module_tells_of_every_name():
    words = set(re.findall(r"\w+", pymux.__doc__))
    assert set(pymux.__all__) - words == set()


def test_help_shows_nothing_but_the_public_names():
    text = pydoc.plain(pydoc.render_doc(pymux))
    shown = set(re.findall(r"^    class (\w+)\(", text, re.M))
    functions = text[text.index("\nFUNCTIONS\n") : text.index("\nDATA\n")]
    shown |= set(re.findall(r"^    (\w+)(?:\(| = )", functions, re.M))
    # a module has a page of its own; what makes names is shown by pydoc always
    assert shown - {"__getattr__", "__dir__"} == set(NAMES) - {"aio"}
    data = set(re.findall(r"^    (\w+) = ", text[text.index("\nDATA\n") :], re.M))
    assert data - {"__all__"} == UNIONS
    assert "Any = <" not in text


@pytest.mark.parametrize(
    "value, shown",
    [
        (pymux.Raw(), "Raw()"),
        (pymux.Lines(), r"Lines(delimiter=b'\n', max_size=65536)"),
        (pymux.Fixed(4), "Fixed(size=4)"),
        (
            pymux.LengthPrefix(),
            "LengthPrefix(width=4, byteorder='big', max_size=1048576)",
        ),
        (
            pymux.Limits(),
            "Limits(max_connections=None, max_per_peer=None, high_water=65536, "
            "low_water=16384, max_output=16777216, idle_timeout=None, "
            "message_timeout=None, close_timeout=30.0, keepalive=None, "
            "send_buffer=None, notsent_lowat=None, handshake_timeout=30.0, "
            "max_handshakes=1024)",
        ),
    ],
)
def test_a_value_shows_how_to_make_it(value, shown):
    assert repr(value) == shown


def test_the_version_is_the_one_that_is_installed():
    assert pymux.__version__ == importlib.metadata.version("pymux-io")
