"""`pymux serve --workers`: the options, and the run in several processes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from ..values.addresses import format_address
from ..values.stats import totals
from ..values.workers import MOST_WORKERS, Workers
from ..workers.references import Reference
from ..workers.serve import serve_with_workers
from ..workers.supervisor import Ready
from .builtin import HANDLERS
from .console import complain, say
from .descriptors import raise_limit
from .given import given_sockets
from .numbers import digits
from .serve import log_from
from .words import Address, Failure, as_typed, describe, explain, one_line, quoted

__all__ = ["add_worker_options", "fault_of_workers", "run_with_workers"]

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_workers(text: str) -> Any:
    """Read a number of workers, or `auto`.

    Raises:
        argparse.ArgumentTypeError: the text is neither.
    """
    number = digits(text)
    if text != "auto" and not (number and number <= MOST_WORKERS):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is neither a number from 1 to {MOST_WORKERS} nor auto"
        )
    return text if text == "auto" else number


def parse_memory(text: str) -> int:
    """Read a number of bytes, or of KiB, MiB or GiB as in `512M`.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = digits(text[: len(text) - len(unit)])
    if not number or unit not in UNITS:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a number of bytes from 1 on, like 512M or 1G"
        )
    return number * UNITS[unit]


def add_worker_options(
    serve: argparse.ArgumentParser,
    parse_seconds: Callable[[str], float],
    parse_address: Callable[[str], Address],
) -> None:
    """Add an option for each field of `Workers`; None stands for its default."""
    group = serve.add_argument_group(
        "workers", "Serve in several processes; SIGHUP replaces them by new ones."
    )
    group.add_argument(
        "--workers",
        type=parse_workers,
        metavar="N|auto",
        help="how many processes serve; auto is one a CPU (default: this one alone)",
    )
    group.add_argument(
        "--no-handover",
        action="store_false",
        default=None,
        dest="handover",
        help="connections stay in the old worker when a new one takes its place",
    )

    def seconds(option: str, text: str) -> None:
        group.add_argument(option, type=parse_seconds, metavar="S", help=text)

    seconds("--grace", "seconds after SIGTERM in which workers still accept")
    seconds("--start-timeout", "seconds in which a worker must be ready (default: 30)")
    group.add_argument(
        "--watchdog",
        type=lambda text: text if text == "off" else parse_seconds(text),
        metavar="S|off",
        help="abort a worker whose handler runs longer (default: 30)",
    )
    group.add_argument(
        "--max-memory",
        type=parse_memory,
        metavar="BYTES",
        help="replace a worker above this resident memory, like 512M",
    )
    seconds("--max-age", "replace a worker after S seconds, more or less a tenth")
    for name, what in ("metrics", "Prometheus"), ("health", "a balancer"):
        group.add_argument(
            f"--{name}",
            type=parse_address,
            metavar="ADDRESS",
            help=f"where {what} asks; bind it to loopback",
        )


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Workers` that the command line names, but the count."""
    fields = [
        name for name in Workers.__dataclass_fields__ if name not in ("count", "_")
    ]
    return {
        name: getattr(args, name)
        for name in fields
        if getattr(args, name, None) is not None
    }


def fault_of_workers(args: argparse.Namespace) -> str:
    """What is wrong with the options of workers, or ""."""
    if args.workers is None:
        for name in set(_given(args)) - {"metrics"}:  # one process has figures too
            option = "no-handover" if name == "handover" else name.replace("_", "-")
            return f"argument --{option}: --workers N is needed too"
    elif args.stats is not None:
        return "argument --stats: not with --workers; --metrics tells figures"
    return ""


def run_with_workers(args: argparse.Namespace) -> int:
    """Serve in several processes until a signal ends them."""
    with given_sockets(args.addresses) as addresses:
        return _serve(args, addresses)


def _serve(args: argparse.Namespace, addresses: list[Address]) -> int:
    given = _given(args)
    for name in "metrics", "health":
        if name in given:
            given[name] = given[name].value
    if given.get("watchdog") == "off":
        given["watchdog"] = None
    options: dict[str, Any] = {}
    if args.cert is not None:
        made = Reference("pymux.cli.tls:context_to_serve", (args.cert, args.key))
        made.resolve()  # tells at once what is wrong with the files
        options["ssl"] = made
    if args.log_level is not None:
        log_from(args.log_level)
        options["setup"] = Reference("pymux.cli.serve:log_from", (args.log_level,))
    handler = args.handler
    if handler in HANDLERS:
        handler = f"pymux.cli.builtin:{handler}"
    else:
        with contextlib.suppress(OSError):  # the directory is gone
            sys.path.insert(0, os.getcwd())
    raised = raise_limit()
    workers = Workers(args.workers, **given)

    def ready(bound: Ready) -> None:
        count = f"{bound.workers} worker{'s' * (bound.workers > 1)}"
        for address in bound.addresses:
            where = as_typed(format_address(address))
            say(f"listening on {where} ({bound.backend}, {count})")
        if raised is not None:
            complain(raised)

    try:
        stats = serve_with_workers(
            handler,
            [address.value for address in addresses],
            workers,
            on_ready=ready,
            linger=args.linger,
            reuse_port=args.reuse_port,
            framing=args.framing,
            limits=args.limits,
            backend=args.backend,
            spin=args.spin,
            slow_handler=args.slow_handler,
            proxy=args.proxy,
            **options,
        )
    except OSError as error:
        raise Failure(describe(error, *addresses)) from None
    except ValueError as error:
        raise Failure(explain(error, *addresses)) from None
    except (TypeError, RuntimeError) as error:
        raise Failure(one_line(error)) from None
    if sys.stdout is not None and sys.stdout.isatty():
        say("")  # the terminal has put ^C on this line
    say(totals(stats))
    return 0
