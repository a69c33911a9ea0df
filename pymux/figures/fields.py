"""What each figure is: its kind, and a line about it."""

from __future__ import annotations

from typing import NamedTuple

from ..engine.figures import fields

__all__ = ["KINDS", "Kind", "Place", "places", "read_places", "write_places"]

# What is done with a figure of several processes, and of one that has ended.
SUM = "sum"  # a counter: added up, and kept
NOW = "now"  # a gauge: added up, and forgotten with its process
POWERS = "powers"  # a histogram: a counter for each power of two
MOMENT = "moment"  # nanoseconds of the monotonic clock: of a process alone
OTHER = "other"  # for the process itself


class Kind(NamedTuple):
    """What a figure is.

    Attributes:
        kind: one of SUM, NOW, POWERS, MOMENT, OTHER.
        unit: nanoseconds of a figure that Prometheus has in seconds: "ns"; else "".
        help: a line for an operator.
    """

    kind: str
    unit: str
    help: str


KINDS = {
    "connections": Kind(NOW, "", "Connections that are open."),
    "listeners": Kind(NOW, "", "Listeners that are open."),
    "accepted": Kind(SUM, "", "Connections that were accepted."),
    "connected": Kind(SUM, "", "Outgoing connections that were made."),
    "closed": Kind(SUM, "", "Connections that have ended."),
    "reset": Kind(SUM, "", "Connections that either side has reset."),
    "refused": Kind(SUM, "", "Connections that were accepted and closed at once."),
    "refused_per_peer": Kind(
        SUM, "", "Connections that were closed at once by max_per_peer."
    ),
    "messages_in": Kind(SUM, "", "Messages received."),
    "messages_out": Kind(SUM, "", "Messages accepted for sending."),
    "bytes_in": Kind(SUM, "", "Bytes received."),
    "bytes_out": Kind(SUM, "", "Bytes that the kernel took."),
    "queued": Kind(NOW, "", "Bytes that wait for the kernel."),
    "discarded": Kind(SUM, "", "Bytes for connections that were gone."),
    "harvests": Kind(SUM, "", "Turns."),
    "buffers": Kind(NOW, "", "Bytes of memory for output and unfinished messages."),
    "accept_pauses": Kind(SUM, "", "Pauses of accepting."),
    "shortages": Kind(SUM, "", "Pauses of accepting for want of something."),
    "handshake_pauses": Kind(SUM, "", "Pauses of accepting by max_handshakes."),
    "listeners_full": Kind(
        NOW, "", "Listeners that max_connections or max_handshakes has paused."
    ),
    "outgoing": Kind(NOW, "", "Connections that are open, and were made here."),
    "tls_handshakes": Kind(SUM, "", "TLS handshakes that succeeded."),
    "tls_resumed": Kind(SUM, "", "TLS handshakes that a ticket made short."),
    "tls_failed": Kind(SUM, "", "TLS handshakes that failed."),
    "proxy_refused": Kind(
        SUM, "", "Connections that were refused for want of a PROXY header."
    ),
    "protocol_errors": Kind(
        SUM, "", "Connections that ended by a bad message, or by bad TLS or PROXY."
    ),
    "timeouts_idle": Kind(
        SUM, "", "Connections that ended by idle_timeout or message_timeout."
    ),
    "timeouts_close": Kind(SUM, "", "Connections that ended by close_timeout."),
    "enobufs": Kind(SUM, "", "Connections that ended by max_output."),
    "paused": Kind(NOW, "", "Connections whose reading the handler has paused."),
    "over": Kind(NOW, "", "Connections whose output is over high_water."),
    "ready": Kind(NOW, "", "Connections that the last turn has not reached."),
    "turn_sum": Kind(SUM, "ns", "Time in turns, without the waits."),
    "outside_sum": Kind(SUM, "ns", "Time between turns, mostly in handlers."),
    "gil_ns": Kind(SUM, "ns", "Time that turns waited for the GIL, estimated."),
    "last_turn": Kind(MOMENT, "", "When the last turn began."),
    "in_handler_since": Kind(MOMENT, "", "Since when the handler runs."),
    "moved_in": Kind(SUM, "", "Connections taken over from another process."),
    "moved_out": Kind(SUM, "", "Connections that another process has taken over."),
    "given_away": Kind(SUM, "", "Connections accepted for another worker."),
    "backplane_dropped": Kind(SUM, "", "Messages of groups that no broker got."),
    "turn_rows": Kind(POWERS, "", "Messages of a turn."),
    "turn_ns": Kind(POWERS, "ns", "Time of a turn, without the wait."),
    "outside_ns": Kind(POWERS, "ns", "Time between two turns."),
}


class Place(NamedTuple):
    """Where a figure stands in a page.

    Attributes:
        name: the figure.
        kind: what it is; a reader skips a kind that it does not know.
        word: its first word of 64 bits, behind the page's head.
        words: how many it has.
    """

    name: str
    kind: str
    word: int
    words: int


def places() -> list[Place]:
    """List where this version has its figures."""
    return [
        Place(one.name, KINDS[one.name].kind if one.name in KINDS else OTHER, *one[1:])
        for one in fields()
    ]


def write_places(all_places: list[Place]) -> str:
    """Write places as lines of text, for readers of any version."""
    return "".join(
        f"{one.name} {one.kind} {one.word} {one.words}\n" for one in all_places
    )


def read_places(text: str, words: int) -> list[Place]:
    """Read such lines.

    Args:
        text: the lines.
        words: how many words a page has for figures.

    Raises:
        ValueError: the text is something else.
    """
    found = []
    for line in text.splitlines():
        name, kind, word, count = line.split(" ")
        place = Place(name, kind, int(word), int(count))
        if place.word < 0 or place.words < 1 or place.word + place.words > words:
            raise ValueError(f"{line!r} is beyond the page")
        found.append(place)
    return found
