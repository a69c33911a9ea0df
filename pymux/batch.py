"""One harvest's messages, as columns and as Python objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from .connection import Connection, as_bytes
from .log import LARGE_PIECE, Cut, Joined

if TYPE_CHECKING:
    from .arena import Arena
    from .mux import Mux

__all__ = ["Batch"]

LARGEST = 2**62  # no framing that has a limit has one over this


class Batch:
    """What one harvest brought.

    Messages are rows; `opened`, `drained`, `ended` and `closed` are lists of
    what happened to connections. After the next harvest, access through the
    batch raises ValueError; a view that was taken before stays valid, and
    unchanged, for as long as it lives.

    Attributes:
        opened: connections that are new.
        drained: connections whose output fell from over high water to under
            low water.
        ended: connections whose peer ended its stream (`half_open=True` only).
        closed: `(connection, OSError or None)` for every connection that has
            ended, your own closes included; None is an ordinary end.
    """

    __slots__ = (
        "_arena",
        "_conns",
        "_delimiter",
        "_messages",
        "_mux",
        "_others",
        "_replied",
        "_rows",
        "closed",
        "drained",
        "ended",
        "opened",
    )

    opened: list[Connection]
    drained: list[Connection]
    ended: list[Connection]
    closed: list[tuple[Connection, OSError | None]]

    def __init__(
        self,
        mux: Mux,
        arena: Arena,
        rows: int,
        delimiter: bytes | None,
        others: bool,
    ) -> None:
        self._mux = mux
        self._delimiter = delimiter  # stands behind each message, where there is one
        self._arena = arena
        self._rows = rows
        self._others = others  # something but messages
        self._replied = False
        self._conns: list[Connection] | None = None
        self._messages: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        """Most batches open and close nothing: those lists are made when they
        are asked for."""
        if name not in ("opened", "drained", "ended", "closed"):
            raise AttributeError(name)
        setattr(self, name, [])
        return getattr(self, name)

    def __repr__(self) -> str:
        return (
            f"<Batch of {self._rows} messages, {len(self.opened)} opened, "
            f"{len(self.closed)} closed>"
        )

    def __len__(self) -> int:
        return self._rows

    def __bool__(self) -> bool:
        """Whether there is anything in it, messages or not."""
        return self._rows > 0 or self._others

    def __iter__(self) -> Iterator[tuple[Connection, bytes]]:
        """Each message, as (connection, bytes)."""
        self._check()
        return zip(self.conns, self.messages)

    def _check(self) -> None:
        mux = self._mux
        mux._check()
        if mux._batch is not self:
            raise ValueError(
                "this batch is over: the mux has harvested again, or closed; "
                "take what you need before that"
            )

    # --- rows -----------------------------------------------------------

    @property
    def conns(self) -> list[Connection]:
        """The connection of each message: a list, one row a message."""
        if self._conns is None:
            self._check()
        return self._take_conns()

    def _take_conns(self) -> list[Connection]:
        conns = self._conns
        if conns is None:
            table = self._mux._table
            slots = self._arena.slots
            if self._rows == 1:
                conns = [table[slots[0]]]
            else:
                conns = [table[slot] for slot in slots[: self._rows].tolist()]
            self._conns = conns
        return conns

    @property
    def messages(self) -> list[bytes]:
        """Each message's payload: a list of bytes."""
        if self._messages is None:
            self._check()
        return self._take_messages()

    def _take_messages(self) -> list[bytes]:
        messages = self._messages
        if messages is None:
            self._messages = messages = self._cut()
        return messages

    def _cut(self) -> list[bytes]:
        arena, rows = self._arena, self._rows
        if not rows:
            return []
        delimiter = self._delimiter
        end = arena.offsets[rows]
        if rows == 1:
            return [arena.data[: end - len(delimiter or b"")].tobytes()]
        if end > LARGE_MESSAGE * rows:  # each copied once, not twice
            ends = arena.offsets[: rows + 1].tolist()
            gap = len(delimiter or b"")
            data = arena.data
            return [data[a : b - gap].tobytes() for a, b in zip(ends, ends[1:])]
        blob = arena.data[:end].tobytes()
        size = arena.c.uniform
        if 0 < size <= UNIFORM:
            return cut_evenly(blob, size, len(delimiter or b""))
        if delimiter:
            messages = blob.split(delimiter)
            messages.pop()
            return messages
        self._mux._leave_gaps = True
        ends = arena.offsets[: rows + 1].tolist()
        return [blob[a:b] for a, b in zip(ends, ends[1:])]

    def _close_gaps(self) -> None:
        """The columns are asked for: payloads back to back, from now on too."""
        self._check()
        self._mux._leave_gaps = False
        if self._delimiter is not None:
            lib.pmx_close_gaps(self._arena.c)
            self._delimiter = None

    # --- columns --------------------------------------------------------

    @property
    def data(self) -> memoryview:
        """Every payload, back to back, as a read-only view; no copy.

        It stays valid and unchanged for as long as it, a slice or an array of
        it lives.
        """
        self._close_gaps()
        return self._arena.view(
            self._arena.c.data, self._arena.offsets[self._rows] if self._rows else 0
        )

    @property
    def offsets(self) -> memoryview:
        """Where messages begin: int32, one more than there are messages.

        Message k is ``data[offsets[k]:offsets[k + 1]]``.
        """
        self._close_gaps()
        view = self._arena.view(self._arena.c.offsets, 4 * (self._rows + 1))
        return view.cast("i")

    @property
    def ids(self) -> memoryview:
        """The connection's id of each message: uint64."""
        self._check()
        return self._arena.view(self._arena.c.ids, 8 * self._rows).cast("Q")

    # --- replies --------------------------------------------------------

    def _first_reply(self) -> None:
        self._check()
        if self._replied:
            raise RuntimeError("this batch has had its reply; one is all it takes")

    def reply(self, replies: Sequence[Any]) -> None:
        """Answer every message, each with one frame.

        Args:
            replies: one bytes-like or None (no answer) for each message.

        Raises:
            ValueError: the wrong number of replies, or one whose size its
                connection's framing cannot carry; nothing is sent.
            TypeError: a reply that is not bytes-like; nothing is sent.
            RuntimeError: the batch was answered before.
        """
        self._first_reply()
        replies = list(replies)
        if len(replies) != self._rows:
            raise ValueError(
                f"{len(replies)} replies to {self._rows} messages; "
                "give one for each, None for no answer"
            )
        if set(map(type, replies)) - {bytes}:
            replies = [None if one is None else as_bytes(one) for one in replies]
        mux = self._mux
        if mux._reply_limit < LARGEST:
            for conn, reply in zip(self.conns, replies):
                if reply is not None and len(reply) > mux._reply_limit:
                    mux._check_reply(conn.id, len(reply))
        self._replied = True
        if None in replies:
            pairs = [pair for pair in zip(self.conns, replies) if pair[1] is not None]
            mux._log.settle()
            for conn, reply in pairs:
                mux._log.entries += (conn.id, reply)
        elif replies:
            self._answer(replies)

    def _answer(self, replies: list[bytes]) -> None:
        """Log one reply to each message, all of them bytes."""
        log, lines, rows = self._mux._log, self._mux._lines, self._rows
        if rows == 1 or len(replies[0]) > LARGE_PIECE:
            for conn, reply in zip(self.conns, replies):
                log.entries += (conn.id, reply)
            return
        if lines is not None:
            replies.append(b"")
            data = lines.delimiter.join(replies)
            replies.pop()
            if data.count(lines.delimiter) == rows:
                log.special(Joined(self._arena, rows, data, lines))
                return
        sizes = ffi.from_buffer("int64_t[]", array("q", list(map(len, replies))))
        log.special(Cut(self._arena, rows, b"".join(replies), sizes, 0))

    def reply_data(self, data: Any, offsets: Any = None) -> None:
        """Answer every message from one buffer.

        Args:
            data: bytes-like; what it holds now is sent.
            offsets: where answers begin: a list, or a contiguous int32 or
                int64 buffer, one more than there are messages, not falling,
                not necessarily from 0. None cuts `data` as the batch is, and
                `data` must then be as long as `batch.data`.

        Raises:
            ValueError: offsets that do not fit, data of the wrong length, or
                a size that a framing cannot carry; nothing is sent.
            RuntimeError: the batch was answered before.
        """
        self._first_reply()
        data = as_bytes(data)
        rows, arena = self._rows, self._arena
        if offsets is None:
            self._close_gaps()
            size = arena.offsets[rows] if rows else 0
            if len(data) != size:
                raise ValueError(
                    f"data has {len(data)} bytes, the batch {size}; "
                    "give offsets where they differ"
                )
            bounds, width = arena.c.offsets, 4
        else:
            bounds, width = _bounds(offsets, rows, len(data))
        mux = self._mux
        if mux._reply_limit < LARGEST:
            pointer = "int32_t *" if width == 4 else "int64_t *"
            at = ffi.cast(pointer, bounds)
            for k, conn in enumerate(self.conns):
                mux._check_reply(conn.id, at[k + 1] - at[k])
        self._replied = True
        if rows == 1 and offsets is None:
            mux._take_large(self.conns[0].id, data)
        elif rows:
            mux._log.special(Cut(arena, rows, data, bounds, width))


