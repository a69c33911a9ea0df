"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import pymux

from . import util

MODULES = [
    module.name
    for module in pkgutil.walk_packages(pymux.__path__, "pymux.")
    if module.name not in ("pymux._core", "pymux.__main__")
]


@pytest.mark.parametrize("name", ["pymux", *MODULES])
def test_the_examples_of_a_module_run(name):
    if name.startswith("pymux.aio") and util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
