"""What a balancer has told of a connection: `Connection.proxy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.names import proxied_by

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["ProxySsl", "ProxyView", "proxy_of"]

HEAD = 16  # bytes in front of the addresses
ADDRESSES = {0: 0, 1: 12, 2: 36, 3: 216}  # bytes of them, by family
ALPN, AUTHORITY, UNIQUE_ID, SSL = 1, 2, 5, 0x20
SSL_TEXTS = {
    0x21: "version",
    0x22: "common_name",
    0x23: "cipher",
    0x24: "signature",
    0x25: "key",
}
OVER_TLS, SHOWS_CERTIFICATE = 1, 2 | 4


@dataclass(frozen=True)
class ProxySsl:
    """The TLS between a client and the balancer, as the balancer tells it.

    Attributes:
        over_tls: the client speaks TLS with the balancer.
        certificate: the client has shown a certificate.
        verified: the balancer has verified it.
        version, cipher: like "TLSv1.3"; None where they are not told.
        common_name: of the client's certificate.
        signature, key: algorithms of the balancer's certificate.
    """

    over_tls: bool = False
    certificate: bool = False
    verified: bool = False
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    signature: str | None = None
    key: str | None = None


class ProxyView:
    """What a PROXY header has told of a connection: `Connection.proxy`.

    It holds values of its own: it stays valid after the connection, in any thread. The
    header is taken apart when it is asked. The balancer vouches for what it says, and
    pymux only for its form.

    Attributes:
        transport: the peer of the socket, which is the balancer, as
            `Connection.peer` is written.

    >>> import pymux
    >>> def hello(conn, data):  # doctest: +SKIP
    ...     return f"{conn.peer[0]} by {conn.proxy.transport[0]}".encode()
    """

    __slots__ = ("_header", "transport")

    def __init__(self, transport: Any, header: bytes) -> None:
        self.transport: Any = transport
        self._header = header  # of version 2, whichever it was

    def __repr__(self) -> str:
        return f"<ProxyView of {self.transport!r}, {len(self.tlvs)} TLVs>"

    @property
    def tlvs(self) -> tuple[tuple[int, bytes], ...]:
        """The TLVs of the header in their order: (type, value). Version 1 has none."""
        return _cut(self._header, HEAD + ADDRESSES[self._header[13] >> 4])

    def _first(self, kind: int) -> bytes | None:
        return next((value for one, value in self.tlvs if one == kind), None)

    @property
    def unique_id(self) -> bytes | None:
        """The id that the balancer has given the connection; None without one."""
        return self._first(UNIQUE_ID)

    @property
    def authority(self) -> str | None:
        """The host name that the client has asked for (SNI); None if it is not told.

        Bytes that are no UTF-8 are shown as ``\\xNN``.
        """
        return _text(self._first(AUTHORITY))

    @property
    def alpn(self) -> bytes | None:
        """The protocol that the client and the balancer have agreed on, or None."""
        return self._first(ALPN)

    @property
    def ssl(self) -> ProxySsl | None:
        """The TLS of the client; None if the balancer tells nothing of it."""
        value = self._first(SSL)
        if value is None or len(value) < 5:
            return None
        try:
            texts = {
                SSL_TEXTS[kind]: _text(text)
                for kind, text in _cut(value, 5)
                if kind in SSL_TEXTS
            }
        except ValueError:
            texts = {}
        certificate = bool(value[0] & SHOWS_CERTIFICATE)
        return ProxySsl(
            over_tls=bool(value[0] & OVER_TLS),
            certificate=certificate,
            verified=certificate and value[1:5] == b"\0\0\0\0",
            **texts,
        )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _cut(value: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    """Cut TLVs: from `at` to the end.

    Raises:
        ValueError: the last one is not whole.
    """
    found = []
    while at < len(value):
        head = value[at : at + 3]
        end = at + 3 + int.from_bytes(head[1:], "big")
        if len(head) < 3 or end > len(value):
            raise ValueError("a TLV is not whole")
        found.append((head[0], value[at + 3 : end]))
        at = end
    return tuple(found)


def proxy_of(engine: Engine, id: int) -> ProxyView | None:
    """Return the view of a connection; None without a header, or after the end."""
    if engine.is_over():
        return None
    engine.check()
    told = proxied_by(engine, id)
    return None if told is None else ProxyView(*told)
