"""The figures of the core: where each stands in the memory that the core counts in."""

from __future__ import annotations

from typing import NamedTuple

from .._core import ffi, lib

__all__ = ["SIZE", "Field", "fence", "fields"]

SIZE = int(ffi.sizeof("pmx_stats"))  # bytes
WORD = 8  # bytes


class Field(NamedTuple):
    """Where a figure stands.

    Attributes:
        name: of the field of `pmx_stats`.
        word: its first word of 64 bits.
        words: how many words it has: 1, or the buckets of a histogram.
    """

    name: str
    word: int
    words: int


def fields() -> list[Field]:
    """List the figures, in their order."""
    found = []
    for name, field in ffi.typeof("pmx_stats").fields or ():
        words = field.type.length if field.type.kind == "array" else 1
        found.append(Field(name, field.offset // WORD, words))
    return found


def fence() -> None:
    """Keep figures in order: what was read or written before stays before."""
    lib.pmx_fence()
