"""Who writes a file of pages: the process that has made it, and its workers.

The core of a worker counts in a page of its own. Counters never go back: when a
worker has ended, `Pages.bury` adds its counters to its slot's past, and frees its
page. Meanwhile the number of changes in the head of the past is odd. A reader that
finds it odd, or changed, reads that slot again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..engine.figures import fence
from .fields import POWERS, SUM, Place, places
from .files import claim, no_files, runtime_folder
from .layout import (
    BACKEND_BYTES,
    CHANGES,
    FREE,
    HEAD_WORDS,
    KIND,
    LIVE,
    PAGE,
    PAGE_WORDS,
    PAST,
    PID,
    SLOT,
    figure,
    first_page,
    read_header,
)
from .reading import Figures, read_slots

__all__ = ["Page", "PageNumber", "Pages", "attach", "create", "own_file"]

_OWN: list[str] = []  # the file that this process counts in, or has made


def own_file() -> str | None:
    """Return the file that this process counts in, or has made, the last one."""
    return _OWN[-1] if _OWN else None


class PageNumber(NamedTuple):
    """Names a live page for the process that counts there; it can be pickled.

    Attributes:
        path: of the file.
        page: the number of the page.
        slot: whose page it is.
    """

    path: str
    page: int
    slot: int


class Page:
    """A page that this process counts in: see `attach`.

    Attributes:
        fd: the file; -1 once `close` was called.
        offset: bytes before the figures.
    """

    def __init__(self, fd: int, page: int) -> None:
        self.fd: int = fd
        self._begin = page * PAGE
        self.offset: int = self._begin + HEAD_WORDS * 8

    def sign(self, backend: str) -> None:
        """Say which process counts here, and with which backend."""
        if sys.platform == "win32":
            raise no_files()
        name = backend.encode()[:BACKEND_BYTES].ljust(BACKEND_BYTES, b"\0")
        about = struct.pack("=2Q", os.getpid(), time.monotonic_ns()) + name
        os.pwrite(self.fd, about, self._begin + PID * 8)

    def close(self) -> None:
        """Close the file. Who counts in the page already goes on."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Pages:
    """The pages of a server, for the process that has made them: see `create`.

    One thread at a time may call.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str, fd: int, slots: int) -> None:
        self.path: str = path
        self._fd, self._pid = fd, os.getpid()
        self._count, self._map = 0, mmap.mmap(-1, PAGE)
        self._past: dict[int, int] = {}  # slot: page
        self._kept = [one for one in places() if one.kind in (SUM, POWERS)]
        self._grow(first_page(os.getpid(), time.monotonic_ns()))
        for slot in range(slots):
            self._new_past(slot)

    def fileno(self) -> int:
        """Return the descriptor of the file, which a worker may inherit."""
        return self._fd

    def slot(self, number: int) -> PageNumber:
        """Give a new process of a slot a page to count in, for `attach`.

        Raises:
            OSError: there is no room for it.
        """
        if number not in self._past:
            self._new_past(number)
        page = self._find_free()
        with self._changing(number):
            self._set_head(page, LIVE, number)
        return PageNumber(self.path, page, number)

    def bury(self, number: PageNumber) -> None:
        """Keep the counters of a process that has ended, and free its page.

        Call it once for each `slot`.
        """
        live, past = number.page, self._past[number.slot]
        with self._changing(number.slot), memoryview(self._map).cast("Q") as words:
            for one in self._kept:
                for k in range(one.word, one.word + one.words):
                    both = words[figure(past, k)] + words[figure(live, k)]
                    words[figure(past, k)] = both % 2**64
            self._set_head(live, FREE, 0)

    def read(self) -> list[Figures]:
        """Return the figures of each slot: see `reading.read_slots`."""
        return read_slots(self._map, places())

    def mark(self, name: str) -> None:
        """Set a figure to 1 in each page that a process counts in."""
        (word,) = (one.word for one in places() if one.name == name)
        with memoryview(self._map).cast("Q") as words:
            for page in range(1, self._count):
                if words[page * PAGE_WORDS + KIND] == LIVE:
                    words[figure(page, word)] = 1
        fence()

    def close(self) -> None:
        """Remove the file. Those who still count may go on; nobody sees it."""
        if self._fd < 0:
            return
        try:
            if self.path in _OWN:
                _OWN.remove(self.path)
            if self._pid == os.getpid():  # not in a forked child
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
        finally:  # a signal handler may raise in the calls above
            try:
                self._map.close()
            finally:
                fd, self._fd = self._fd, -1
                os.close(fd)

    # --- pages ------------------------------------------------------------------

    def _grow(self, page: bytes) -> int:
        """Add a page; return its number."""
        if sys.platform == "win32":
            raise no_files()
        number = self._count
        # A page that is written has its memory; to touch another one might kill us.
        if os.pwrite(self._fd, page, number * PAGE) != PAGE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        before, self._map = self._map, mmap.mmap(self._fd, (number + 1) * PAGE)
        before.close()  # a map has a descriptor
        self._count += 1
        return number

    def _new_past(self, slot: int) -> None:
        page = self._find_free()
        self._set_head(page, PAST, slot)
        self._past[slot] = page

    def _find_free(self) -> int:
        with memoryview(self._map).cast("Q") as words:
            for page in range(1, self._count):
                if words[page * PAGE_WORDS + KIND] == FREE:
                    return page
        return self._grow(bytes(PAGE))

    def _set_head(self, page: int, kind: int, slot: int) -> None:
        """Make a page one of a kind, empty but for its head."""
        begin = page * PAGE_WORDS
        with memoryview(self._map).cast("Q") as words:
            for k in range(begin, begin + PAGE_WORDS):
                words[k] = 0
            words[begin + SLOT] = slot
            fence()
            words[begin + KIND] = kind

    @contextlib.contextmanager
    def _changing(self, slot: int) -> Iterator[None]:
        """Have readers of a slot wait: its number of changes is odd meanwhile."""
        at = self._past[slot] * PAGE_WORDS + CHANGES
        with memoryview(self._map).cast("Q") as words:
            words[at] |= 1
            fence()
            try:
                yield
            finally:
                fence()
                words[at] += 1


def create(path: str | None = None, slots: int = 1) -> Pages:
    """Make a file of pages, which only this user may read and write.

    Args:
        path: of the file; None is PID.stats in the folder of `runtime_folder`.
        slots: how many workers there are at first.

    Raises:
        OSError: the file cannot be made.
    """
    fd, path = claim(path or os.path.join(runtime_folder(), f"{os.getpid()}.stats"))
    try:
        made = Pages(path, fd, slots)
    except BaseException:
        os.unlink(path)
        os.close(fd)
        raise
    _OWN.append(path)
    return made


def attach(number: PageNumber, fd: int | None = None) -> Page:
    """Return the page that this process counts in, by `Pages.slot`.

    Args:
        number: which page.
        fd: the file, inherited from the process that has made it, which is duplicated;
            None opens the file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the maker of the file counts other figures than this version.
    """
    if sys.platform == "win32":
        raise no_files()
    flags = os.O_RDWR | os.O_CLOEXEC
    own = os.open(number.path, flags) if fd is None else os.dup(fd)
    try:
        head = os.pread(own, PAGE, 0)
        behind = (number.page + 1) * PAGE > os.fstat(own).st_size
        if behind or not _agree(read_header(head).places, places()):
            raise ValueError(f"{number.path} is of another version of pymux")
    except BaseException:
        os.close(own)
        raise
    if number.path not in _OWN:
        _OWN.append(number.path)
    return Page(own, number.page)


def _agree(theirs: list[Place], ours: list[Place]) -> bool:
    """True if one list is the other one's beginning: a later version appends."""
    return all(one == other for one, other in zip(theirs, ours))
