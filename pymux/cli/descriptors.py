"""The limit of this process's open files, each of which a connection takes one of."""

from __future__ import annotations

import sys

__all__ = ["describe_limit", "raise_limit"]


def describe_limit() -> str:
    """Say how many descriptors this process may have."""
    if sys.platform == "win32":
        return "no limit"
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{_shown(soft)} (hard limit {_shown(hard)})"


def raise_limit() -> str | None:
    """Raise the soft limit to the hard one.

    Returns:
        A line that says so; None if there was nothing to raise. If the system refuses,
        as macOS does without a hard limit, the line says that the limit stays.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return f"descriptor limit: {_shown(soft)}, which could not be raised"
    return f"descriptor limit: raised from {_shown(soft)} to {_shown(hard)}"


def _shown(limit: int) -> str:
    if sys.platform == "win32":
        return str(limit)
    import resource

    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
