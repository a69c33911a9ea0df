"""`pymux top`: what a server does now, again and again.

A terminal needs nothing but the codes to go home and to erase; elsewhere, or with
TERM=dumb, each table is written behind the one before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from typing import Any

from ..figures.reading import Figures, NoFigures, Reader
from ..figures.summary import change, power_of, total
from .console import say, write
from .stats import add_file, open_figures
from .words import Failure, as_typed

__all__ = ["add_top", "run_top"]

STUCK = 1.0  # seconds in a handler from which on that is said
HOME, REST = b"\x1b[H", b"\x1b[J"
COLUMNS = [
    "worker", "pid", "state", "conns", "in/s", "out/s", "B/s in", "B/s out",
    "queued", "paused", "over", "turn p99", "outside p99",
]  # fmt: skip


def add_top(commands: Any, parse_seconds: Any) -> None:
    """Add the parser of `pymux top`."""
    top = commands.add_parser(
        "top",
        help="show what a server does now",
        description="Show what each worker of a server does, until Ctrl-C. The server "
        "is not asked, so this works while its handlers are stuck.",
    )
    add_file(top)
    top.add_argument(
        "--interval",
        type=parse_seconds,
        default=1.0,
        metavar="S",
        help="seconds between two tables (default: 1)",
    )
    top.add_argument("--once", action="store_true", help="one table, and the end")


def run_top(args: argparse.Namespace) -> int:
    """`pymux top`: write tables until Ctrl-C, or until the server has ended."""
    with open_figures(args.file) as reader:
        if not reader.is_live():
            raise Failure(f"{as_typed(reader.path)}: the server has ended")
        erases = not args.once and _can_erase()
        try:
            _go_on(args, reader, erases)
        except KeyboardInterrupt:
            if erases:
                say("")  # the terminal has put ^C on this line
        except NoFigures as error:
            raise Failure(as_typed(str(error))) from None
    return 0


def _can_erase() -> bool:
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") != "dumb"


def _go_on(args: argparse.Namespace, reader: Reader, erases: bool) -> None:
    before, at = reader.read(), time.monotonic()
    while True:
        time.sleep(args.interval)
        now, seconds = reader.read(), time.monotonic() - at
        at += seconds
        lines = table(reader, before, now, seconds)
        if erases:
            size = shutil.get_terminal_size()
            lines = [line[: size.columns] for line in lines[: size.lines - 1]]
            write(HOME + b"".join(_erased(line) for line in lines) + REST)
        else:
            for line in lines:
                say(line)
        if args.once:
            return
        if not reader.is_live():
            say("the server has ended")
            return
        before = now


def _erased(line: str) -> bytes:
    return line.encode(errors="backslashreplace") + b"\x1b[K\r\n"


def table(
    reader: Reader, before: list[Figures], now: list[Figures], seconds: float
) -> list[str]:
    """Return the lines of one table.

    Args:
        reader: which file it is.
        before, now: two readings, and the seconds between them.
        seconds: above 0.
    """
    uptime = max(time.monotonic() - reader.header.started, 0)
    old = {one["worker"]: one for one in before}
    rows = [_row(old.get(one["worker"], {}), one, seconds) for one in now]
    all_now = {"worker": "all", "processes": [], **total(now)}
    if len(now) > 1:
        rows.append(_row(total(before), all_now, seconds))
    rows.insert(0, COLUMNS)
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    head = (
        f"pymux server {reader.header.pid}, up {_span(uptime)}: "
        f"{all_now['accepted']} accepted, {all_now['messages_in']} messages in, "
        f"{all_now['messages_out']} out, {all_now['reset']} reset, "
        f"{all_now['accept_pauses']} pauses of accepting"
    )
    cells = (zip(row, widths) for row in rows)
    return [
        head,
        *("  ".join(f"{cell:>{width}}" for cell, width in row) for row in cells),
    ]


def _row(before: Figures, now: Figures, seconds: float) -> list[str]:
    def rate(name: str) -> str:
        return _number(max(change(before, now, name), 0) / seconds)

    def p99(name: str) -> str:
        power = power_of(change(before, now, name), 0.99)
        return "-" if power is None else "<" + _span(2**power / 1e9)

    processes = now["processes"]
    return [
        str(now["worker"]),
        _pids([one["pid"] for one in processes if one["pid"]]),
        _state(now, before, seconds),
        str(now["connections"]),
        *(
            rate(name)
            for name in ("messages_in", "messages_out", "bytes_in", "bytes_out")
        ),
        *(_number(now[name]) for name in ("queued", "paused", "over")),
        p99("turn_ns"),
        p99("outside_ns"),
    ]


def _pids(pids: list[int]) -> str:
    """Name the process of a worker that came last, and how many others end."""
    others = f"+{len(pids) - 1}" if len(pids) > 1 else ""
    return f"{pids[-1]}{others}" if pids else "-"


def _state(now: Figures, before: Figures, seconds: float) -> str:
    """Say how a worker is: gone, stuck, or how busy."""
    longest = max((one["in_handler"] for one in now["processes"]), default=0.0)
    if longest >= STUCK:
        return f"in handler {_span(longest)}"
    if now["worker"] != "all" and not now["processes"]:
        return "gone"
    busy = change(before, now, "turn_sum") + change(before, now, "outside_sum")
    return f"{min(max(busy, 0) / 1e9 / seconds, 99):.0%}"


def _number(value: float) -> str:
    """Write a number with at most four digits, and k, M, G or T.

    >>> _number(0), _number(9999), _number(12345), _number(5e9)
    ('0', '9999', '12.3k', '5.0G')
    """
    if value < 10000:
        return f"{value:.0f}"
    for letter in "kMGT":
        value /= 1000
        if value < 1000 or letter == "T":
            break
    return f"{value:.1f}{letter}"


def _span(seconds: float) -> str:
    """Write a time with a unit that suits it.

    >>> _span(0.000131), _span(2.5), _span(7500)
    ('131us', '2.5s', '2h05')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 1:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02}" if minutes >= 60 else f"{minutes}min"
