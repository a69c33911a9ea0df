"""Redis' protocol, RESP3, as far as its server speaks it: a reader like hiredis'."""

from __future__ import annotations

from typing import Any

from .backplane import BadTalk

__all__ = ["Reader", "ReplyError", "command"]

LONGEST = 1 << 29  # bytes of a string: Redis' own limit
LONGEST_LINE = 1 << 16
MOST = 1 << 20  # values in one
DEEPEST = 8  # values in values
SHAPES = {b"*": 1, b">": 1, b"~": 1, b"%": 2, b"|": 2}  # values an element
LEAD = b">3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$"


class ReplyError(Exception):
    """An error that the server has replied."""


class _Unfinished(Exception):
    """More bytes are needed: so many in all, if that is known."""


def command(*words: bytes) -> bytes:
    """Return a command for the server."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Reader:
    """Reads replies and pushed messages.

    Messages of one channel mostly come together, so the bytes before the size of the
    next one are known.
    """

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._parts: list[bytes] = []  # received, and not enough of it
        self._have = 0
        self._need = 0  # how many make it worth while to look
        self._lead = LEAD  # no message begins so
        self._channel = b""

    def feed(self, data: bytes) -> None:
        """Take bytes of the server."""
        self._parts.append(data)
        self._have += len(data)
        if self._have >= self._need:
            self._data = b"".join(self._parts)
            self._parts.clear()
            self._at = self._need = 0

    def gets(self) -> Any:
        """Return the next value, or False if its last byte has not come.

        Strings are bytes; arrays, sets, pushed messages and maps, whose keys and values
        alternate, are lists; an error is a `ReplyError`.

        Raises:
            BadTalk: the bytes are not Redis'.
        """
        if self._parts:
            return False
        data, at = self._data, self._at
        if data.startswith(self._lead, at):
            begin = at + len(self._lead)
            end = data.find(b"\r\n", begin)
            if end >= 0 and data[begin:end].isdigit() and end - begin < 10:
                stop = end + 2 + int(data[begin:end])
                if stop + 2 <= len(data):
                    self._at = stop + 2
                    return [b"message", self._channel, data[end + 2 : stop]]
        try:
            value, self._at = self._value(at, 0)
        except _Unfinished as error:
            if len(data) - at > LONGEST_LINE and not error.args[0]:
                raise BadTalk(f"it has sent a line of {len(data) - at} bytes") from None
            rest = data[at:]
            self._parts = [rest]
            self._have, self._need = len(rest), error.args[0] - at
            self._data, self._at = b"", 0
            return False
        if isinstance(value, list) and len(value) == 3 and value[0] == b"message":
            self._channel = channel = value[1]
            if isinstance(channel, bytes):
                self._lead = LEAD % (len(channel), channel)
        return value

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        """Return the value at a place, and the place behind it."""
        data = self._data
        end = data.find(b"\r\n", at)
        if end < 0:
            raise _Unfinished(0)
        kind, text, at = data[at : at + 1], data[at + 1 : end], end + 2
        if kind == b":":
            return self._count(text, -(2**63)), at
        if kind in (b"$", b"=", b"!"):
            size = self._count(text, -1, LONGEST)
            if size < 0:
                return None, at
            stop = at + size
            if len(data) < stop + 2:
                raise _Unfinished(stop + 2)
            found = data[at:stop]
            return (ReplyError(_text(found)) if kind == b"!" else found), stop + 2
        if kind in SHAPES:
            if depth == DEEPEST:
                raise BadTalk("it has sent values in values in values")
            values = []
            for _ in range(self._count(text, -1, MOST) * SHAPES[kind]):
                value, at = self._value(at, depth + 1)
                values.append(value)
            if kind == b"|":  # about the value that follows
                return self._value(at, depth + 1)
            return values, at
        if kind == b"-":
            return ReplyError(_text(text)), at
        if kind == b"_":
            return None, at
        if kind in (b"+", b"#", b",", b"("):
            return text, at
        raise BadTalk(f"it has sent {kind + text[:80]!r}, which Redis does not have")

    def _count(self, text: bytes, least: int, most: int = 2**63) -> int:
        try:
            count = int(text)
            if not least <= count <= most:
                raise ValueError
        except ValueError:
            raise BadTalk(f"it has sent {text[:80]!r} for a number") from None
        return count


def _text(data: bytes) -> str:
    return data[:200].decode(errors="replace")
