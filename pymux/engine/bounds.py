"""Offsets of the pieces of a user's buffer, for the core."""

from __future__ import annotations

from typing import Any

from .._core import ffi, lib
from .log import OFFSETS32, OFFSETS64

__all__ = ["OFFSETS32", "bounds_of"]


def bounds_of(offsets: Any, rows: int, size: int) -> tuple[Any, int]:
    """Check offsets; return a copy of them as a C array, and its cut."""
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
    return bounds, OFFSETS32 if width == 4 else OFFSETS64
