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
from .client import Client

__all__ = ["connect"]

OBJECTS = Made()


def connect(
    address: Connectable,
    *,
    framing: Framing | None = None,
    timeout: float | None = None,
) -> Client:
    """Connect to a server and return a blocking client.

    Args:
        address: `(host, port)`, the path of a Unix socket, a URL or an `Endpoint`.
        framing: how messages are cut from the stream; None is `Raw()`. A
            `Splitter` is refused.
        timeout: seconds that connecting may take, and the default for each `send`
            and `recv` of the client. None waits for ever.

    Returns:
        A `Client`, connected.

    Raises:
        TimeoutError: the connection was not made in time.
        OSError: the connection was not made. The subclass tells the cause, as
            ConnectionRefusedError or FileNotFoundError.
        ValueError: the address is malformed, the timeout is negative, or an option
            of the endpoint cannot apply: a client takes no handler and no limits.
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
    settings = connect_settings(address, framing=framing, refuse=("handler", "limits"))
    timeout = duration("timeout", timeout)
    if isinstance(settings.framing, Splitter):
        raise TypeError(
            f"framing is {settings.framing!r}; a blocking client keeps messages as "
            "bytes: receive with Raw() and call the parser yourself"
        )
    client = None
    try:
        client = Client(mux_with(Mux, partial(SmallEngine, OBJECTS)), timeout)
        client._connect(settings)
        return client
    except BaseException:
        if client is not None:
            client._give_up()
        raise
