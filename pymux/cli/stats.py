"""`pymux stats`: the figures of a server that runs, once."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from ..figures.reading import NoFigures, Reader
from ..figures.summary import total
from .console import say
from .info import version
from .words import Failure, as_typed

__all__ = ["add_stats", "open_figures", "run_stats"]


def add_stats(commands: Any) -> None:
    """Add the parser of `pymux stats`."""
    stats = commands.add_parser(
        "stats",
        help="print the figures of a server that runs",
        description="Print what a server has counted. The server is not asked, so this "
        "works while its handlers are stuck.",
    )
    add_file(stats)
    stats.add_argument(
        "--json",
        action="store_true",
        help="as JSON: each worker alone, with its processes, and all together",
    )


def add_file(parser: Any) -> None:
    """Add the argument FILE."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the file of figures (default: that of this user's newest server)",
    )


def open_figures(file: str | None) -> Reader:
    """Open a file of figures.

    Raises:
        Failure: there is none, or it is something else.
    """
    try:
        return Reader(file)
    except NoFigures as error:
        raise Failure(as_typed(str(error))) from None


def run_stats(args: argparse.Namespace) -> int:
    """`pymux stats`: print the figures."""
    with open_figures(args.file) as reader:
        try:
            workers = reader.read()
        except NoFigures as error:
            raise Failure(as_typed(str(error))) from None
        found = {
            "file": as_typed(reader.path),
            "live": reader.is_live(),
            "pid": reader.header.pid,
            "uptime": max(time.monotonic() - reader.header.started, 0),
            "pymux": version(),
            "total": total(workers),
            "workers": workers,
        }
    if args.json:
        say(json.dumps(found))
        return 0
    rows = [(name, found[name]) for name in ("file", "live", "pid")]
    rows.append(("workers", len(workers)))
    figures = total(workers)
    rows += [(name, figures[name]) for name in figures if _is_plain(figures[name])]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
    return 0


def _is_plain(value: Any) -> bool:
    return not isinstance(value, list)
