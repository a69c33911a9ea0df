"""Checks of numbers that users give: whole numbers, and seconds.

A whole number is an object with `__index__`. A number of seconds is an object with
`__float__` or `__index__`, so NumPy's numbers, Decimal and Fraction are taken as int
and float are. A bool is refused: True as a timeout is a mistake.
"""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = [
    "as_int",
    "check_backlog",
    "check_min_messages",
    "check_mode",
    "check_spin",
    "duration",
    "number",
    "seconds",
    "set_fields",
    "shown",
    "whole",
]

NEVER = -1
DEFAULT_BACKLOG = 4096
LARGEST = 2**31 - 1  # bytes of a message: offsets of a batch are int32
LONGEST = 1e9  # seconds, 31 years: a longer span is cut to it


def shown(value: Any) -> str:
    """The repr of a value, cut to 80 characters, for an error message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write thousands of digits
        return f"an int of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def _is_bool(value: Any) -> bool:
    """True for Python's bool and for NumPy's, which is no subclass of it."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def whole(name: str, value: Any, least: int, most: int, needed: str = "") -> int:
    """A whole number in a range, as an int.

    Args:
        name: the argument's name, for the error.
        needed: what the argument may be besides, like "or None".

    Raises:
        TypeError: the value is no whole number.
        ValueError: the value is out of the range.
    """
    count = as_int(value)
    if count is None:
        needed = f"an int from {least} to {most}{needed and ' ' + needed} is needed"
        raise TypeError(f"{name} is {shown(value)}; {needed}")
    if not least <= count <= most:
        raise ValueError(f"{name} is {shown(count)}; it must be from {least} to {most}")
    return count


def as_int(value: Any) -> int | None:
    """A whole number as an int; None of anything else, and of a bool."""
    if type(value) is int:
        return value
    try:
        return None if _is_bool(value) else int(operator.index(value))
    except TypeError:
        return None


def number(name: str, value: Any, needed: str = "seconds are needed") -> float:
    """A real number, as an int or a float.

    Raises:
        TypeError: the value is no number.
        ValueError: the value is nan, or too large for a float.
    """
    kind = type(value)
    if kind is not float and kind is not int:
        real = hasattr(kind, "__float__") or hasattr(kind, "__index__")
        if _is_bool(value) or not real:
            raise TypeError(f"{name} is {shown(value)}; {needed}")
    try:
        as_float = float(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}; {needed}") from None
    except (OverflowError, ValueError):
        raise ValueError(f"{name} is {shown(value)}; {needed}") from None
    if math.isnan(as_float):
        raise ValueError(f"{name} is {shown(value)}; {needed}")
    return value if kind is int else as_float


def duration(name: str, value: Any) -> float | None:
    """Seconds that something may last, 0 or more, or None.

    Raises:
        TypeError: the value is neither a number nor None.
        ValueError: the number is negative, nan, or too large for a float.
    """
    if value is None:
        return None
    span = number(name, value, "0 or more seconds, or None, are needed")
    if span < 0:
        raise ValueError(
            f"{name} is {shown(value)}; it must be 0 or more seconds, or None"
        )
    return span


def seconds(name: str, value: Any) -> int:
    """A `duration` in nanoseconds, rounded up; `NEVER` for None."""
    if type(value) is float and 0 <= value <= LONGEST:
        return math.ceil(value * 1e9)
    span = duration(name, value)
    return NEVER if span is None else math.ceil(min(span, LONGEST) * 1e9)


def misplaced(name: str, value: Any, why: str) -> ValueError:
    """The error of an argument that has no meaning in this call."""
    return ValueError(f"{name} is {shown(value)}, which cannot apply here: {why}")


def check_backlog(backlog: Any) -> int:
    """How many peers may wait to be accepted; None is `DEFAULT_BACKLOG`."""
    if backlog is None:
        return DEFAULT_BACKLOG
    return whole("backlog", backlog, 0, LARGEST, "or None")


def check_mode(mode: Any) -> int:
    """Permissions of a Unix socket's file."""
    return whole("mode", mode, 0, 0o777, "like 0o600")


def check_batch(arena_size: Any, max_messages: Any) -> tuple[int, int]:
    """Check the most bytes and messages of a batch."""
    return (
        whole("arena_size", arena_size, 1, 2**30),
        whole("max_messages", max_messages, 1, 2**24),
    )


def check_spin(spin: Any) -> int:
    """Nanoseconds to poll before blocking, -1 to adapt."""
    if spin == "auto":
        return -1
    if spin is None or isinstance(spin, (str, bool)):
        raise ValueError(f"spin is {spin!r}; 0 or more seconds, or 'auto', is needed")
    try:
        return seconds("spin", spin)
    except ValueError:
        raise ValueError(
            f"spin is {spin!r}; 0 or more seconds, or 'auto', is needed"
        ) from None


def check_min_messages(value: Any) -> int:
    """The number of messages that a harvest waits for, cut to what C can count."""
    return min(whole("min_messages", value, 1, 2**63), 2**32 - 1)


def set_fields(value: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)
