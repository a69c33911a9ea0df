"""`pymux.connect`: a blocking client that is connected."""

from __future__ import annotations

from functools import partial

from ..engine.small import SmallEngine
from ..mux import Mux
from ..objects.base import mux_with
from ..objects.made import Made
from ..values.checks import duration
from ..values.endpoint import Connectable, connect_settings
from ..values.framing import Framing, Splitter
from ..values.limits import Limits
from ..values.tls import SSLContext
from .client import Client
from .waiting import limits_of_client

__all__ = ["connect"]

OBJECTS = Made()


def connect(
    address: Connectable,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | bool | None = None,
    limits: Limits | None = None,
    server_hostname: str | None = None,
    require_close_notify: bool = True,
    timeout: float | None = None,
) -> Client:
    """Connect to a server and return a blocking client.

    Args:
        address: `(host, port)`, the path of a Unix socket, a URL or an `Endpoint`.
        framing: how messages are cut from the stream; None is `Raw()`. A
            `Splitter` is refused.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext`, for TLS; True is one that verifies with the
            certificates that the system trusts; None is plain text.
        limits: limits of the connection; None is `Limits()`. A client takes
            `idle_timeout`, `message_timeout`, `keepalive`, `send_buffer`,
            `notsent_lowat` and `handshake_timeout`. Its calls bound themselves how
            much is queued and how long a close takes, so other limits are refused. The
            connection may be idle, or a message may be unfinished, between calls too;
            the next call then raises `ConnectionClosed`, with ETIMEDOUT. The time from
            a message to the next call does not count.
        server_hostname: the name that the server's certificate is to have; None takes
            the host of the address. Only with TLS.
        require_close_notify: False takes an end of the stream without TLS'
            close_notify, which may be a cut, for an ordinary end.
        timeout: seconds that connecting may take, TLS included, and the default for
            each `send` and `recv` of the client. None waits for ever; for TLS'
            handshake as long as `Limits.handshake_timeout`.

    Returns:
        A `Client`, connected.

    Raises:
        TimeoutError: the connection was not made in time.
        OSError: the connection was not made. The subclass tells the cause, as
            ConnectionRefusedError or FileNotFoundError, and `filename` the address.
            It is an `ssl.SSLError` where the TLS handshake fails, as an
            `ssl.SSLCertVerificationError` for a certificate that is refused.
        ValueError: the address is malformed, the timeout is negative, or an option
            cannot apply: a client takes no handler, and not every limit.
        TypeError: the framing is a `Splitter`, or an argument has a wrong type.

    Example:
        >>> import pymux
        >>> lines = pymux.Lines()
        >>> with pymux.Server(lambda conn, data: data[::-1], ("127.0.0.1", 0),
        ...                   framing=lines) as server:
        ...     with pymux.connect(server.address, framing=lines, timeout=5) as client:
        ...         client.send(b"stressed")
        ...         client.send(b"drawer")
        ...         client.send_eof()
        ...         list(client)
        [b'desserts', b'reward']
    """
    settings = connect_settings(
        address,
        framing=framing,
        reply_framing=reply_framing,
        ssl=ssl,
        limits=limits,
        server_hostname=server_hostname,
        require_close_notify=require_close_notify,
        refuse=("handler",),
    )
    of_client = limits_of_client(settings.limits)
    timeout = duration("timeout", timeout)
    if isinstance(settings.framing, Splitter):
        raise TypeError(
            f"framing is {settings.framing!r}; a blocking client keeps messages as "
            "bytes: receive with Raw() and call the parser yourself"
        )
    client = None
    try:
        client = Client(mux_with(Mux, partial(SmallEngine, OBJECTS)), timeout)
        client._connect(settings, of_client)
        return client
    except BaseException:
        if client is not None:
            client._give_up()
        raise
