# PYTHON_ARGCOMPLETE_OK
"""The command line: `pymux serve`, `connect`, `bench`, `top`, `stats` and `info`.

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
from .stats import run_stats
from .top import run_top
from .words import Failure
from .workers import run_with_workers

__all__ = ["main"]

COMMANDS = {
    "serve": run_serve,
    "connect": run_connect,
    "bench": run_bench,
    "top": run_top,
    "stats": run_stats,
    "info": run_info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: the arguments behind the command's name; None takes `sys.argv`.
    """
    try:
        args = read_arguments(argv)
        run = COMMANDS[args.command]
        if getattr(args, "workers", None) is not None:
            run = run_with_workers
        code: int = run(args)
    except Failure as failure:
        complain(str(failure))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 1
    return code
