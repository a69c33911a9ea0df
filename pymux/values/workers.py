"""How `serve` runs in several processes: a frozen value."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from .addresses import Address, check_address
from .checks import LONGEST, duration, set_fields, shown, whole

__all__ = ["MOST_WORKERS", "Workers", "check_workers"]

MOST_WORKERS = 1024
LARGEST_MEMORY = 2**62


@dataclass(frozen=True)
class Workers:
    """The processes that serve together, and how they are replaced.

    Args:
        count: how many processes serve; ``"auto"`` is one for each CPU that this
            process may use, by its affinity and the quota of its cgroup.
        handover: at SIGHUP, and where a worker is replaced for its age or memory,
            connections move to the new worker. False, or a connection that cannot
            move: the old worker accepts nothing more and serves on while it lingers.
        grace: seconds after SIGTERM in which the workers still accept, while `health`
            says that they are not ready.
        start_timeout: seconds that a new worker has to become ready.
        watchdog: seconds that a handler may run. The stack of a worker whose handler
            takes longer is logged, and the worker is aborted and replaced. None: for
            ever.
        max_memory: bytes of resident memory above which a worker is replaced; None:
            no limit.
        max_age: seconds, more or less a tenth, after which a worker is replaced;
            None: never.
        metrics: the address that answers Prometheus with the figures of all workers;
            None: none. Every address of a client may ask, so bind it to loopback.
        health: the address that tells a balancer whether the server is ready; None:
            none. Bind it to loopback, too.

    Raises:
        TypeError, ValueError: an argument of a wrong type, or out of range.

    >>> Workers(2, max_age=3600).count
    2
    """

    count: int | Literal["auto"] = "auto"
    _: KW_ONLY
    handover: bool = True
    grace: float = 0.0
    start_timeout: float = 30.0
    watchdog: float | None = 30.0
    max_memory: int | None = None
    max_age: float | None = None
    metrics: Address | None = None
    health: Address | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.handover, bool):
            raise TypeError(
                f"handover is {shown(self.handover)}; True or False is needed"
            )
        for name in "metrics", "health":
            if getattr(self, name) is not None:
                check_address(getattr(self, name))
        set_fields(
            self,
            count=_check_count("count", self.count),
            grace=_span("grace", self.grace),
            start_timeout=_above_0("start_timeout", self.start_timeout),
            watchdog=_above_0("watchdog", self.watchdog, "or None"),
            max_age=_above_0("max_age", self.max_age, "or None"),
        )
        if self.max_memory is not None:
            size = whole("max_memory", self.max_memory, 1, LARGEST_MEMORY, "or None")
            set_fields(self, max_memory=size)


def check_workers(workers: Any) -> Workers:
    """Return the argument `workers` of `serve` as a value.

    Raises:
        TypeError, ValueError: it is neither a number, ``"auto"`` nor `Workers`.
    """
    if isinstance(workers, Workers):
        return workers
    return Workers(_check_count("workers", workers, ", 'auto' or a pymux.Workers"))


def _check_count(name: str, count: Any, more: str = " or 'auto'") -> Any:
    if isinstance(count, str):
        if count == "auto":
            return count
        raise ValueError(f"{name} is {shown(count)}; an int{more} is needed")
    return whole(name, count, 1, MOST_WORKERS, more.removeprefix(" "))


def _span(name: str, value: Any) -> float:
    span = duration(name, value)
    if span is None:
        raise TypeError(f"{name} is None; 0 or more seconds are needed")
    return min(span, LONGEST)


def _above_0(name: str, value: Any, needed: str = "") -> float | None:
    """Seconds above 0; None, if `needed` says so."""
    if value is None and needed:
        return None
    span = _span(name, value)
    if not span:
        more = f" {needed}" if needed else ""
        raise ValueError(f"{name} is {shown(value)}; seconds above 0{more} are needed")
    return span
