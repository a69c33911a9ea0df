"""What a connection over TLS tells of its handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["TlsView", "view_of"]


class TlsView:
    """What the handshake of a connection over TLS has agreed on: `Connection.tls`.

    A view holds values of its own. It stays valid when the connection has ended, and
    any thread may read it. The names are those of `ssl.SSLObject`'s methods.

    Attributes:
        version: "TLSv1.3" or "TLSv1.2".
        cipher: the name of the cipher, its protocol, and its secret bits.
        alpn: the protocol that ALPN has chosen; None without one.
        server_name: the server's name. An outgoing connection was verified for it; of
            an accepted one it is what the peer has asked for by SNI. None without one.
        session_reused: the handshake was made short by a session ticket.

    >>> import ssl, pymux
    >>> def hello(conn, data):  # doctest: +SKIP
    ...     return f"{conn.tls.version}, {conn.tls.alpn}".encode()
    """

    __slots__ = (
        "_binding",
        "_certificate",
        "_decoded",
        "alpn",
        "cipher",
        "server_name",
        "session_reused",
        "version",
    )

    def __init__(self, made: Any, server_name: str | None) -> None:
        # Private: `made` is an `ssl.SSLObject`, which is only asked here.
        self.version: str = made.version()
        self.cipher: tuple[str, str, int] = made.cipher()
        self.alpn: str | None = made.selected_alpn_protocol()
        self.server_name: str | None = server_name
        self.session_reused: bool = bool(made.session_reused)
        self._certificate: bytes | None = made.getpeercert(True)
        self._decoded: dict[str, Any] | None = made.getpeercert()
        self._binding: bytes | None = made.get_channel_binding("tls-unique")

    def __repr__(self) -> str:
        return f"<TlsView {self.version}, {self.cipher[0]}>"

    def peer_certificate(self, binary: bool = False) -> Any:
        """Return the certificate that the peer has shown.

        Args:
            binary: return it as bytes, in DER, and not as a dict.

        Returns:
            None if the peer has shown none. The dict, as `ssl.SSLObject.getpeercert`
            returns it, is empty where the context does not verify (`ssl.CERT_NONE`).
        """
        return self._certificate if binary else self._decoded

    def channel_binding(self, kind: str = "tls-unique") -> bytes | None:
        """Return the bytes that bind another protocol's login to this connection.

        Args:
            kind: "tls-unique" (RFC 5929), the only one that `ssl` knows.

        Raises:
            ValueError: another kind.
        """
        if kind != "tls-unique":
            raise ValueError(f"kind is {kind!r}; 'tls-unique' is accepted")
        return self._binding


def view_of(engine: Engine, id: int) -> TlsView | None:
    """Return the view of a connection, the same each time; None without TLS, before
    the connection has opened and after its end."""
    if engine.tls is None:
        return None
    engine.check()
    view: TlsView | None = engine.tls.views.get(id)
    made = None if id in engine.opening else engine.tls.object_of(id)
    if view is None and made is not None:
        view = TlsView(made, engine.tls.server_name_of(id))
        engine.tls.views[id] = view
    return view
