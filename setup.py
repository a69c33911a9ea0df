"""Builds the C core; everything else about the package is in pyproject.toml."""

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildBesideTheSource(build_ext):
    """Leaves the core in pymux/ too.

    `python -m pymux` in a clone imports the clone's package, not the installed
    one: after `pip install .` it must find its core there.
    """

    def run(self):
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()


setup(
    cffi_modules=["build_core.py:ffibuilder"],
    cmdclass={"build_ext": BuildBesideTheSource},
    options={"bdist_wheel": {"py_limited_api": "cp39"}},
)
