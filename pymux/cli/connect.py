"""`pymux connect`: standard input to a server, its answers to standard output."""

from __future__ import annotations

import argparse
import sys

from .console import Terminal, on_terminal, say
from .talk import talk
from .tls import context_to_connect
from .words import Address, Failure, describe, explain


def run_connect(args: argparse.Namespace) -> int:
    """`pymux connect`: standard input to a server, its answers to standard output."""
    address: Address = args.address
    if sys.stdin is None:
        raise Failure("cannot read standard input: it is closed")
    context = context_to_connect(args.ca) if args.tls else None
    terminal = Terminal() if on_terminal() else None
    try:
        talk(address.value, args.framing, terminal, context)
    except OSError as error:
        raise Failure(describe(error, address)) from None
    except ValueError as error:
        raise Failure(explain(error, address)) from None
    except KeyboardInterrupt:
        if terminal is None:
            raise
        say("")  # the usual way to leave
    finally:
        if terminal is not None:
            terminal.restore()
    return 0
