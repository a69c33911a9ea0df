"""`pymux serve`: a server until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from ..mux import Mux
from ..server.server import Server, run_until_signal
from ..values.addresses import format_address
from ..values.stats import totals
from .builtin import HANDLERS
from .console import complain, say
from .descriptors import raise_limit
from .given import given_sockets
from .metrics import metrics_at
from .tls import context_to_serve
from .words import Address, Failure, as_typed, describe, explain, one_line, quoted

if TYPE_CHECKING:
    from ..values.stats import Stats


def load_handler(text: str) -> Any:
    """The handler called `text` on the command line.

    Raises:
        Failure: no handler has that name, or importing its module failed.
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
    if frames and not isinstance(error, SyntaxError):  # its text names the line
        where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
    return Failure(
        f"cannot import {quoted(module)}: {type(error).__name__}: "
        f"{one_line(error)}{where}"
    )


def log_from(level: int) -> None:
    """Write what pymux logs to standard error, unless the handler's module has told
    `logging` what to do with it."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pymux").setLevel(level)


def run_serve(args: argparse.Namespace) -> int:
    """`pymux serve`: run a server until SIGINT or SIGTERM."""
    with given_sockets(args.addresses) as addresses:
        return _serve(args, addresses)


def _serve(args: argparse.Namespace, addresses: list[Address]) -> int:
    context = None if args.cert is None else context_to_serve(args.cert, args.key)
    handler = load_handler(args.handler)
    try:
        server = Server(
            handler,
            [address.value for address in addresses],
            framing=args.framing,
            ssl=context,
            limits=args.limits,
            backend=args.backend,
            reuse_port=args.reuse_port,
            spin=args.spin,
            slow_handler=args.slow_handler,
            proxy=args.proxy,
        )
    except TypeError as error:
        name = as_typed(args.handler)
        raise Failure(f"bad handler {name}: {one_line(error)}") from None
    except OSError as error:
        raise Failure(describe(error, *addresses)) from None
    except ValueError as error:
        raise Failure(explain(error, *addresses)) from None

    if args.log_level is not None:
        log_from(args.log_level)
    raised = raise_limit()

    def ready(server: Server) -> None:
        backend = server.stats().backend
        for address in server.addresses:
            say(f"listening on {as_typed(format_address(address))} ({backend})")
        if raised is not None:
            complain(raised)
        if args.stats is not None:
            server.call_threadsafe(_Figures(args.stats).start)

    try:
        with metrics_at(args.metrics, server):
            stats = run_until_signal(server, on_ready=ready, linger=args.linger or 0.0)
    except OSError as error:
        raise Failure(describe(error, *addresses)) from None
    except ValueError as error:
        raise Failure(explain(error, *addresses)) from None
    if sys.stdout is not None and sys.stdout.isatty():
        say("")  # the terminal has put ^C on this line
    say(totals(stats))
    return 0


class _Figures:
    """Prints a line of figures at an interval, on the server's mux."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: Stats | None = None
        self._at = 0.0

    def start(self, mux: Mux) -> None:
        """Start printing; called in the thread of the server."""
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
            # The reader of the figures is gone; the server goes on.
            complain(f"{failure}; no more figures")
            return
        mux.call_later(self._interval, self._tick, mux)
