"""How a stream is cut into messages, and what a connection may use.

All are frozen values: they can be shared, compared and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .._core import ffi, lib
from .checks import duration, seconds, whole

__all__ = ["Fixed", "Framing", "LengthPrefix", "Limits", "Lines", "Raw"]

LARGEST = 2**31 - 1  # offsets of a batch are int32


def _set(what: Any, **values: Any) -> None:
    """Set the fields of a frozen value, which is being made."""
    for name, value in values.items():
        object.__setattr__(what, name, value)


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
class Raw:
    """No framing: a message is whatever one receive brings, never empty.

    >>> Raw()
    Raw()
    """


@dataclass(frozen=True)
class Lines:
    """Messages end with a delimiter, which is not part of them.

    Args:
        delimiter: 1 to 16 bytes. A trailing ``\\r`` stays with the message
            unless the delimiter is ``b"\\r\\n"``. Replies are not searched.
        max_size: the largest message in bytes; a longer one ends its
            connection with `EMSGSIZE`.

    A stream that ends behind an unterminated line delivers that line.

    Raises:
        TypeError, ValueError: a delimiter or a size that cannot be.

    >>> Lines(b"\\r\\n").max_size
    65536
    """

    delimiter: bytes = b"\n"
    max_size: int = 65536

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes):
            raise TypeError(f"delimiter is {self.delimiter!r}; bytes are needed")
        if not 1 <= len(self.delimiter) <= 16:
            raise ValueError(
                f"delimiter {self.delimiter!r} has {len(self.delimiter)} bytes; "
                "1 to 16 are needed"
            )
        _set(self, max_size=whole("max_size", self.max_size, 1, LARGEST))


@dataclass(frozen=True)
class LengthPrefix:
    """Each message comes behind its length.

    Args:
        width: bytes of the length: 1, 2, 4 or 8.
        byteorder: ``"big"`` or ``"little"``.
        max_size: the largest payload in bytes; a longer one, or a length that
            claims one, ends its connection with `EMSGSIZE`.

    Raises:
        TypeError, ValueError: a width, an order or a size that cannot be.

    >>> LengthPrefix(2, "little")
    LengthPrefix(width=2, byteorder='little', max_size=1048576)
    """

    width: int = 4
    byteorder: Literal["big", "little"] = "big"
    max_size: int = 1048576

    def __post_init__(self) -> None:
        width: Any = self.width
        if not isinstance(width, str):  # "4" is a wrong choice, not a wrong type
            width = whole("width", width, 1, 8)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width is {width!r}; it must be 1, 2, 4 or 8")
        if self.byteorder not in ("big", "little"):
            raise ValueError(
                f"byteorder is {self.byteorder!r}; it must be 'big' or 'little'"
            )
        size = whole("max_size", self.max_size, 1, LARGEST)
        _set(self, width=width, max_size=size)


@dataclass(frozen=True)
class Fixed:
    """Every message has the same size.

    Args:
        size: bytes of every message, both ways.

    Raises:
        TypeError, ValueError: a size that cannot be.

    >>> Fixed(16).size
    16
    """

    size: int

    def __post_init__(self) -> None:
        _set(self, size=whole("size", self.size, 1, LARGEST))


Framing = Raw | Lines | LengthPrefix | Fixed


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
        _set(
            self,
            max_connections=max_connections,
            high_water=high_water,
            low_water=low_water,
            max_output=whole("max_output", max_output, 1, most),
            idle_timeout=duration("idle_timeout", idle_timeout),
            close_timeout=duration("close_timeout", close_timeout),
            keepalive=_keepalive(keepalive),
        )


def fill_framing(c: Any, framing: Framing | None) -> None:
    """Write a framing into a `pmx_framing`."""
    if framing is None or isinstance(framing, Raw):
        c.kind = lib.PMX_RAW
    elif isinstance(framing, Lines):
        c.kind = lib.PMX_LINES
        c.width = len(framing.delimiter)
        ffi.memmove(c.delimiter, framing.delimiter, len(framing.delimiter))
        c.max_size = framing.max_size
    elif isinstance(framing, LengthPrefix):
        c.kind = lib.PMX_PREFIX
        c.width = framing.width
        c.little = framing.byteorder == "little"
        c.max_size = framing.max_size
    elif isinstance(framing, Fixed):
        c.kind = lib.PMX_FIXED
        c.max_size = framing.size
    else:
        raise TypeError(
            f"framing is {framing!r}; Raw(), Lines(), LengthPrefix(), Fixed(size) "
            "or None is needed"
        )


def policy(
    framing: Framing | None,
    limits: Limits | None,
    *,
    half_open: bool = False,
    timeout: float | None = None,
) -> Any:
    """A `pmx_policy` from what the user said."""
    if limits is None:
        limits = Limits()
    elif not isinstance(limits, Limits):
        raise TypeError(f"limits is {limits!r}; a pymux.Limits or None is needed")
    c = ffi.new("pmx_policy *")
    fill_framing(c.framing, framing)
    c.max_connections = min(limits.max_connections or 0, 2**32 - 1)
    c.half_open = bool(half_open)
    c.high_water = limits.high_water
    c.low_water = limits.low_water
    c.max_output = limits.max_output
    c.idle_ns = seconds("idle_timeout", limits.idle_timeout)
    c.close_ns = seconds("close_timeout", limits.close_timeout)
    c.connect_ns = seconds("timeout", timeout)
    if limits.keepalive is not None:
        c.keep_idle, c.keep_interval, c.keep_count = limits.keepalive
    return c


def longest_reply(framing: Framing | None) -> int:
    """The length up to which any reply fits this framing without a check."""
    if isinstance(framing, Fixed):
        return -1
    if isinstance(framing, LengthPrefix) and framing.width < 8:
        return int(256**framing.width - 1)
    return 2**63


def framing_of(c: Any) -> Framing:
    """What a `pmx_framing` that limits replies says."""
    if c.kind == lib.PMX_FIXED:
        return Fixed(c.max_size)
    if c.kind == lib.PMX_PREFIX:
        return LengthPrefix(c.width, "little" if c.little else "big", c.max_size)
    return Raw()


def check_reply(framing: Framing, size: int) -> None:
    """Raise ValueError where a reply of this size does not fit the framing."""
    if isinstance(framing, Fixed):
        if size != framing.size:
            raise ValueError(
                f"a message of {size} bytes; Fixed({framing.size}) takes {framing.size}"
            )
    elif isinstance(framing, LengthPrefix) and size >= 256**framing.width:
        raise ValueError(
            f"a message of {size} bytes; a length prefix of width {framing.width} "
            f"holds at most {256**framing.width - 1}"
        )
