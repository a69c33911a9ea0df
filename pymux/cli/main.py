"""The command line: `pymux serve`, `pymux connect` and `pymux info`.

What a user can cause ends in one line on standard error and exit code 1, wrong
usage in argparse's line and exit code 2; a traceback is a bug of pymux, or of the
handler that was being imported or called.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import importlib.metadata
import math
import os
import platform
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..engine.backends import compiler, reasons
from ..engine.os_errors import meaning
from ..handlers.marks import batched
from ..mux import Mux
from ..objects.batch import Batch
from ..server.server import Server, run_until_signal
from ..values.addresses import format_address
from ..values.errors import BackendUnavailable
from ..values.framing import Fixed, LengthPrefix, Lines, Raw
from ..values.limits import Limits
from .console import (
    Failure,
    Terminal,
    as_typed,
    complain,
    on_terminal,
    one_line,
    quoted,
    say,
    write,
)
from .talk import talk

if TYPE_CHECKING:
    from ..values.framing import Framing
    from ..values.stats import Stats

DEFAULT_ADDRESS = "127.0.0.1:8093"


class Address(NamedTuple):
    """An address as pymux takes it, and as the user wrote it."""

    value: Any
    text: str


# Handlers that come with the command.


@batched
def upper(batch: Batch) -> None:
    """Answer with what came, in upper case."""
    batch.reply_data(bytes(batch.data).upper())


@batched
def echo(batch: Batch) -> None:
    """Answer with what came."""
    batch.reply_data(batch.data)


@batched
def discard(batch: Batch) -> None:
    """Take what comes and answer nothing."""


HANDLERS = {"upper": upper, "echo": echo, "discard": discard}


# Arguments.


class _Parser(argparse.ArgumentParser):
    """Writes as the rest of the command does: UTF-8, at once, one line an error."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: error: {message}", self.format_usage())
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help, or the version."""
        write(message.encode())


def _digits(text: str) -> int | None:
    """A number in digits, None for anything else; of very many the first will do."""
    return int(text[:40]) if text.isascii() and text.isdigit() else None


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.

    Raises:
        argparse.ArgumentTypeError: it is none of these.

    Example:
        >>> parse_address("[::1]:80").value
        ('::1', 80)
        >>> parse_address("unix:/run/app.sock").value
        '/run/app.sock'
    """
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path:
            raise argparse.ArgumentTypeError("unix: needs a path, as in unix:/tmp/x")
        if path.startswith("@") and sys.platform == "linux":
            path = "\0" + path[1:]
        elif "/" not in path:
            path = "./" + path  # a bare name could be taken for a host
        return Address(path, as_typed(text))
    text = as_typed(text)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(
            f"{text!r}: an IPv6 address needs brackets, as in [::1]:8093"
        )
    number = _digits(port)
    if not colon or number is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of HOST:PORT, [IPV6]:PORT and unix:PATH"
        )
    if number > 65535:
        raise argparse.ArgumentTypeError(f"port {port} is not within 0 to 65535")
    return Address((host, number), text)


def parse_framing(text: str) -> Framing:
    """Read `raw`, `lines`, `length4` or `fixed:N`.

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    plain: dict[str, Callable[[], Framing]] = {
        "raw": Raw,
        "lines": Lines,
        "length4": LengthPrefix,
    }
    if text in plain:
        return plain[text]()
    kind, _, digits = text.partition(":")
    size = _digits(digits)
    if kind != "fixed" or size is None:
        raise argparse.ArgumentTypeError(
            f"unknown framing {quoted(text)} (known: raw, lines, length4, fixed:N)"
        )
    try:
        return Fixed(size)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def parse_backend(text: str) -> str:
    """Read the name of a backend, one that this machine lacks included.

    Raises:
        argparse.ArgumentTypeError: pymux knows none of that name.
    """
    known = reasons()
    if text not in known:
        raise argparse.ArgumentTypeError(
            f"unknown backend {quoted(text)} (known: {', '.join(known)})"
        )
    return text


def parse_handler(text: str) -> str:
    """Read `upper`, `echo`, `discard` or `MODULE:NAME`; import nothing yet.

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    module, colon, name = text.partition(":")
    if text not in HANDLERS and not (module and colon and name):
        raise argparse.ArgumentTypeError(
            f"unknown handler {quoted(text)} "
            f"(known: {', '.join(HANDLERS)}, MODULE:NAME)"
        )
    return text


