"""Listening sockets that this process has inherited: `fd:N` and `systemd[:NAME]`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from ..systemd import from_systemd
from .addresses import FD, SYSTEMD
from .words import Address, Failure, one_line

__all__ = ["given_sockets"]


@contextlib.contextmanager
def given_sockets(addresses: list[Address]) -> Iterator[list[Address]]:
    """For a block: the addresses, with sockets in the place of those that name some.

    Raises:
        Failure: a descriptor is no listening stream socket, or none came from systemd.
    """
    found: list[Address] = []
    with contextlib.ExitStack() as stack:
        for address in addresses:
            socks = None
            if address.scheme == FD:
                socks = [_inherited(address)]
            elif address.scheme == SYSTEMD:
                socks = _from_systemd(address)
            for sock in socks or ():
                stack.callback(sock.close)
            found += (
                [address] if socks is None else [_checked(address, s) for s in socks]
            )
        yield found


def _inherited(address: Address) -> socket.socket:
    try:
        os.set_inheritable(address.value, False)
        return socket.socket(fileno=address.value)
    except OSError as error:
        raise Failure(f"{address.text}: {one_line(error).lower()}") from None


def _from_systemd(address: Address) -> list[socket.socket]:
    try:
        found = from_systemd(address.value)
    except (LookupError, ValueError) as error:
        raise Failure(str(error.args[0])) from None
    if not found:
        raise Failure(
            "no socket has come from systemd: LISTEN_FDS and LISTEN_PID name none"
        )
    return found


def _checked(address: Address, sock: socket.socket) -> Address:
    """Refuse a socket that a server cannot listen on, in the command line's words."""
    listens = False
    try:
        listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        listens = sock.type == socket.SOCK_STREAM  # the OS does not tell
    if not listens or sock.type != socket.SOCK_STREAM:
        raise Failure(f"{address.text}: not a listening stream socket")
    return Address(sock, address.text)
