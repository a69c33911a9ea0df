"""Figures of several workers together, and what has changed between two readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["change", "power_of", "total"]

Figures = dict[str, Any]


def total(workers: Sequence[Figures]) -> Figures:
    """Add up the figures of all workers; histograms bucket by bucket.

    >>> total([{"worker": 0, "processes": [], "accepted": 2, "turn_rows": [1, 0]},
    ...        {"worker": 1, "processes": [], "accepted": 3, "turn_rows": [0, 4]}])
    {'accepted': 5, 'turn_rows': [1, 4]}
    """
    found: Figures = {}
    for one in workers:
        for name, value in one.items():
            if name in ("worker", "processes"):
                continue
            if isinstance(value, list):
                before = found.get(name, [0] * len(value))
                found[name] = [a + b for a, b in zip(before, value)]
            else:
                found[name] = found.get(name, 0) + value
    return found


def change(before: Figures, now: Figures, name: str) -> Any:
    """Return by how much a counter has grown, or each bucket of a histogram.

    >>> change({"accepted": 2}, {"accepted": 5}, "accepted")
    3
    >>> change({}, {"turn_rows": [1, 4]}, "turn_rows")
    [1, 4]
    """
    value = now.get(name, 0)
    if isinstance(value, list):
        return [b - a for a, b in zip(before.get(name, [0] * len(value)), value)]
    return value - before.get(name, 0)


def power_of(buckets: Sequence[int], share: float) -> int | None:
    """Return the power of two under which a share of a histogram's counts is.

    Args:
        buckets: bucket k has what is at least 2^k and less than 2^(k + 1).
        share: above 0, to 1.

    Returns:
        The smallest power; None if nothing was counted.

    >>> power_of([0, 99, 0, 1], 0.99), power_of([0, 99, 0, 1], 1)
    (2, 4)
    """
    everything = sum(buckets)
    so_far = 0
    for power, count in enumerate(buckets, 1):
        so_far += count
        if count and so_far >= share * everything:
            return power
    return None
