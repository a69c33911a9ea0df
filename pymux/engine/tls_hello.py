"""Which server a client has asked for: SNI, in the first message of a handshake.

`ssl` tells it to a callback alone, and a context has one callback, the user's.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["MOST", "server_name_in"]

MOST = 16384  # bytes that are looked at; a hello has some hundreds, or two thousand
HANDSHAKE, CLIENT_HELLO, SERVER_NAME, HOST_NAME = 22, 1, 0, 0


def server_name_in(stream: bytes) -> str | None:
    """Return the name in a client's hello; None if there is none.

    Args:
        stream: what the client has sent first, which OpenSSL has accepted.
    """
    try:
        for kind, body in _extensions(_hello(stream)):
            if kind == SERVER_NAME and body[2] == HOST_NAME:
                return _vector(body, 3, 2)[0].decode("ascii")
    except (IndexError, UnicodeDecodeError):
        pass
    return None


def _hello(stream: bytes) -> bytes:
    """Return the body of the hello, without the records around its parts."""
    found, at = b"", 0
    while at < len(stream) and stream[at] == HANDSHAKE:
        part, at = _vector(stream, at + 3, 2)
        found += part
        if len(found) >= 4 and found[0] == CLIENT_HELLO:
            size = int.from_bytes(found[1:4], "big")
            if len(found) >= 4 + size:
                return found[4 : 4 + size]
    raise IndexError


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the extensions of a hello: the number and the body of each."""
    at = 2 + 32  # the version, and the random bytes
    for width in (1, 2, 1):  # the session, the ciphers, the compressions
        _, at = _vector(hello, at, width)
    all_of_them, _ = _vector(hello, at, 2)
    at = 0
    while at < len(all_of_them):
        kind = int.from_bytes(all_of_them[at : at + 2], "big")
        body, at = _vector(all_of_them, at + 2, 2)
        yield kind, body


def _vector(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """Return the bytes behind a length of so many bytes, and where they end."""
    begin = at + width
    end = begin + int.from_bytes(data[at:begin], "big")
    if begin > len(data) or end > len(data):
        raise IndexError
    return data[begin:end], end