def parse_count(text: str) -> int:
    """Read a number of connections: 1 or more, as `Limits` takes it.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number = _digits(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number from 1 on")
    try:
        Limits(max_connections=number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return number


def _number(text: str) -> float:
    """A finite number of 0 or more, NaN for anything else."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if 0 <= number < math.inf else math.nan


def parse_seconds(text: str) -> float:
    """Read a number of seconds above 0; what is more than 1e9 is as much.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    seconds = _number(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a number of seconds above 0"
        )
    return seconds


def parse_spin(text: str) -> Any:
    """Read a number of seconds, 0 included, or `auto`.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    seconds = _number(text)
    if text != "auto" and math.isnan(seconds):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is neither a number of seconds, 0 or more, nor auto"
        )
    return text if text == "auto" else seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pymux", description="An I/O multiplexer: serve, connect, or look at it."
    )
    parser.add_argument("--version", action="version", version=f"pymux {_version()}")
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
    serve.add_argument(
        "address",
        nargs="?",
        default=DEFAULT_ADDRESS,
        type=parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH; unix:@NAME is Linux's abstract "
        f"namespace; port 0 picks a free one (default: {DEFAULT_ADDRESS})",
    )
    serve.add_argument(
        "--handler",
        type=parse_handler,
        default="upper",
        metavar="upper|echo|discard|MODULE:NAME",
        help="what answers; MODULE is looked for in the current directory first "
        "(default: upper)",
    )
    serve.add_argument("--framing", **framing)
    serve.add_argument(
        "--backend",
        type=parse_backend,
        metavar="B",
        help="epoll, kqueue, poll or select (default: PYMUX_BACKEND, else the best)",
    )
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
    serve.set_defaults(run=run_serve)

    connect = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Send what is typed, or all of standard input, and print what "
        "comes back until the server ends the connection.",
    )
    connect.add_argument(
        "address",
        type=parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH",
    )
    connect.add_argument("--framing", **framing)
    connect.set_defaults(run=run_connect)

    info = commands.add_parser("info", help="print what pymux is and runs on")
    info.set_defaults(run=run_info)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: the arguments behind the command's name; None takes `sys.argv`.
    """
    try:
        args = _arguments(argv)
        code: int = args.run(args)
    except Failure as failure:
        complain(str(failure))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 1
    return code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with all that can be told of them before they are used."""
    parser = _parser()
    args = parser.parse_args(argv)
    backend = os.environ.get("PYMUX_BACKEND")
    if args.command != "info" and backend and backend not in reasons():
        parser.error(
            f"PYMUX_BACKEND: unknown backend {quoted(backend)} "
            f"(known: {', '.join(reasons())})"
        )
    if args.command == "connect" and isinstance(args.address.value, tuple):
        host, port = args.address.value
        if not host or not port:
            parser.error(f"{args.address.text!r}: a host and a port are needed")
    return args


# Words for what went wrong.


def describe(error: OSError, address: Address) -> str:
    """One line for an error that has to do with an address."""
    if isinstance(error, (BackendUnavailable, socket.gaierror)):
        return one_line(error)
    if error.errno is None:
        return f"{one_line(error)}: {address.text}"
    reason = meaning(error.errno)
    line = f"{reason[:1].lower()}{reason[1:]}: {address.text}"
    return line + _hint(error.errno, address.value)


def _explain(error: ValueError, address: Address) -> str:
    """One line for an address, or input, that cannot be."""
    return one_line(error).replace(repr(address.value), repr(address.text))


def _hint(number: int, address: Any) -> str:
    """What the bare error leaves open, in brackets, or nothing."""
    if isinstance(address, tuple):
        low = number in (errno.EACCES, errno.EPERM) and 0 < address[1] < 1024
        return " (ports below 1024 need a privilege)" if low else ""
    if number == errno.EADDRINUSE and not address.startswith("\0"):
        try:
            taken = not stat.S_ISSOCK(os.lstat(address).st_mode)
        except OSError:
            taken = False
        return " (something that is no socket)" if taken else ""
    return ""


# pymux serve


