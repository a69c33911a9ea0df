"""How a stream is cut into messages. Framings are frozen values, to share and keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .checks import LARGEST, set_fields, whole

__all__ = ["Fixed", "Framing", "LengthPrefix", "Lines", "Raw"]


@dataclass(frozen=True)
class Raw:
    """No framing: a message is what one receive brings, and never empty.

    >>> Raw()
    Raw()
    """


@dataclass(frozen=True)
class Lines:
    """Each message ends with a delimiter, which is not part of the message.

    Args:
        delimiter: 1 to 16 bytes. A trailing ``\\r`` stays with the message
            unless the delimiter is ``b"\\r\\n"``. Replies are not searched.
        max_size: the largest message in bytes; a longer one ends its
            connection with `EMSGSIZE`.

    A stream that ends behind an unterminated line delivers that line.

    Raises:
        TypeError, ValueError: the delimiter or the size is out of range.

    >>> Lines(b"\\r\\n").max_size
    65536
    """

    delimiter: bytes = b"\n"
    max_size: int = 65536

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes):
            raise TypeError(f"delimiter is {self.delimiter!r}; bytes are needed")
        if not 1 <= len(self.delimiter) <= 16:
            raise ValueError(
                f"delimiter {self.delimiter!r} has {len(self.delimiter)} bytes; "
                "1 to 16 are needed"
            )
        set_fields(self, max_size=whole("max_size", self.max_size, 1, LARGEST))


@dataclass(frozen=True)
class LengthPrefix:
    """Each message follows its length.

    Args:
        width: bytes of the length: 1, 2, 4 or 8.
        byteorder: ``"big"`` or ``"little"``.
        max_size: the largest payload in bytes; a longer one, or a length that
            claims one, ends its connection with `EMSGSIZE`.

    Raises:
        TypeError, ValueError: the width, the order or the size is none of these.

    >>> LengthPrefix(2, "little")
    LengthPrefix(width=2, byteorder='little', max_size=1048576)
    """

    width: int = 4
    byteorder: Literal["big", "little"] = "big"
    max_size: int = 1048576

    def __post_init__(self) -> None:
        width: Any = self.width
        if not isinstance(width, str):  # "4" is a wrong choice, not a wrong type
            width = whole("width", width, 1, 8)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width is {width!r}; it must be 1, 2, 4 or 8")
        if self.byteorder not in ("big", "little"):
            raise ValueError(
                f"byteorder is {self.byteorder!r}; it must be 'big' or 'little'"
            )
        size = whole("max_size", self.max_size, 1, LARGEST)
        set_fields(self, width=width, max_size=size)


@dataclass(frozen=True)
class Fixed:
    """Every message has the same size.

    Args:
        size: bytes of every message, both ways.

    Raises:
        TypeError, ValueError: the size is not from 1 to 2,147,483,647.

    >>> Fixed(16).size
    16
    """

    size: int

    def __post_init__(self) -> None:
        set_fields(self, size=whole("size", self.size, 1, LARGEST))


Framing = Raw | Lines | LengthPrefix | Fixed


def check_framing(framing: Any) -> None:
    """Raise TypeError for what is neither a framing nor None."""
    if framing is not None and not isinstance(framing, Framing):
        raise TypeError(
            f"framing is {framing!r}; Raw(), Lines(), LengthPrefix(), Fixed(size) "
            "or None is needed"
        )


def longest_reply(framing: Framing | None) -> int:
    """The length up to which any reply fits this framing without a check."""
    if isinstance(framing, Fixed):
        return -1
    if isinstance(framing, LengthPrefix) and framing.width < 8:
        return int(256**framing.width - 1)
    return 2**63


def check_reply(framing: Framing, size: int) -> None:
    """Raise ValueError where a reply of this size does not fit the framing."""
    if isinstance(framing, Fixed):
        if size != framing.size:
            raise ValueError(
                f"a message of {size} bytes; Fixed({framing.size}) takes {framing.size}"
            )
    elif isinstance(framing, LengthPrefix) and size >= 256**framing.width:
        raise ValueError(
            f"a message of {size} bytes; a length prefix of width {framing.width} "
            f"holds at most {256**framing.width - 1}"
        )
