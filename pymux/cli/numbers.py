"""Numbers as they are written on the command line."""

from __future__ import annotations

import math

__all__ = ["digits", "finite"]


def digits(text: str) -> int | None:
    """The number that a text of digits is; None for any other text."""
    # A number of forty digits is out of every range; int() refuses thousands.
    return int(text[:40]) if text.isascii() and text.isdigit() else None


def finite(text: str) -> float:
    """A finite number of 0 or more, NaN for anything else."""
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if 0 <= found < math.inf else math.nan
