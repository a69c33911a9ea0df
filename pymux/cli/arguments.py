"""The arguments of the command line, and a function that reads each."""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..engine.backends import reasons
from ..values.framing import Fixed, LengthPrefix, Lines, Raw
from ..values.limits import Limits
from ..values.proxy import Proxy
from .addresses import parse_address, parse_listening
from .bench import ANSWERS
from .builtin import HANDLERS
from .completion import complete, completes
from .console import complain, write
from .info import version
from .limits import KNOWN, NAMES, limits_from, parse_limit
from .numbers import digits, finite
from .stats import add_stats
from .top import add_top
from .words import quoted
from .workers import add_worker_options, fault_of_workers

if TYPE_CHECKING:
    from ..values.framing import Framing

DEFAULT_ADDRESS = "127.0.0.1:8093"
LEVELS = ["debug", "info", "warning", "error", "critical"]
LOOKING = ("info", "top", "stats")  # commands that open no socket
FRAMINGS = ["raw", "lines", "length4", "fixed:"]


class _Parser(argparse.ArgumentParser):
    """A parser that writes UTF-8 without a buffer, and one line for an error."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: error: {message}", self.format_usage())
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write the help or the version."""
        write(message.encode())


def parse_framing(text: str) -> Framing:
    """Read `raw`, `lines`, `length4` or `fixed:N`.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    plain: dict[str, Callable[[], Framing]] = {
        "raw": Raw,
        "lines": Lines,
        "length4": LengthPrefix,
    }
    if text in plain:
        return plain[text]()
    kind, _, rest = text.partition(":")
    size = digits(rest)
    if kind != "fixed" or size is None:
        raise argparse.ArgumentTypeError(
            f"unknown framing {quoted(text)} (known: raw, lines, length4, fixed:N)"
        )
    try:
        return Fixed(size)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def parse_backend(text: str) -> str:
    """Read the name of a backend, which need not work on this machine.

    Raises:
        argparse.ArgumentTypeError: pymux has no backend of that name.
    """
    known = reasons()
    if text not in known:
        raise argparse.ArgumentTypeError(
            f"unknown backend {quoted(text)} (known: {', '.join(known)})"
        )
    return text


def parse_handler(text: str) -> str:
    """Read `upper`, `echo`, `discard` or `MODULE:NAME`, and import nothing.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    module, colon, name = text.partition(":")
    if text not in HANDLERS and not (module and colon and name):
        raise argparse.ArgumentTypeError(
            f"unknown handler {quoted(text)} "
            f"(known: {', '.join(HANDLERS)}, MODULE:NAME)"
        )
    return text


def parse_count(text: str) -> int:
    """Read a number of connections: 1 or more, within the range of `Limits`.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    number = digits(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number from 1 on")
    try:
        Limits(max_connections=number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return number


def parse_seconds(text: str) -> float:
    """Read a number of seconds above 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    seconds = finite(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a number of seconds above 0"
        )
    return seconds


