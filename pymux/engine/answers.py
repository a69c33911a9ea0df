"""The answers to a batch, as columns for the core."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from .._core import ffi
from .arrow import is_array, rows_of
from .bounds import OFFSETS32, bounds_of, ids_where, mask_of
from .log import LENGTHS, Block
from .output import to_bytes

__all__ = [
    "Columns",
    "block_of",
    "check_count",
    "columns_of",
    "columns_of_list",
    "copies_of",
    "gapless",
    "sizes_in",
]

# The answers to each row: all bytes, bounds and their cut, and which rows are
# answered: a byte for each, None for all.
Columns = tuple[bytes, Any, int, bytes | None]


def columns_of(
    data: Any, offsets: Any, mask: Any, rows: int, cut: Callable[[], tuple[Any, int]]
) -> Columns:
    """Check what a user gives as answers to a batch.

    Args:
        data: bytes-like, or an Arrow array.
        offsets: of the answers; None: as the batch is cut.
        mask: which rows are answered; None: all.
        rows: the number of rows.
        cut: returns the offsets of the batch as a C array, and the bytes of its data.

    Raises:
        TypeError, ValueError: something does not fit.
    """
    bounds: Any = None
    nulls: list[int] = []
    if type(data) is not bytes:
        if offsets is None and is_array(data):
            data, bounds, kind, nulls = rows_of(data, rows)
        else:
            data = to_bytes(data)
    if bounds is not None:
        pass
    elif offsets is None:
        bounds, size = cut()
        kind = OFFSETS32
        if len(data) != size:
            raise ValueError(
                f"data has {len(data)} bytes, the batch {size}; "
                "give offsets where they differ"
            )
    else:
        bounds, kind = bounds_of(offsets, rows, len(data))
    flags = None if mask is None else mask_of(mask, rows)
    if nulls:
        answered = bytearray(flags or b"\1" * rows)
        for row in nulls:
            answered[row] = 0
        flags = bytes(answered)
    return data, bounds, kind, flags


def check_count(replies: Any, rows: int) -> None:
    """Raise ValueError if there is not one answer for each row."""
    if len(replies) != rows:
        raise ValueError(
            f"{len(replies)} replies to {rows} messages; "
            "give one for each, None for no answer"
        )


def copies_of(replies: Any) -> list[bytes | None]:
    """Copy a list of answers.

    Raises:
        TypeError: an answer is not bytes-like.
    """
    return [None if reply is None else to_bytes(reply) for reply in replies]


def columns_of_list(copies: list[bytes | None]) -> Columns:
    """Return a list of answers as columns."""
    pieces = [copy or b"" for copy in copies]
    flags = None
    if None in copies:
        flags = bytes(copy is not None for copy in copies)
    bounds = array("q", map(len, pieces)).tobytes()
    return b"".join(pieces), bounds, LENGTHS, flags


def sizes_in(columns: Columns, rows: int) -> set[int]:
    """Return the sizes of the answers."""
    _, bounds, kind, flags = columns
    if kind == LENGTHS:
        sizes = memoryview(bounds).cast("q").tolist()
    else:
        sizes = [b - a for a, b in pairwise(ffi.unpack(bounds, rows + 1))]
    if flags is not None:
        sizes = [size for size, flag in zip(sizes, flags) if flag]
    return set(sizes)


def block_of(columns: Columns, ids: Any, rows: int) -> Block:
    """Return answers as a block of the log, to the rows of these connections."""
    data, bounds, kind, flags = columns
    column = ids if flags is None else ids_where(ids, flags)
    return kind | rows, column, bounds, data, (ids, bounds)


def gapless(ends: Any, gap: int, rows: int) -> Any:
    """Return the offsets that messages have without the gaps behind them."""
    if not gap:
        return ends
    return ffi.new(
        "int32_t[]", [end - gap * k for k, end in enumerate(ffi.unpack(ends, rows + 1))]
    )
