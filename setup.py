"""Builds the C core; everything else about the package is in pyproject.toml."""

import gzip
import os
import shutil
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CCompilerError, PlatformError

# One binary fits every CPython from 3.11 on, save those whose objects are laid out
# differently, as cffi too asks. PyPy has no such binaries.
ABI3 = (
    sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not hasattr(sys, "gettotalrefcount")
)

INSTALL_COMPILER = (
    "Debian, Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; "
    "Alpine: apk add gcc musl-dev; macOS: xcode-select --install; "
    "Windows: the Build Tools for Visual Studio, with C++"
)
INSTALL_HEADERS = (
    "Debian, Ubuntu: apt-get install python3-dev (PyPy: pypy3-dev); "
    "Fedora: dnf install python3-devel; Alpine: apk add python3-dev"
)


class BuildCore(build_ext):
    """Leaves the core in pymux/ too, and says what a build lacks.

    `python -m pymux` in a clone imports the clone's package, not the installed
    one: after `pip install .` it must find its core there.
    """

    def run(self):
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CCompilerError, PlatformError) as error:
            # The last line of what pip shows, without a traceback.
            raise SystemExit(f"error: {self.what_is_missing(error)}") from None

    def what_is_missing(self, error):
        """One line for whoever ran `pip install`."""
        command = getattr(self.compiler, "compiler_so", None)
        if isinstance(error, PlatformError):  # how setuptools finds no MSVC
            return f"pymux needs a C compiler: {error}. {INSTALL_COMPILER}"
        if command and not shutil.which(command[0]):
            return (
                f"pymux needs a C compiler: {command[0]!r} was not found. "
                f"{INSTALL_COMPILER}"
            )
        if not any(Path(place, "Python.h").exists() for place in self.include_dirs):
            version = "{}.{}".format(*sys.version_info)
            return (
                f"pymux needs the headers of Python {version}: Python.h was not found "
                f"in {', '.join(self.include_dirs)}. {INSTALL_HEADERS}"
            )
        return (
            f"the C core of pymux was not built ({error}); what the compiler said "
            f"stands above. Without the C library's headers: {INSTALL_COMPILER}"
        )


class ReproducibleSdist(sdist):
    """The same bytes whoever makes it, wherever, under whichever umask.

    With SOURCE_DATE_EPOCH, whenever too.
    """

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **owner):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **owner)
        epoch = os.environ.get("SOURCE_DATE_EPOCH")

        def plain(member):
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.mtime = int(member.mtime if epoch is None else epoch)
            return member

        name = f"{base_name}.tar.gz"
        self.mkpath(os.path.dirname(name))
        with (
            open(name, "wb") as file,
            gzip.GzipFile(
                "",
                "wb",
                fileobj=file,
                mtime=int(time.time() if epoch is None else epoch),
            ) as stream,
            tarfile.open(
                fileobj=stream, mode="w", format=tarfile.PAX_FORMAT
            ) as archive,
        ):
            archive.add(base_dir, filter=plain)
        return name


class ReproducibleWheel(bdist_wheel):
    """The same bytes under whichever umask."""

    def write_wheelfile(self, *args, **options):
        """The last step before the archive is made."""
        super().write_wheelfile(*args, **options)
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)


setup(
    cffi_modules=["build_core.py:ffibuilder"],
    cmdclass={
        "build_ext": BuildCore,
        "sdist": ReproducibleSdist,
        "bdist_wheel": ReproducibleWheel,
    },
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
