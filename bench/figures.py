"""`python -m bench.figures`: what the figures cost, as a share of the shortest turn.

The C program figures.c measures both in turns, in one process, and compares medians.
Exit code 1: the share is over the target, 1 %.
"""

from __future__ import annotations

import json
import subprocess
import sys

from . import build

TARGET = 0.01


def main() -> int:
    """Measure and print a line."""
    out = subprocess.run([build.figures()], check=True, capture_output=True, text=True)
    found = json.loads(out.stdout)
    print(
        f"counting takes {found['counting_ns']:.0f} ns of a turn's "
        f"{found['turn_ns']:.0f} ns: {found['share']:.2%} (target: under {TARGET:.0%})"
    )
    return found["share"] > TARGET


if __name__ == "__main__":
    sys.exit(main())
