"""Columns that a user gives for the rows of a batch, checked for the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core import ffi, lib
from .log import OFFSETS32, OFFSETS64

__all__ = ["OFFSETS32", "bounds_of", "ids_where", "mask_of"]


def _items(name: str, given: Any, numbers: str) -> list[Any] | memoryview:
    """Return what a user gives for the rows as a list, or as a view of a buffer.

    Raises:
        TypeError: it is neither a sequence nor a buffer.
    """
    if isinstance(given, (list, tuple)):
        return list(given)
    try:
        return memoryview(given)
    except TypeError:
        if isinstance(given, Sequence) and not isinstance(given, str):
            return list(given)  # a range, or a class of the user's
    raise TypeError(
        f"{name} is a {type(given).__name__}; a sequence, or a buffer of {numbers} "
        "is needed"
    )


def bounds_of(offsets: Any, rows: int, size: int) -> tuple[Any, int]:
    """Check offsets; return a copy of them as a C array, and its cut."""
    view = _items("offsets", offsets, "int32 or int64")
    if isinstance(view, list):
        width, count = 8, len(view)
        try:
            bounds = ffi.new("int64_t[]", view)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"offsets must be ints: {error}") from None
    else:
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
    return bounds, OFFSETS32 if width == 4 else OFFSETS64


def mask_of(mask: Any, rows: int) -> bytes:
    """Check a mask; return a byte for each row, 0 where the mask is false."""
    view = _items("mask", mask, "bool or of bytes")
    if isinstance(view, list):
        flags = bytes(map(bool, view))
    else:
        if view.ndim != 1 or not view.c_contiguous or view.format not in ("?", "B"):
            raise ValueError(
                f"mask has format {view.format!r} in {view.ndim} dimensions; "
                "contiguous bool or bytes in one dimension are needed"
            )
        flags = bytes(view.cast("B"))
    if len(flags) != rows:
        raise ValueError(f"mask has {len(flags)} entries for {rows} messages")
    return flags


def ids_where(ids: Any, flags: bytes) -> Any:
    """Return a copy of a column of ids, with 0 where the flag is 0: the core sends
    nothing to that id."""
    column = ffi.new("uint64_t[]", len(flags))
    ffi.memmove(column, ids, 8 * len(flags))
    at = flags.find(0)
    while at >= 0:
        column[at] = 0
        at = flags.find(0, at + 1)
    return column
