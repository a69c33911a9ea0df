"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cpus"]

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """Return the number of CPUs by the affinity and the quota of the cgroup, 1 or more.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = min(_quotas(root), default=math.inf)
    return max(1, min(count, math.ceil(quota) if quota < count else count))


def _quotas(root: Path) -> list[float]:
    """The quotas of this process's cgroup and of those around it, in CPUs."""
    found: list[float] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        top = root / "sys/fs/cgroup"
        if number != "0":
            if "cpu" not in names.split(","):
                continue
            top = top / "cpu" if (top / "cpu").is_dir() else top / names
        folder = top / path.lstrip("/")
        # In a container the path may be that of the host: then only `top` exists.
        for place in (folder, *folder.parents):
            quota = _quota(place, v2=number == "0")
            if quota is not None:
                found.append(quota)
            if place == top:
                break
    return found


def _quota(folder: Path, *, v2: bool) -> float | None:
    """The quota that a folder of the cgroup tells; None if there is none."""
    try:
        if v2:
            most, period = (folder / "cpu.max").read_text().split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        quota = int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no int
        return None
    return quota if quota > 0 else None
