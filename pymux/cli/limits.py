"""`--limit NAME=VALUE`, for every field of `Limits`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from ..values.limits import Limits
from .numbers import digits, finite
from .words import quoted

__all__ = ["KNOWN", "NAMES", "limits_from", "parse_limit"]

NONE = "none"  # on the command line: no such limit


def _number(text: str) -> Any:
    found = digits(text)
    if found is None:
        raise ValueError
    return found


def _seconds(text: str) -> Any:
    found = finite(text)
    if found != found:  # nan
        raise ValueError
    return found


def _keepalive(text: str) -> Any:
    parts = tuple(_number(part) for part in text.split(","))
    if len(parts) != 3:
        raise ValueError
    return parts


# For each type of a field: a function that reads it, its unit, and what it is in words.
KINDS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "int": (_number, "BYTES", "a number of bytes"),
    "int | None": (_number, "N|none", "a number or none"),
    "float | None": (_seconds, "SECONDS|none", "a number of seconds or none"),
    "tuple[int, int, int] | None": (
        _keepalive,
        "IDLE,INTERVAL,COUNT|none",
        "seconds of silence, seconds between probes and a number of probes, or none",
    ),
}
SIZE = (_number, "BYTES|none", "a number of bytes or none")
SIZES = {"send_buffer": SIZE, "notsent_lowat": SIZE}  # other numbers count things
FIELDS = {
    field.name: SIZES.get(field.name, KINDS[str(field.type)])
    for field in fields(Limits)
}
NAMES = list(FIELDS)
KNOWN = ", ".join(f"{name}={unit}" for name, (_, unit, _) in FIELDS.items())


def parse_limit(text: str) -> tuple[str, Any]:
    """Read `NAME=VALUE`, where NAME is a field of `Limits`.

    Raises:
        argparse.ArgumentTypeError: there is no such limit, or its value is no value.

    Example:
        >>> parse_limit("idle_timeout=2.5")
        ('idle_timeout', 2.5)
        >>> parse_limit("keepalive=60,10,5")
        ('keepalive', (60, 10, 5))
    """
    name, equals, value = text.partition("=")
    if name not in FIELDS:
        raise argparse.ArgumentTypeError(
            f"unknown limit {quoted(text)} (known: {KNOWN})"
        )
    read, unit, words = FIELDS[name]
    if value == NONE and unit.endswith(f"|{NONE}"):
        return name, None
    try:
        return name, read(value)
    except ValueError:
        given = quoted(value) if equals else "without a value"
        raise argparse.ArgumentTypeError(
            f"{name} is {given}; {words} is needed, as in {name}={_example(name)}"
        ) from None


def _example(name: str) -> str:
    value = getattr(Limits(keepalive=(60, 10, 5)), name)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is None:
        return "65536" if name in SIZES else "60"
    return f"{value:g}" if value < 1000 else str(value)


def limits_from(given: Iterable[tuple[str, Any]]) -> Limits:
    """Make the limits of a server.

    Args:
        given: pairs of a name and a value.

    Raises:
        ValueError: a limit is given twice, or is out of range.
    """
    values: dict[str, Any] = {}
    for name, value in given:
        if name in values:
            raise ValueError(f"the limit {name} is given twice")
        values[name] = value
    return Limits(**values)
