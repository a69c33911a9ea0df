"""Who reads a file of pages: no process that counts there is asked or held up."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from typing import Any

from ..engine.figures import fence
from .fields import MOMENT, NOW, POWERS, SUM, Place
from .files import is_live, live_files, open_file
from .layout import (
    BACKEND,
    CHANGES,
    HEAD_WORDS,
    KIND,
    LIVE,
    PAGE_WORDS,
    PAST,
    PID,
    SLOT,
    STARTED,
    Header,
    figure,
    read_header,
)

__all__ = ["Figures", "NoFigures", "Reader", "read_slots"]

Figures = dict[str, Any]

PATIENCE = 1.0  # seconds that a change of a slot may take


class NoFigures(Exception):
    """There is no file of figures, or it cannot be read: its text says why."""


def newest() -> str:
    """Return the file of this user's server that has started last.

    Raises:
        NoFigures: there is none.
    """
    found = []
    for path in live_files():
        with contextlib.suppress(NoFigures), Reader(path) as reader:
            found.append((reader.header.started, path))
    if not found:
        raise NoFigures("no server of this user shows its figures here; name its file")
    return max(found)[1]


class Reader:
    """Reads a file of pages.

    Args:
        path: of the file; None is the newest one of this user's live processes.

    Attributes:
        path: of the file.
        header: what its page 0 says.

    Raises:
        NoFigures: there is no such file, or it is none of figures.
    """

    path: str
    header: Header

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            path = newest()
        self.path = path
        self._map: Any = None
        try:
            self._fd = open_file(path)
        except OSError as error:
            raise NoFigures(f"{path}: {error.strerror}") from None
        try:
            self._map = self._mapped()
            self.header = read_header(self._map)
        except (OSError, ValueError) as error:
            self.close()
            raise NoFigures(f"{path}: {error}") from None

    def _mapped(self) -> mmap.mmap:
        size = os.fstat(self._fd).st_size
        if not size:
            raise ValueError("no file of figures")
        return mmap.mmap(self._fd, size, access=mmap.ACCESS_READ)

    def is_live(self) -> bool:
        """True if the process that has made the file, or a worker of it, lives."""
        return is_live(self._fd)

    def read(self) -> list[Figures]:
        """Return the figures of each slot: see `read_slots`.

        Raises:
            NoFigures: the file was cut short.
        """
        size = os.fstat(self._fd).st_size
        if size < len(self._map):
            raise NoFigures(f"{self.path}: the file was cut short")
        if size > len(self._map):
            before, self._map = self._map, self._mapped()
            before.close()
        return read_slots(self._map, self.header.places)

    def close(self) -> None:
        """Close the file."""
        if self._map is not None:
            self._map.close()
        os.close(self._fd)

    def __enter__(self) -> Reader:
        """Return the reader; the end of the `with` block closes the file."""
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def read_slots(mapped: mmap.mmap, places: list[Place]) -> list[Figures]:
    """Return the figures of each slot, in order.

    Args:
        mapped: the file, of which whole pages are read.
        places: where the figures stand.

    Returns:
        For each slot a dictionary: `worker`, the slot's number; `processes`, one
        dictionary for each process that counts for the slot now, the oldest first
        (pid 0: it has just been started); and the figures by name. A counter is that
        of all processes of the slot, also of those that have ended. A histogram is a
        list.
    """
    with memoryview(mapped) as whole:
        size = len(whole) // 8 // PAGE_WORDS * PAGE_WORDS
        with whole[: size * 8].cast("Q") as words:
            pages = range(1, size // PAGE_WORDS)
            past = {
                words[page * PAGE_WORDS + SLOT]: page
                for page in pages
                if words[page * PAGE_WORDS + KIND] == PAST
            }
            return [
                _read_slot(words, slot, past[slot], pages, places)
                for slot in sorted(past)
            ]


def _read_slot(
    words: memoryview[int], slot: int, past: int, pages: range, places: list[Place]
) -> Figures:
    """Read one slot, once more if it has changed meanwhile."""
    by = time.monotonic() + PATIENCE
    at = past * PAGE_WORDS + CHANGES
    while True:
        before = words[at]
        fence()
        found = _add_up(words, slot, past, pages, places)
        fence()
        # The process that changes the slot may be gone, or stopped.
        if (words[at] == before and not before & 1) or time.monotonic() > by:
            return found
        time.sleep(0.0001)


def _add_up(
    words: memoryview[int], slot: int, past: int, pages: range, places: list[Place]
) -> Figures:
    live = [
        page
        for page in pages
        if words[page * PAGE_WORDS + KIND] == LIVE
        and words[page * PAGE_WORDS + SLOT] == slot
    ]
    found: Figures = {
        "worker": slot,
        "processes": sorted(
            (_process(words, page, places) for page in live),
            key=lambda one: float(one["started"]),
        ),
    }
    for name, kind, word, count in places:
        if kind in (SUM, NOW):
            of = live if kind == NOW else [past, *live]
            found[name] = sum(words[figure(page, word)] for page in of) % 2**64
        elif kind == POWERS:
            rows = [
                words[figure(page, word) : figure(page, word + count)].tolist()
                for page in (past, *live)
            ]
            found[name] = [sum(column) % 2**64 for column in zip(*rows)]
    return found


def _process(words: memoryview[int], page: int, places: list[Place]) -> Figures:
    """Return what a page says of the process that counts there."""
    head = words[page * PAGE_WORDS : page * PAGE_WORDS + HEAD_WORDS]
    name = struct.pack("=2Q", *head[BACKEND : BACKEND + 2]).rstrip(b"\0")
    now = time.monotonic_ns()
    moments = {
        one.name: words[figure(page, one.word)] for one in places if one.kind == MOMENT
    }
    since, last = moments.get("in_handler_since", 0), moments.get("last_turn", 0)
    return {
        "pid": head[PID],
        "started": head[STARTED] / 1e9,
        "backend": name.decode("ascii", "replace"),
        "in_handler": max(now - since, 0) / 1e9 if since else 0.0,
        "since_turn": max(now - last, 0) / 1e9 if last else 0.0,
    }
