"""How a file of pages is laid out; and what its first page says.

Page 0 has the version of the layout, and behind it, as text, the name, kind and place
of each figure. So a reader of another version finds what it knows, by its name. Each
other page has a head, then figures, and is free, or live (a process counts there), or
past: what all processes of a slot have counted that are gone.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from ..engine.figures import SIZE
from .fields import Place, places, read_places, write_places

__all__ = [
    "BACKEND",
    "BACKEND_BYTES",
    "CHANGES",
    "FREE",
    "HEAD_WORDS",
    "KIND",
    "LIVE",
    "PAGE",
    "PAGE_WORDS",
    "PAST",
    "PID",
    "SLOT",
    "STARTED",
    "Header",
    "figure",
    "first_page",
    "read_header",
]

PAGE = 4096  # bytes
PAGE_WORDS = PAGE // 8
VERSION = 1
MAGIC = b"pymuxfig"
FIRST = struct.Struct("=8s5Q")
TEXT = 64  # where the text of page 0 begins
HEAD_WORDS = 32  # of each other page, before its figures
FREE, LIVE, PAST = range(3)  # kinds of a page
KIND, SLOT, CHANGES, PID, STARTED, BACKEND = range(6)  # words of a page's head
BACKEND_BYTES = 16  # in two words


class Header(NamedTuple):
    """What page 0 says.

    Attributes:
        pid: the process that has made the file.
        started: when, in seconds of the monotonic clock.
        places: where the figures stand in each other page.
    """

    pid: int
    started: float
    places: list[Place]


def figure(page: int, word: int) -> int:
    """Return which word of the file a word of a page's figures is."""
    return page * PAGE_WORDS + HEAD_WORDS + word


def first_page(pid: int, started: int) -> bytes:
    """Return page 0 of a file whose processes count as this version does.

    Args:
        pid: the process that makes the file.
        started: nanoseconds of the monotonic clock.
    """
    head = FIRST.pack(MAGIC, VERSION, PAGE, HEAD_WORDS, pid, started)
    page = head.ljust(TEXT, b"\0") + write_places(places()).encode()
    assert len(page) < PAGE and HEAD_WORDS * 8 + SIZE <= PAGE
    return page.ljust(PAGE, b"\0")


def read_header(mapped: Any) -> Header:
    """Read page 0.

    Raises:
        ValueError: this is no file of figures, or one of a later layout.
    """
    if len(mapped) < PAGE or mapped[: len(MAGIC)] != MAGIC:
        raise ValueError("no file of figures")
    _, version, page, head_words, pid, started = FIRST.unpack(mapped[: FIRST.size])
    if (version, page, head_words) != (VERSION, PAGE, HEAD_WORDS):
        raise ValueError(f"its layout has version {version}, and not {VERSION}")
    text = bytes(mapped[TEXT:PAGE]).rstrip(b"\0").decode("ascii", "replace")
    found = read_places(text, PAGE_WORDS - HEAD_WORDS)
    return Header(pid, started / 1e9, found)
