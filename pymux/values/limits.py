"""What a connection may use: a frozen value, to share and keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import LARGEST, duration, set_fields, whole

__all__ = ["Limits"]


def _keepalive(value: Any) -> tuple[int, int, int] | None:
    """TCP's three figures, in the range that every OS takes."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise TypeError(
            f"keepalive is {value!r}; (idle, interval, count) or None is needed, "
            "like (60, 10, 5)"
        )
    idle, interval, count = value
    return (
        whole("keepalive's idle", idle, 1, 32767),
        whole("keepalive's interval", interval, 1, 32767),
        whole("keepalive's count", count, 1, 127),
    )


@dataclass(frozen=True)
class Limits:
    """What the connections of a listener, or an outgoing one, may use.

    All of a server's memory is then at most, in bytes::

        4 MiB                                # the mux, Python, the allocator
        + 5 * (arena_size + 20 * max_messages)           # batches
        + arena_size + 100 * max_messages    # the messages of one, as objects
        + the largest message + 2 * the answers to one batch
        + connections * (
            256, or 700 with a coroutine
            + max(max_output, its answers to one batch) * 17 / 16   # queued
            + the largest answer + 128 KiB
            + max(max_size + 68 KiB, arena_size)         # not yet a message
            + high_water + arena_size)       # messages a coroutine has not taken

    of which a connection that is idle has the first line only. Batches whose
    views are kept (`Stats.arenas_held`) come on top, as does what handlers
    keep. `Stats.buffers` is what is queued and unfinished just now.

    Args:
        max_connections: open at once, of a listener; then accepting pauses and
            peers wait in the backlog. None: as many as there are descriptors.
            Connections that were closed here, and whose peer has all of it to
            receive yet or has not ended, are counted apart, up to the same
            number. Where there are more, the oldest of those whose peer has
            acknowledged everything is closed.
        high_water: bytes of queued output over which reading pauses.
        low_water: bytes under which it goes on; at most `high_water`.
        max_output: bytes of queued output; what would pass it ends the
            connection with `ENOBUFS`. Output that finds the queue empty is
            taken whatever its size, and so are the answers to a batch: what
            is sent to a connection while messages of its own are dispatched,
            or while its coroutine has not answered them.
        idle_timeout: seconds in which nothing was received and nothing taken
            by the kernel, then `ETIMEDOUT`; None: for ever. Where the kernel
            has output that the peer has not acknowledged, it has half as long
            again to acknowledge some of it. The clock stands
            while the peer waits for this side: while reading is paused, bytes
            have arrived that are not read yet, or a coroutine has a message
            that it has not answered.
        close_timeout: seconds without progress in which `close()` waits to
            flush and to hear the peer's end, then the connection is reset with
            `ETIMEDOUT`; None: for ever. Progress is a byte taken by the kernel
            or acknowledged by the peer, not one that the peer sends. (Where
            the system does not tell what is acknowledged, as Windows, only
            the former.)
        keepalive: TCP's (idle, interval, count), ints: after `idle` seconds
            of silence the kernel asks every `interval` seconds whether the
            peer is still there; when `count` in a row were in vain, or bytes
            sent lay about as long unacknowledged or untaken, `ETIMEDOUT`. So
            a peer that vanished is noticed within idle + interval * count
            seconds, as exact as the kernel's timers are. None: no asking.
            Unix sockets need none.

    Raises:
        TypeError, ValueError: a limit that cannot be.

    >>> Limits(idle_timeout=60, keepalive=(60, 10, 5)).high_water
    65536
    """

    max_connections: int | None = None
    high_water: int = 65536
    low_water: int = 16384
    max_output: int = 16777216
    idle_timeout: float | None = None
    close_timeout: float | None = 30.0
    keepalive: tuple[int, int, int] | None = None

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        high_water: int = 65536,
        low_water: int = 16384,
        max_output: int = 16777216,
        idle_timeout: float | None = None,
        close_timeout: float | None = 30.0,
        keepalive: tuple[int, int, int] | None = None,
    ) -> None:
        if max_connections is not None:
            max_connections = whole(
                "max_connections", max_connections, 1, LARGEST, "or None"
            )
        most = 2**62
        high_water = whole("high_water", high_water, 0, most)
        low_water = whole("low_water", low_water, 0, most)
        if low_water > high_water:
            raise ValueError(
                f"low_water is {low_water}; it must be at most high_water, {high_water}"
            )
        set_fields(
            self,
            max_connections=max_connections,
            high_water=high_water,
            low_water=low_water,
            max_output=whole("max_output", max_output, 1, most),
            idle_timeout=duration("idle_timeout", idle_timeout),
            close_timeout=duration("close_timeout", close_timeout),
            keepalive=_keepalive(keepalive),
        )


def check_limits(limits: Any) -> None:
    """Raise TypeError for what is neither limits nor None."""
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits is {limits!r}; a pymux.Limits or None is needed")
