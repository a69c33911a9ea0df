"""Listening sockets that users give."""

from __future__ import annotations

import socket
from typing import Any

from .._core import lib

__all__ = ["listen_on"]


def listen_on(c: Any, sock: socket.socket, policy: Any, id_: Any) -> int:
    """Listen on a duplicate of a socket; return 0 or -errno. The user closes `sock`."""
    own = sock.dup()
    try:
        return int(lib.pmx_listen_on(c, own.fileno(), policy, id_))
    finally:
        if id_[0]:
            own.detach()  # the core closes the descriptor
        else:
            own.close()