def load_handler(text: str) -> Any:
    """The handler called `text` on the command line.

    Raises:
        Failure: there is none, or importing its module failed.
    """
    if text in HANDLERS:
        return HANDLERS[text]
    module_name, _, name = text.partition(":")
    with contextlib.suppress(OSError):  # the directory is gone
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        missing = object()
        for part in name.split("."):
            found = getattr(found, part, missing)
            if found is missing:
                raise Failure(f"module {quoted(module_name)} has no {quoted(name)}")
    except (Failure, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise Failure(f"no module named {quoted(module_name)}") from None
        raise _import_failure(module_name, error) from None
    except BaseException as error:
        raise _import_failure(module_name, error) from None
    return found


def _import_failure(module: str, error: BaseException) -> Failure:
    where = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not isinstance(error, SyntaxError):  # which says where itself
        where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
    return Failure(
        f"cannot import {quoted(module)}: {type(error).__name__}: "
        f"{one_line(error)}{where}"
    )


def run_serve(args: argparse.Namespace) -> int:
    """`pymux serve`: run a server until SIGINT or SIGTERM."""
    address: Address = args.address
    handler = load_handler(args.handler)
    try:
        server = Server(
            handler,
            address.value,
            framing=args.framing,
            limits=Limits(
                max_connections=args.max_connections, idle_timeout=args.idle_timeout
            ),
            backend=args.backend,
            spin=args.spin,
        )
    except TypeError as error:
        name = as_typed(args.handler)
        raise Failure(f"bad handler {name}: {one_line(error)}") from None
    except OSError as error:
        raise Failure(describe(error, address)) from None
    except ValueError as error:
        raise Failure(_explain(error, address)) from None

    def ready(server: Server) -> None:
        backend = server.stats().backend
        say(f"listening on {as_typed(format_address(server.address))} ({backend})")
        if args.stats is not None:
            server.call_threadsafe(_Figures(args.stats).start)

    try:
        stats = run_until_signal(server, on_ready=ready)
    except OSError as error:
        raise Failure(describe(error, address)) from None
    except ValueError as error:
        raise Failure(_explain(error, address)) from None
    if sys.stdout is not None and sys.stdout.isatty():
        say("")  # behind the ^C
    say(totals(stats))
    return 0


class _Figures:
    """Prints a line of figures at an interval, on the server's mux."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: Stats | None = None
        self._at = 0.0

    def start(self, mux: Mux) -> None:
        """Begin; called on the mux."""
        self._last, self._at = mux.stats(), time.monotonic()
        mux.call_later(self._interval, self._tick, mux)

    def _tick(self, mux: Mux) -> None:
        now, last = mux.stats(), self._last
        assert last is not None
        before, self._at = self._at, time.monotonic()
        self._last = now
        per_second = 1 / max(self._at - before, 1e-9)
        try:
            say(
                f"{(now.messages_in - last.messages_in) * per_second:.0f} messages/s, "
                f"{now.connections} connections, "
                f"{(now.bytes_in - last.bytes_in) * per_second:.0f} bytes/s in, "
                f"{(now.bytes_out - last.bytes_out) * per_second:.0f} bytes/s out, "
                f"{now.queued} bytes queued"
            )
        except Failure as failure:
            # Who no longer reads the figures does not end the service.
            complain(f"{failure}; no more figures")
            return
        mux.call_later(self._interval, self._tick, mux)


def totals(stats: Stats) -> str:
    """The last line of `pymux serve`."""
    return (
        f"{stats.accepted} connections, "
        f"{stats.messages_in} messages in, {stats.messages_out} out, "
        f"{stats.bytes_in} bytes in, {stats.bytes_out} out, "
        f"{stats.reset} reset, {stats.discarded} bytes discarded"
    )


# pymux connect


def run_connect(args: argparse.Namespace) -> int:
    """`pymux connect`: standard input to a server, its answers to standard output."""
    address: Address = args.address
    if sys.stdin is None:
        raise Failure("cannot read standard input: it is closed")
    terminal = Terminal() if on_terminal() else None
    try:
        talk(address.value, args.framing, terminal)
    except OSError as error:
        raise Failure(describe(error, address)) from None
    except ValueError as error:
        raise Failure(_explain(error, address)) from None
    except KeyboardInterrupt:
        if terminal is None:
            raise
        say("")  # the usual way to leave
    finally:
        if terminal is not None:
            terminal.restore()
    return 0


# pymux info


def run_info(args: argparse.Namespace) -> int:
    """`pymux info`: what a report of a problem should say."""
    known = reasons()
    rows = [
        ("pymux", _version()),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
        *(
            (f"backend {name}", "works" if reason is None else f"missing: {reason}")
            for name, reason in known.items()
        ),
        (
            "kernel",
            " ".join([platform.system(), platform.release(), platform.machine()]),
        ),
        ("descriptors", _descriptor_limit()),
        ("compiler", compiler()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
    return 0


def _descriptor_limit() -> str:
    if sys.platform == "win32":
        return "no limit"
    import resource

    soft, hard = (
        "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return f"{soft} (hard limit {hard})"


def _version() -> str:
    try:
        return importlib.metadata.version("pymux-io")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
