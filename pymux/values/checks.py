"""Numbers as users give them: whole ones, and seconds.

A whole number is what has `__index__`, a number of seconds what has `__float__` or
`__index__`: those of NumPy, Decimal and Fraction as int and float. A bool is
neither: True as a timeout is a mistake.
"""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = [
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
LONGEST = 1e9  # seconds: longer spans are as good as this one, 31 years


def shown(value: Any) -> str:
    """A value for an error message: a huge int has a repr that raises."""
    try:
        text = repr(value)
    except ValueError:
        return f"an int of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def _is_bool(value: Any) -> bool:
    """NumPy's is no subclass of bool."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def whole(name: str, value: Any, least: int, most: int, needed: str = "") -> int:
    """A whole number in a range, as an int.

    Args:
        name: of the argument, for the error.
        needed: what else would do, like "or None".

    Raises:
        TypeError: no whole number.
        ValueError: out of the range.
    """
    if type(value) is not int:
        try:
            if _is_bool(value):
                raise TypeError
            value = operator.index(value)
        except TypeError:
            needed = f"an int from {least} to {most}{needed and ' ' + needed} is needed"
            raise TypeError(f"{name} is {shown(value)}; {needed}") from None
    if not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be from {least} to {most}")
    return int(value)


def number(name: str, value: Any, needed: str = "seconds are needed") -> float:
    """A real number, as an int or a float.

    Raises:
        TypeError: no number.
        ValueError: nan, or too large for a float.
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
        TypeError: no number and not None.
        ValueError: a negative one, nan, or too large for a float.
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
    """The same as nanoseconds, rounded up; `NEVER` for None."""
    if type(value) is float and 0 <= value <= LONGEST:
        return math.ceil(value * 1e9)
    span = duration(name, value)
    return NEVER if span is None else math.ceil(min(span, LONGEST) * 1e9)


def check_backlog(backlog: Any) -> int:
    """How many peers may wait to be accepted; None is `DEFAULT_BACKLOG`."""
    if backlog is None:
        return DEFAULT_BACKLOG
    return whole("backlog", backlog, 0, LARGEST, "or None")


def check_mode(mode: Any) -> int:
    """Permissions of a Unix socket's file."""
    return whole("mode", mode, 0, 0o777, "like 0o600")


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
    """For how many messages a harvest is to wait; so many never come at once."""
    return min(whole("min_messages", value, 1, 2**63), 2**32 - 1)


def set_fields(value: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)
