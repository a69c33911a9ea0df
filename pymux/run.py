"""`serve` runs a server in this thread until a signal ends the server."""

from __future__ import annotations

from typing import Any

from .server.base import DEFAULT_ADDRESS
from .server.server import Server, run_until_signal
from .values.endpoint import Listenable, Listenables
from .values.stats import Stats

__all__ = ["serve"]


def serve(
    handler: Any,
    address: Listenable | Listenables = DEFAULT_ADDRESS,
    **options: Any,
) -> Stats:
    """Serve in this thread until SIGINT or SIGTERM, then drain.

    `serve` prints nothing. A second signal resets the remaining connections at once,
    and a third raises KeyboardInterrupt in a handler that does not return. A signal
    that the process ignored before stays ignored.

    Args:
        handler: one of the four forms.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these.
        options: further arguments of `Server`.

    Returns:
        The final `Stats`.

    Raises:
        OSError: the server cannot listen on the address.
        TypeError, ValueError: an argument is wrong.
        KeyboardInterrupt, SystemExit: raised by a handler, or in a handler.

    >>> serve(lambda conn, data: data.upper())  # doctest: +SKIP
    """
    return run_until_signal(Server(handler, address, **options))
