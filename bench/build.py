"""The two C programs, compiled on first use and when a source is newer."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE / "build"
FLAGS = "-std=c11 -O3 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes"


def compiler() -> list[str]:
    """What `CC` says, else `cc`."""
    return shlex.split(os.environ.get("CC", "cc"))


@functools.cache
def load() -> Path:
    """The load generator."""
    names = ("load.c", "client.c", "hist.c", "pattern.c", "proc.c")
    return _build("load", [HERE / name for name in names])


@functools.cache
def epoll() -> Path:
    """The yardstick, servers/epoll.c."""
    return _build("epoll", [HERE / "servers" / "epoll.c"])


def _build(name: str, sources: list[Path]) -> Path:
    program = OUTPUT / name
    inputs = [*sources, *HERE.glob("*.h")]
    if program.exists() and program.stat().st_mtime > max(
        path.stat().st_mtime for path in inputs
    ):
        return program
    OUTPUT.mkdir(exist_ok=True)
    fresh = OUTPUT / f"{name}.{os.getpid()}"  # never half a program
    command = [*compiler(), *FLAGS.split(), "-o", str(fresh), *map(str, sources)]
    subprocess.run(command, check=True)
    fresh.replace(program)
    return program
