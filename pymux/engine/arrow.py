"""Columns of a batch as Arrow arrays, and Arrow arrays as answers, without a copy.

Arrow's PyCapsule interface hands C structs over: a schema and an array, or a stream of
arrays, which here is one. The core fills them (csrc/arrow.c) and destroys their
capsules. Only the capsules themselves are Python's. `ctypes` makes them, since cffi
cannot; it is imported when it is needed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .._core import ffi, lib
from .arena import COUNTS
from .log import OFFSETS32, OFFSETS64

__all__ = ["IDS", "MESSAGES", "export", "export_stream", "is_array", "rows_of"]

IDS = lib.PMX_ARROW_IDS
MESSAGES = lib.PMX_ARROW_MESSAGES
SCHEMA = lib.pmx_arrow_name(lib.PMX_ARROW_SCHEMA)
ARRAY = lib.pmx_arrow_name(lib.PMX_ARROW_ARRAY)
STREAM = lib.pmx_arrow_name(lib.PMX_ARROW_STREAM)
# Formats of columns of bytes, and the widths of their offsets.
WIDTHS = {b"z": 4, b"u": 4, b"Z": 8, b"U": 8}


@cache
def _python() -> tuple[Any, Any]:
    """Return PyCapsule_New and PyCapsule_GetPointer, with addresses as ints."""
    if not COUNTS:
        raise NotImplementedError(
            "Arrow's capsules exist on CPython alone; use batch.data, batch.offsets "
            "and batch.ids, which need no copy either"
        )
    from ctypes import PYFUNCTYPE, c_void_p, cast, py_object, pythonapi

    make = PYFUNCTYPE(py_object, c_void_p, c_void_p, c_void_p)
    look = PYFUNCTYPE(c_void_p, py_object, c_void_p)
    number = cast(pythonapi.PyCapsule_GetPointer, c_void_p).value
    lib.pmx_arrow_capsules(ffi.cast("void *(*)(void *, const char *)", number))
    return make(("PyCapsule_New", pythonapi)), look(("PyCapsule_GetPointer", pythonapi))


def _number(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _capsule(struct: Any, name: Any, destructor: str) -> Any:
    """Return a capsule that owns a struct."""
    if not struct:
        raise MemoryError("no memory for an Arrow array")
    make, _ = _python()
    end = ffi.addressof(lib, destructor)
    return make(_number(struct), _number(name), _number(end))


def export(arena: Any, column: int, rows: int) -> tuple[Any, Any]:
    """Return the capsules of the schema and the array of a column.

    The array keeps the arena's memory until its consumer releases it, or until the
    capsule is dropped with nobody having taken the array.
    """
    _python()
    lease = arena.lend()
    schema, array = lib.pmx_arrow_new_schema(), lib.pmx_arrow_new_array()
    # The structs are filled when they have owners: a signal handler may raise.
    capsules = (
        _capsule(schema, SCHEMA, "pmx_arrow_end_schema"),
        _capsule(array, ARRAY, "pmx_arrow_end_array"),
    )
    lib.pmx_arrow_schema(schema, column)
    if lib.pmx_arrow_array(array, lease, column, rows):
        raise MemoryError("no memory for an Arrow array")
    return capsules


def export_stream(arena: Any, column: int, rows: int) -> Any:
    """Return the capsule of a stream of one array, a column. The stream, and the array
    that its consumer takes, keep the arena's memory as an array does."""
    _python()
    lease = arena.lend()
    stream = lib.pmx_arrow_new_stream()
    capsule = _capsule(stream, STREAM, "pmx_arrow_end_stream")
    if lib.pmx_arrow_stream(stream, lease, column, rows):
        raise MemoryError("no memory for an Arrow stream")
    return capsule


def is_array(data: Any) -> bool:
    """True if an object is an Arrow array.

    Raises:
        TypeError: the object is a stream of Arrow arrays.
    """
    kind = type(data)
    if hasattr(kind, "__arrow_c_array__"):
        return True
    if hasattr(kind, "__arrow_c_stream__"):
        raise TypeError(
            f"a {kind.__name__} is a stream of Arrow arrays; give one array: "
            "to_arrow() of polars' Series, combine_chunks() of pyarrow's ChunkedArray"
        )
    return False


def rows_of(data: Any, rows: int) -> tuple[bytes, Any, int, list[int]]:
    """Return the rows of an Arrow array of bytes or text: their bytes, copied; the
    offsets of these as a C array, from 0 on, and its cut; the indices of null rows.

    Raises:
        TypeError: the array has another type.
        ValueError: the array does not have `rows` rows, or its offsets fall.
    """
    _, look = _python()
    # The capsules release the array when they are dropped.
    capsules = data.__arrow_c_array__()
    schema = ffi.cast("pmx_schema *", look(capsules[0], _number(SCHEMA)))
    array = ffi.cast("pmx_array *", look(capsules[1], _number(ARRAY)))
    format = ffi.string(schema.format)
    width = WIDTHS.get(format)
    if width is None or schema.dictionary:
        raise TypeError(
            f"an Arrow array of format {format.decode()!r} cannot be sent; binary, "
            "large_binary, string or large_string is needed, so cast the array"
        )
    if array.length != rows:
        raise ValueError(
            f"an Arrow array of {array.length} rows for {rows} messages; give one row "
            "for each, null for no answer"
        )
    start = array.offset
    kind, cut = ("int32_t", OFFSETS32) if width == 4 else ("int64_t", OFFSETS64)
    bounds = ffi.new(f"{kind}[]", rows + 1)
    if not rows:  # the array need not have buffers
        return b"", bounds, cut, []
    ends = ffi.cast(f"{kind} *", array.buffers[1]) + start
    first, last = ends[0], ends[rows]
    wrong = lib.pmx_check_offsets(ends, width, rows, max(last, 0))
    if wrong >= 0:
        raise ValueError(
            f"offset {wrong} of the Arrow array is {ends[wrong]}; it falls"
        )
    if first:
        bounds[0 : rows + 1] = [end - first for end in ffi.unpack(ends, rows + 1)]
    else:
        ffi.memmove(bounds, ends, width * (rows + 1))
    copy = b""
    if last > first:
        copy = ffi.buffer(ffi.cast("char *", array.buffers[2]) + first, last - first)[:]
    nulls: list[int] = []
    if array.null_count and array.buffers[0]:
        valid = ffi.cast("uint8_t *", array.buffers[0])
        nulls = [
            row
            for row, bit in enumerate(range(start, start + rows))
            if not valid[bit >> 3] >> (bit & 7) & 1
        ]
    return copy, bounds, cut, nulls
