"""What a connection may use: a frozen value, to share and keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import LARGEST, duration, set_fields, whole

__all__ = ["Limits"]


def _keepalive(value: Any) -> tuple[int, int, int] | None:
    """TCP's (idle, interval, count), each in the range that every OS takes."""
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


def _size(name: str, value: Any) -> int | None:
    """Check an option of a socket, in bytes; a C int holds it."""
    return None if value is None else whole(name, value, 1, 2**31 - 1, "or None")


@dataclass(frozen=True)
class Limits:
    """What the connections of a listener, or an outgoing one, may use.

    A server's memory is then at most, in bytes::

        4 MiB                                # the mux, Python, the allocator
        + 5 * (arena_size + 20 * max_messages)           # batches
        + arena_size + 100 * max_messages    # the messages of one, as objects
        + the largest message + 2 * the answers to one batch
        + connections * (
            256, or 1,050 with a coroutine
            + max(max_output, its answers to one batch) * 17 / 16   # queued
            + the largest answer + 128 KiB
            + max(max_size + 68 KiB, arena_size)         # not yet a message
            + high_water + arena_size        # messages a coroutine has not taken
            + 200,000 over TLS)

    An idle connection has the first line of its sum only. Batches whose views
    are kept (`Stats.arenas_held`) come on top, as do the objects that handlers
    keep. `Stats.buffers` counts the output that is queued, and the unfinished
    frames, now.

    Args:
        max_connections: connections of a listener that are open at once; then
            accepting pauses and peers wait in the backlog. None: as many as there
            are descriptors. Connections that this side has closed, and whose peer
            has output to receive yet or has not ended, are counted apart, up to
            the same number. Above that number the oldest of those whose peer has
            acknowledged everything is closed.
        max_per_peer: connections of a listener that one peer address may have at
            once. Peers of IPv6 count by /64, the first half of their address, and
            an IPv4-mapped address counts as the one of IPv4. Peers on Unix sockets
            are not counted. One connection more is accepted and closed at once,
            without a row or a call for it, and counted in
            `Stats.refused_per_peer`: other peers wait behind it in the backlog, so
            accepting does not pause. A connection that this side has closed counts
            until its peer has ended too. None: no limit.
        high_water: bytes of queued output over which reading pauses.
        low_water: bytes of queued output under which reading goes on; at most
            `high_water`.
        max_output: bytes of queued output; output that would pass this limit
            ends the connection with `ENOBUFS`. Output that finds the queue empty
            is taken whatever its size, and so are the answers to a batch: the
            output to a connection while messages of its own are dispatched, or
            while its coroutine has not answered them.
        idle_timeout: seconds in which nothing is received and the kernel takes
            nothing; then the connection ends with `ETIMEDOUT`. None: for ever.
            While the kernel has output that the peer has not acknowledged, the
            peer has half as long again to acknowledge some of it. The clock
            stands still while the peer waits for this side: while reading is
            paused, while bytes have arrived that are not read yet, and while a
            coroutine has a message that it has not answered.
        message_timeout: seconds from a frame's first byte to its last; then the
            connection ends with `ETIMEDOUT`, however often a byte arrives. None:
            for ever. The time begins anew with each frame, and there is none
            between frames. The clock stands still while this side reads nothing:
            while reading is paused, while output is over high water, while
            messages wait that a coroutine has not taken, and while a batch keeps
            its handler busy for 0.1 s or longer. Bytes that have arrived are read
            before a frame is given up. With a `Splitter`, whose parser alone knows
            where a message begins, the time counts from the first bytes that made
            no message until there is one. `Raw` has no such limit.
        close_timeout: seconds without progress in which `close()` waits to
            flush and to see the peer's end; then the connection is reset with
            `ETIMEDOUT`. None: for ever. Progress is a byte that the kernel took
            or the peer acknowledged; a byte that the peer sends is none.
            (Windows does not tell what the peer has acknowledged.)
        keepalive: TCP's (idle, interval, count), ints: after `idle` seconds
            of silence the kernel sends a probe every `interval` seconds. The
            connection ends with `ETIMEDOUT` when the peer has not answered
            `count` probes in a row, or has not acknowledged sent bytes for about
            as long. So a peer that vanished is noticed within
            idle + interval * count seconds, as exactly as the kernel's timers
            run. None: no probes. Unix sockets need none.
        send_buffer: bytes of output that the kernel keeps for a connection, its
            `SO_SNDBUF`; the kernel may round it, and Linux doubles it. None: as the
            kernel chooses, and adapts.
        notsent_lowat: bytes of output that the kernel takes for a connection before
            it has sent them, TCP's `TCP_NOTSENT_LOWAT`; what is beyond waits in
            this process, where `queued` counts it. So output that is newer can
            still be put in place of what is old. Linux and macOS have this option;
            elsewhere it has no effect. None: as the kernel chooses.
        handshake_timeout: seconds from accepting a TLS connection to the end of its
            handshake; then it is reset, without a row or a call for it, and counted
            in `Stats.tls_failed`. An outgoing connection, whose time counts from the
            end of TCP's handshake, and an adopted one end with `ETIMEDOUT`. None: for
            ever.
        max_handshakes: TLS connections of a listener whose handshakes are not done;
            then accepting pauses and peers wait in the backlog. Of clients that were
            adopted with one context: then `Mux.adopt` raises BlockingIOError. None:
            no limit.

    Raises:
        TypeError, ValueError: a limit of a wrong type, or out of range.

    >>> Limits(idle_timeout=60, keepalive=(60, 10, 5)).high_water
    65536
    """

    max_connections: int | None = None
    max_per_peer: int | None = None
    high_water: int = 65536
    low_water: int = 16384
    max_output: int = 16777216
    idle_timeout: float | None = None
    message_timeout: float | None = None
    close_timeout: float | None = 30.0
    keepalive: tuple[int, int, int] | None = None
    send_buffer: int | None = None
    notsent_lowat: int | None = None
    handshake_timeout: float | None = 30.0
    max_handshakes: int | None = 1024

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        max_per_peer: int | None = None,
        high_water: int = 65536,
        low_water: int = 16384,
        max_output: int = 16777216,
        idle_timeout: float | None = None,
        message_timeout: float | None = None,
        close_timeout: float | None = 30.0,
        keepalive: tuple[int, int, int] | None = None,
        send_buffer: int | None = None,
        notsent_lowat: int | None = None,
        handshake_timeout: float | None = 30.0,
        max_handshakes: int | None = 1024,
    ) -> None:
        if max_connections is not None:
            max_connections = whole(
                "max_connections", max_connections, 1, LARGEST, "or None"
            )
        if max_per_peer is not None:
            max_per_peer = whole("max_per_peer", max_per_peer, 1, LARGEST, "or None")
        if max_handshakes is not None:
            max_handshakes = whole(
                "max_handshakes", max_handshakes, 1, LARGEST, "or None"
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
            max_per_peer=max_per_peer,
            high_water=high_water,
            low_water=low_water,
            max_output=whole("max_output", max_output, 1, most),
            idle_timeout=duration("idle_timeout", idle_timeout),
            message_timeout=duration("message_timeout", message_timeout),
            close_timeout=duration("close_timeout", close_timeout),
            keepalive=_keepalive(keepalive),
            send_buffer=_size("send_buffer", send_buffer),
            notsent_lowat=_size("notsent_lowat", notsent_lowat),
            handshake_timeout=duration("handshake_timeout", handshake_timeout),
            max_handshakes=max_handshakes,
        )


def check_limits(limits: Any) -> None:
    """Raise TypeError for what is neither limits nor None."""
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits is {limits!r}; a pymux.Limits or None is needed")
