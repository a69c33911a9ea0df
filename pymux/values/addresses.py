"""Addresses as users write them: checked, not resolved."""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import Any

from .checks import whole

__all__ = [
    "Address",
    "check_address",
    "format_address",
    "host_and_port",
    "is_numeric",
    "socket_path",
]

Address = str | os.PathLike[str] | tuple[Any, ...]

_BSD = sys.platform == "darwin" or "bsd" in sys.platform  # a shorter sun_path

_LOOKS_LIKE_HOST_AND_PORT = re.compile(r"[^/\0]*:[^/\0]*\Z")


def socket_path(address: str | os.PathLike[str]) -> bytes:
    """The path of a Unix socket in bytes; raises for what can never be one."""
    path = os.fspath(address)
    if not isinstance(path, str):
        raise TypeError(f"address is {address!r}; (host, port) or a str path is needed")
    if not path:
        raise ValueError("address is ''; (host, port) or a path is needed")
    if _LOOKS_LIKE_HOST_AND_PORT.match(path):
        host, _, port = path.rpartition(":")
        raise ValueError(
            f"address {path!r} is a str, which is a Unix socket's path; "
            f"for TCP give ({host.strip('[]')!r}, {port or 'port'}), "
            f"or './{path}' for a path"
        )
    encoded = os.fsencode(path)
    if b"\0" in encoded[1:]:
        raise ValueError(
            f"address {path!r} has a NUL inside; only a leading one may be"
        )
    if not encoded[0] and not sys.platform.startswith("linux"):
        raise ValueError(f"address {path!r} is an abstract name, which only Linux has")
    room = (104 if _BSD else 108) - (encoded[0] != 0)
    if len(encoded) > room:
        raise ValueError(
            f"the Unix socket path {path!r} has {len(encoded)} bytes; "
            f"at most {room} fit"
        )
    return encoded


def host_and_port(address: tuple[Any, ...]) -> tuple[str, int]:
    """The host, with its scope, and the port of an address; raises for no such."""
    if len(address) not in (2, 3, 4):
        raise ValueError(f"address is {address!r}; (host, port) is needed")
    host, port = address[:2]
    if not isinstance(host, str):
        raise TypeError(f"the host is {host!r}; a str is needed")
    port = whole("the port", port, 0, 65535)
    if "\0" in host:
        raise ValueError(f"the host is {host!r}; it must not hold a NUL")
    more = [whole("flow or scope", part, 0, 2**32 - 1) for part in address[2:]]
    if len(more) == 2 and more[1] and "%" not in host:
        host = f"{host}%{more[1]}"
    return host or "0.0.0.0", port


def check_address(address: Any) -> None:
    """Raise for what can never be an address. Names are not resolved."""
    if isinstance(address, tuple):
        host_and_port(address)
    elif isinstance(address, (str, os.PathLike)):
        socket_path(address)
    else:
        raise TypeError(f"address is {address!r}; (host, port) or a path is needed")


def is_numeric(address: Any) -> bool:
    """Whether an address is known without asking anybody for a name."""
    if not isinstance(address, tuple):
        return True
    host, port = host_and_port(address)
    try:
        socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def format_address(address: Any) -> str:
    """An address as the command line writes it: HOST:PORT or unix:PATH."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"
    return "unix:" + str(os.fspath(address)).replace("\0", "@")