LARGE_MESSAGE = 2048  # mean size from which one copy more costs more than a view
UNIFORM = 256  # messages all of one size up to this are cut by struct
AT_ONCE = 64


@lru_cache(maxsize=64)
def _even(size: int, gap: int) -> Struct:
    return Struct(f"{size}s{gap}x" * AT_ONCE)


def cut_evenly(data: bytes, size: int, gap: int) -> list[bytes]:
    """Messages of one size: many cut by one call, the rest one by one."""
    step = size + gap
    whole = len(data) // (step * AT_ONCE) * step * AT_ONCE
    if not whole:
        return [data[at : at + size] for at in range(0, len(data), step)]
    messages = list(chain.from_iterable(_even(size, gap).iter_unpack(data[:whole])))
    messages += [data[at : at + size] for at in range(whole, len(data), step)]
    return messages


def _bounds(offsets: Any, rows: int, size: int) -> tuple[Any, int]:
    """Offsets as the core takes them: a C array that is ours, and its width."""
    if isinstance(offsets, (list, tuple)):
        width = 8
        try:
            bounds = ffi.new("int64_t[]", list(offsets))
        except (TypeError, OverflowError) as error:
            raise ValueError(f"offsets must be ints: {error}") from None
        count = len(offsets)
    else:
        try:
            view = memoryview(offsets)
        except TypeError:
            raise TypeError(
                f"offsets is a {type(offsets).__name__}; a list, or a buffer of "
                "int32 or int64 is needed"
            ) from None
        code = view.format.lstrip("@=<")
        if view.ndim != 1 or not view.c_contiguous or code not in ("i", "l", "q"):
            raise ValueError(
                f"offsets has format {view.format!r} in {view.ndim} dimensions; "
                "contiguous int32 or int64 in one dimension is needed"
            )
        width, count = view.itemsize, len(view)
        kind = "int32_t[]" if width == 4 else "int64_t[]"
        bounds = ffi.new(kind, count)
        ffi.memmove(bounds, view, width * count)
    if count != rows + 1:
        raise ValueError(f"{count} offsets for {rows} messages; {rows + 1} are needed")
    wrong = lib.pmx_check_offsets(bounds, width, rows, size)
    if wrong >= 0:
        raise ValueError(
            f"offsets[{wrong}] is {bounds[wrong]}; offsets must not fall and must "
            f"stay within 0 and {size}"
        )
    return bounds, width
