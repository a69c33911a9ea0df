# PYTHON_ARGCOMPLETE_OK
"""The command line: `pymux serve`, `connect`, `bench` and `info`.

An error that a user can cause is one line on standard error and exit code 1. Wrong
usage is argparse's line and exit code 2. A traceback is a bug of pymux, or of the
handler that was imported or called.
"""

from __future__ import annotations

from collections.abc import Sequence

from .arguments import read_arguments
from .bench import run_bench
from .connect import run_connect
from .console import complain
from .info import run_info
from .serve import run_serve
from .words import Failure

__all__ = ["main"]

COMMANDS = {
    "serve": run_serve,
    "connect": run_connect,
    "bench": run_bench,
    "info": run_info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: the arguments behind the command's name; None takes `sys.argv`.
    """
    try:
        args = read_arguments(argv)
        code: int = COMMANDS[args.command](args)
    except Failure as failure:
        complain(str(failure))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 1
    return code
