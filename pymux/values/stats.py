"""The figures of a mux."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Stats", "totals"]


class _Ends:
    """Holds `ends`, which is no field: all fields of `Stats` are plain figures."""

    __slots__ = ("ends",)

    ends: dict[int, int]


@dataclass
class Stats(_Ends):
    """Figures of a mux. Counts begin when the mux is made.

    What `serve(workers=)` returns is the sum over all workers, also those that have
    ended: each figure is added up, and so are the counts of `ends`, but `arenas_held`
    is 0. Of what is open, queued or used now, a worker that has ended has none.

    Attributes:
        backend: the backend's name.
        connections: connections that are open now.
        listeners: listeners that are open now.
        accepted: connections that were accepted.
        connected: outgoing connections that were made.
        closed: connections that ended, or could not be made.
        reset: those of `closed` that either side has reset.
        refused: connections that were accepted, and closed at once since the
            backend was full; and those that a `Proxy` does not let in.
        refused_per_peer: connections that were accepted, and closed at once since
            their peer address had `Limits.max_per_peer` already.
        messages_in: frames received.
        messages_out: frames accepted for sending.
        bytes_in: bytes received.
        bytes_out: bytes that the kernel took.
        queued: bytes that wait for the kernel now.
        discarded: bytes accepted for sending whose connection was gone.
        harvests: turns, calls into the core.
        buffers: bytes of memory now used for queued output and unfinished
            frames; an idle connection has none.
        arenas_held: arenas (a batch's memory) that cannot be used again yet,
            since a view of them is alive.
        accept_pauses: how often accepting had to pause.
        tls_handshakes: TLS handshakes that succeeded.
        tls_resumed: those of `tls_handshakes` that a session ticket made short.
        tls_failed: TLS handshakes that failed, or took longer than
            `Limits.handshake_timeout`.
        moved_in: connections that came from another mux, by `Mux.adopt`.
        moved_out: connections that left by `Mux.detach`; not among `closed`.
        given_away: connections that a worker has accepted for another one, before
            anything of them was read. They are not in the worker's `accepted`.
        protocol_errors: those of `closed` by what the peer has sent: a message that
            is cut, or larger than `max_size`; a PROXY header, a handshake or a record
            of TLS that is none.
        timeouts_idle: those of `closed` by `Limits.idle_timeout` or `message_timeout`.
        timeouts_close: those of `closed` by `Limits.close_timeout`.
        enobufs: those of `closed` by `Limits.max_output`.
        proxy_refused: those of `refused` that a `Proxy` does not let in: the peer is
            not trusted, or sent no valid header in time.
        shortages: those of `accept_pauses` for want of descriptors or memory.
        handshake_pauses: those of `accept_pauses` by `Limits.max_handshakes`. The
            others are by `max_connections`.
        backplane_dropped: messages of groups that their broker did not get.
        ends: how many connections were reported in `closed` with each errno, as
            {errno: count}. It is no field, so `asdict` gives plain figures only.

    >>> from pymux import Mux
    >>> with Mux() as mux:
    ...     listener = mux.listen(("127.0.0.1", 0))
    ...     mux.stats().listeners
    1
    """

    backend: str
    connections: int = 0
    listeners: int = 0
    accepted: int = 0
    connected: int = 0
    closed: int = 0
    reset: int = 0
    refused: int = 0
    refused_per_peer: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queued: int = 0
    discarded: int = 0
    harvests: int = 0
    buffers: int = 0
    arenas_held: int = 0
    accept_pauses: int = 0
    tls_handshakes: int = 0
    tls_resumed: int = 0
    tls_failed: int = 0
    moved_in: int = 0
    moved_out: int = 0
    given_away: int = 0
    protocol_errors: int = 0
    timeouts_idle: int = 0
    timeouts_close: int = 0
    enobufs: int = 0
    proxy_refused: int = 0
    shortages: int = 0
    handshake_pauses: int = 0
    backplane_dropped: int = 0

    def __post_init__(self) -> None:
        self.ends: dict[int, int] = {}


COUNTED = tuple(
    name
    for name in Stats.__dataclass_fields__
    if name not in ("backend", "arenas_held")
)


def totals(stats: Stats) -> str:
    """Say in one line what a mux has done."""
    return (
        f"{stats.accepted} connections, "
        f"{stats.messages_in} messages in, {stats.messages_out} out, "
        f"{stats.bytes_in} bytes in, {stats.bytes_out} out, "
        f"{stats.reset} reset, {stats.discarded} bytes discarded"
    )