def parse_span(text: str) -> float:
    """Read a number of seconds, 0 included.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    seconds = finite(text)
    if math.isnan(seconds):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a number of seconds, 0 or more"
        )
    return seconds


def parse_spin(text: str) -> Any:
    """Read a number of seconds, 0 included, or `auto`.

    Raises:
        argparse.ArgumentTypeError: the text is neither.
    """
    seconds = finite(text)
    if text != "auto" and math.isnan(seconds):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is neither a number of seconds, 0 or more, nor auto"
        )
    return text if text == "auto" else seconds


def parse_proxy(text: str) -> Proxy:
    """Read networks with commas between them.

    Raises:
        argparse.ArgumentTypeError: one is no network.
    """
    try:
        return Proxy(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_level(text: str) -> int:
    """Read the name of a level of `logging`, in either case.

    Raises:
        argparse.ArgumentTypeError: there is no such level.
    """
    if text.lower() not in LEVELS:
        raise argparse.ArgumentTypeError(
            f"unknown level {quoted(text)} (known: {', '.join(LEVELS)})"
        )
    return int(getattr(logging, text.upper()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pymux", description="An I/O multiplexer: serve, connect, or look at it."
    )
    parser.add_argument("--version", action="version", version=f"pymux {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    framing: dict[str, Any] = {
        "type": parse_framing,
        "default": "raw",
        "metavar": "raw|lines|length4|fixed:N",
        "help": "how messages are cut from the stream (default: raw)",
    }

    serve = commands.add_parser(
        "serve",
        help="answer clients until Ctrl-C",
        description="Answer clients until SIGINT or SIGTERM; then finish what has "
        "arrived, print totals and exit.",
    )
    option = serve.add_argument(
        "addresses",
        nargs="*",
        default=[parse_address(DEFAULT_ADDRESS)],
        type=parse_listening,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, unix:PATH or a URL like tcp://HOST:PORT; "
        "unix:@NAME is Linux's abstract namespace; port 0 picks a free one; fd:N is an "
        "inherited socket, systemd[:NAME] those that systemd has passed; several "
        f"are served together (default: {DEFAULT_ADDRESS})",
    )
    completes(option, ())
    option = serve.add_argument(
        "--handler",
        type=parse_handler,
        default="upper",
        metavar="upper|echo|discard|MODULE:NAME",
        help="what answers; MODULE is looked for in the current directory first "
        "(default: upper)",
    )
    completes(option, HANDLERS)
    completes(serve.add_argument("--framing", **framing), FRAMINGS)
    serve.add_argument(
        "--cert",
        metavar="FILE",
        help="speak TLS with this certificate: PEM, and its chain behind it",
    )
    serve.add_argument(
        "--key",
        metavar="FILE",
        help="the key of the certificate, in PEM (default: in the file of --cert)",
    )
    option = serve.add_argument(
        "--backend",
        type=parse_backend,
        metavar="B",
        help="epoll, kqueue, poll or select (default: PYMUX_BACKEND, else the best)",
    )
    completes(option, reasons())
    serve.add_argument(
        "--max-connections",
        type=parse_count,
        metavar="N",
        help="further peers wait in the backlog (default: no limit)",
    )
    serve.add_argument(
        "--idle-timeout",
        type=parse_seconds,
        metavar="S",
        help="end a connection after S seconds without traffic (default: never)",
    )
    serve.add_argument(
        "--linger",
        type=parse_span,
        metavar="S",
        help="after SIGTERM, let connections end one by one for S seconds before the "
        "others are drained (default: 0, with --workers 20)",
    )
    serve.add_argument(
        "--reuse-port",
        action="store_true",
        help="let several processes listen on one port",
    )
    option = serve.add_argument(
        "--limit",
        action="append",
        dest="limits",
        default=[],
        type=parse_limit,
        metavar="NAME=VALUE",
        help="a limit of each connection, as often as there are limits to set: "
        f"{KNOWN}",
    )
    completes(option, [f"{name}=" for name in NAMES])
    serve.add_argument(
        "--proxy",
        type=parse_proxy,
        metavar="NETWORK[,NETWORK]",
        help="balancers of these networks, like 10.0.0.0/8 or unix, say by the PROXY "
        "protocol of whom each connection is; nobody else may connect",
    )
    serve.add_argument(
        "--slow-handler",
        type=parse_seconds,
        metavar="S",
        help="log a warning when the handler takes longer than S seconds for a batch",
    )
    option = serve.add_argument(
        "--log-level",
        type=parse_level,
        metavar="LEVEL",
        help=f"what to log on standard error: {', '.join(LEVELS)} (default: warning)",
    )
    completes(option, LEVELS)
    serve.add_argument(
        "--spin",
        type=parse_spin,
        default=0.0,
        metavar="S|auto",
        help="look for work for S seconds before sleeping (default: 0)",
    )
    serve.add_argument(
        "--stats",
        type=parse_seconds,
        metavar="S",
        help="print a line of figures every S seconds",
    )
    add_worker_options(serve, parse_seconds, parse_address)

    connect = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Send what is typed, or all of standard input, and print what "
        "comes back until the server ends the connection.",
    )
    option = connect.add_argument(
        "address",
        type=parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, unix:PATH or a URL like tcp://HOST:PORT",
    )
    completes(option, ())
    completes(connect.add_argument("--framing", **framing), FRAMINGS)
    connect.add_argument(
        "--tls",
        action="store_true",
        help="speak TLS, and verify the server's certificate; a URL like "
        "tls://HOST:PORT means the same",
    )
    connect.add_argument(
        "--ca",
        metavar="FILE",
        help="trust the authorities in this file, in PEM (default: the system's)",
    )

    bench = commands.add_parser(
        "bench",
        help="put a load on a server",
        description="Send messages, an answer being followed by the next message, and "
        "compare every answer with what is due. Print messages a second and how long "
        "the answers took. Exit with 1 if an answer was wrong or missing.",
    )
    option = bench.add_argument(
        "address",
        type=parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, unix:PATH or a URL like tcp://HOST:PORT",
    )
    completes(option, ())
    bench.add_argument(
        "--connections",
        type=parse_count,
        default=50,
        metavar="N",
        help="connections (default: 50)",
    )
    bench.add_argument(
        "--depth",
        type=parse_count,
        default=1,
        metavar="N",
        help="messages of each connection that are in flight (default: 1)",
    )
    bench.add_argument(
        "--size",
        type=parse_count,
        metavar="BYTES",
        help="bytes of a message (default: 64)",
    )
    bench.add_argument(
        "--duration",
        type=parse_seconds,
        default=5.0,
        metavar="S",
        help="seconds to measure (default: 5)",
    )
    option = bench.add_argument(
        "--answer",
        choices=[*ANSWERS, "auto"],
        default="auto",
        help="what the server answers: the message in upper case, or as it is; auto "
        "asks once (default: auto)",
    )
    completes(bench.add_argument("--framing", **framing), FRAMINGS)
    option = bench.add_argument(
        "--backend",
        type=parse_backend,
        metavar="B",
        help="epoll, kqueue, poll or select (default: PYMUX_BACKEND, else the best)",
    )
    completes(option, reasons())

    add_top(commands, parse_seconds)
    add_stats(commands)
    commands.add_parser("info", help="print what pymux is and runs on")
    for one in commands.choices.values():
        one.set_defaults(error=one.error)  # with the usage of this command
    return parser


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; a wrong one ends the program with exit code 2."""
    parser = _parser()
    complete(parser)
    args = parser.parse_args(argv)
    backend = os.environ.get("PYMUX_BACKEND")
    if args.command not in LOOKING and backend and backend not in reasons():
        args.error(
            f"PYMUX_BACKEND: unknown backend {quoted(backend)} "
            f"(known: {', '.join(reasons())})"
        )
    if args.command == "serve":
        flags = {
            "max_connections": args.max_connections,
            "idle_timeout": args.idle_timeout,
        }
        given = [(name, value) for name, value in flags.items() if value is not None]
        try:
            args.limits = limits_from([*given, *args.limits])
        except ValueError as error:
            args.error(f"argument --limit: {error}")
        if fault := fault_of_workers(args):
            args.error(fault)
    if args.command not in LOOKING and (fault := _fault_of_tls(args)):
        args.error(fault)
    if args.command in ("connect", "bench") and isinstance(args.address.value, tuple):
        host, port = args.address.value
        if not host or not port:
            args.error(f"{args.address.text!r}: a host and a port are needed")
    return args


def _fault_of_tls(args: argparse.Namespace) -> str:
    """What is wrong with the options of TLS, or ""; `args.tls` is set by a URL too."""
    addresses = args.addresses if args.command == "serve" else [args.address]
    tls = [one.text for one in addresses if one.scheme == "tls"]
    plain = [one.text for one in addresses if one.scheme == "tcp"]
    if args.command == "bench":
        means = "bench speaks plain text alone: HOST:PORT or unix:PATH"
        return f"{tls[0]!r}: {means}" if tls else ""
    option, given = "--cert", args.command == "serve" and args.cert is not None
    if args.command == "serve":
        if args.key is not None and not given:
            return "argument --key: --cert FILE is needed too"
        if tls and not given:
            return f"{tls[0]!r}: --cert FILE is needed to serve TLS"
    else:
        option, given = "--tls", args.tls
        args.tls = given or bool(tls)
        if args.ca is not None and not args.tls:
            return "argument --ca: only with --tls, or an address like tls://HOST:PORT"
        if args.tls and not isinstance(args.address.value, tuple):
            return (
                f"{args.address.text!r}: a certificate is checked for a host, which a "
                "path does not name"
            )
    if given and plain:
        return f"{plain[0]!r} means plain text, and {option} is given"
    return ""
