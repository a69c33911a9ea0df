"""`serve`: a server in this thread until a signal ends it."""

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

    It prints nothing. A second signal resets what is left at once, a third is a
    KeyboardInterrupt in whatever handler does not return; one that was ignored
    stays ignored.

    Args:
        handler: one of the four forms.
        address: (host, port), the path of a Unix socket, a URL, an `Endpoint` or a
            listening `socket.socket`; or a list of these.
        options: those of `Server`.

    Returns:
        The final `Stats`.

    Raises:
        OSError: the address cannot be had.
        TypeError, ValueError: an argument that cannot be.
        KeyboardInterrupt, SystemExit: raised by a handler, or in one.

    >>> serve(lambda conn, data: data.upper())  # doctest: +SKIP
    """
    return run_until_signal(Server(handler, address, **options))
