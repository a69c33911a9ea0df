"""Who takes part: one entry for each server in servers/."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import build

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Contender:
    """A server, and what it is called with."""

    name: str
    file: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    group: str = "base"  # scenarios name the groups that take part in them
    framing: str | None = None  # instead of the scenario's
    environment: tuple[str, ...] = ()  # of its process, each as NAME=VALUE
    tls: bool = False
    stops: str = ""  # why it cannot take as many connections as others

    @property
    def family(self) -> str:
        """`c`, `pymux` or `peer`: what it is to the comparison."""
        first = self.name.split("-")[0]
        return first if first in ("c", "pymux") else "peer"

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        for package in self.needs:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return f"{package} is not installed"
        return build.without_tls() if self.tls else None

    def command(self, framing: str, options: tuple[str, ...]) -> list[str]:
        """The server's command line; a port is picked by the system."""
        if self.file.endswith(".c"):
            start = [str(build.epoll(self.tls))]
        else:
            start = [sys.executable, str(SERVERS / self.file)]
        if self.environment:
            start = ["env", *self.environment, *start]
        start += ["--framing", self.framing or framing]
        if self.tls:
            start += ["--tls", str(build.certificate())]
        return [*start, *self.options, *options]


def matches(name: str, globs: str) -> bool:
    """Whether a name is meant by a comma-separated list of globs."""
    return any(fnmatch.fnmatch(name, glob) for glob in globs.split(","))


def is_main(name: str) -> bool:
    """Not one of pymux's variants of backend or spin."""
    groups = {contender.name: contender.group for contender in CONTENDERS}
    return groups.get(name, "base") in ("base", "lines")


def _tls(name: str, file: str, *environment: str, **fields: Any) -> Contender:
    needs = ("pymux-io",) if file.startswith("pymux_") else ()
    fields = {"needs": needs, "group": "tls", **fields}
    return Contender(name, file, tls=True, environment=environment, **fields)


def _pymux(form: str, suffix: str = "", **fields: Any) -> Contender:
    name, file = f"pymux-{form}{suffix}", f"pymux_{form}.py"
    return Contender(name, file, ("pymux-io",), **fields)


FORMS = ("batch", "list", "function", "coroutine")
# asyncio asks for 256 KiB at each receive and keeps what has come, mostly little. glibc
# maps a block of that size by itself, and gives the pages back at once; with a top
# of the heap of 1 MiB the block is cut from there, without a system call.
TOP_PAD = ("MALLOC_TOP_PAD_=1048576",)
# Over TLS uvloop asks for 256 KiB at each receive, too. With this so large a block is
# cut from the heap, and the heap's top is not given back at once.
KEPT = ("MALLOC_MMAP_THRESHOLD_=4194304", *TOP_PAD, "MALLOC_TRIM_THRESHOLD_=4194304")
FD_SETSIZE = "select() takes no descriptor from 1,024 on (FD_SETSIZE)"

CONTENDERS = (
    Contender("c-epoll", "epoll.c", framing="raw"),
    Contender("c-epoll-lines", "epoll.c", group="lines", framing="lines"),
    *(_pymux(form) for form in FORMS),
    Contender(
        "pymux-columns", "pymux_columns.py", ("pymux-io", "numpy"), group="lines"
    ),
    Contender("uvloop-protocol", "uvloop_protocol.py", ("uvloop",)),
    Contender("uvloop-tuned", "uvloop_tuned.py", ("uvloop",), group="lines"),
    Contender("uvloop-streams", "uvloop_streams.py", ("uvloop",)),
    *(
        Contender(f"{name}{suffix}", file, environment=environment)
        for suffix, environment in (("", ()), ("-top-pad", TOP_PAD))
        for name, file in (
            ("asyncio-protocol", "asyncio_protocol.py"),
            ("asyncio-streams", "asyncio_streams.py"),
        )
    ),
    Contender("selectors", "selectors_loop.py"),
    Contender("select", "select_loop.py", stops=FD_SETSIZE),
    Contender(
        "threads",
        "blocking_threads.py",
        stops="a thread for each connection: threads-max, pid_max, map count",
    ),
    Contender("gevent", "gevent_greenlets.py", ("gevent",)),
    Contender("trio", "trio_tasks.py", ("trio",)),
    Contender("twisted", "twisted_protocol.py", ("twisted",)),
    *(
        _pymux(
            form,
            f"-{backend}",
            options=("--backend", backend),
            group="backends",
            stops=FD_SETSIZE if backend == "select" else "",
        )
        for backend in ("poll", "select")
        for form in FORMS
    ),
    *(
        _pymux(form, f"-spin-{name}", options=("--spin", spin), group="spin")
        for name, spin in (("50us", "50e-6"), ("auto", "auto"))
        for form in ("batch", "function")
    ),
    *(
        Contender(
            f"pymux-aio-{form}",
            f"pymux_aio_{form}.py",
            ("pymux-io", "uvloop"),
            group="backends",
        )
        for form in ("function", "coroutine")
    ),
    Contender("numpy-uvloop", "numpy_uvloop.py", ("uvloop", "numpy"), group="numpy"),
    Contender(
        "numpy-function", "numpy_function.py", ("pymux-io", "numpy"), group="numpy"
    ),
    Contender("numpy-batch", "numpy_batch.py", ("pymux-io", "numpy"), group="numpy"),
    _tls("c-epoll-tls", "epoll.c", framing="raw"),
    *(
        _tls(f"pymux-{form}-tls", f"pymux_{form}.py", "PYMUX_TLS=adopt")
        for form in ("batch", "function", "coroutine")
    ),
    _tls("pymux-function-tls-portable", "pymux_function.py", "PYMUX_TLS=portable"),
    _tls("uvloop-protocol-tls", "uvloop_protocol.py", needs=("uvloop",)),
    _tls("uvloop-protocol-tls-kept", "uvloop_protocol.py", *KEPT, needs=("uvloop",)),
    _tls("asyncio-protocol-tls", "asyncio_protocol.py"),
    _tls("asyncio-protocol-tls-kept", "asyncio_protocol.py", *KEPT),
)
