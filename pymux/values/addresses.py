"""Addresses: what users write, what the core takes, what it gives back."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from typing import Any, Union

from .._core import ffi
from .checks import whole

__all__ = [
    "Address",
    "check_address",
    "endpoints",
    "format_address",
    "from_core",
    "is_numeric",
]

Address = Union[str, "os.PathLike[str]", tuple[Any, ...]]

_BSD = sys.platform == "darwin" or "bsd" in sys.platform  # a shorter sun_path

_LOOKS_LIKE_HOST_AND_PORT = re.compile(r"[^/\0]*:[^/\0]*\Z")


def _path(address: str | os.PathLike[str]) -> bytes:
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


def _host_and_port(address: tuple[Any, ...]) -> tuple[str, int]:
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


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """What getaddrinfo says, numbers first, since those do not block."""
    name = host.encode() if host.isascii() else host  # bytes need no idna codec
    with contextlib.suppress(OSError):
        return socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = f"the name {host!r} does not resolve: {error.strerror}"
        raise socket.gaierror(error.errno, text) from None
    except UnicodeError as error:
        raise ValueError(f"the host is {host!r}; it is no name: {error}") from None


def check_address(address: Any) -> None:
    """Raise for what can never be an address. Names are not resolved."""
    if isinstance(address, tuple):
        _host_and_port(address)
    elif isinstance(address, (str, os.PathLike)):
        _path(address)
    else:
        raise TypeError(f"address is {address!r}; (host, port) or a path is needed")


def is_numeric(address: Any) -> bool:
    """Whether an address is known without asking anybody for a name."""
    if not isinstance(address, tuple):
        return True
    host, port = _host_and_port(address)
    try:
        socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def endpoints(address: Any, *, listen: bool) -> tuple[Any, int, Any]:
    """A `pmx_endpoint[]`, its length, and what must live as long as it."""
    if isinstance(address, (str, os.PathLike)):
        path = _path(address)
        keep = ffi.new("char[]", path)
        made = ffi.new("pmx_endpoint[1]")
        made[0].path = keep
        made[0].path_size = len(path)
        return made, 1, keep
    check_address(address)
    host, port = _host_and_port(address)
    found = [
        result
        for result in _resolve(host, port)
        if result[0] in (socket.AF_INET, socket.AF_INET6)
    ]
    if listen:
        ipv4 = [result for result in found if result[0] == socket.AF_INET]
        found = (ipv4 or found)[:1]
    made = ffi.new("pmx_endpoint[]", max(len(found), 1))
    keeps = []
    for index, result in enumerate(found):
        name = result[4]
        text = name[0]
        if result[0] == socket.AF_INET6 and name[3] and "%" not in text:
            text = f"{text}%{name[3]}"
        keep = ffi.new("char[]", text.encode("ascii"))
        keeps.append(keep)
        made[index].host = keep
        made[index].port = name[1]
    return made, len(found), keeps


def from_core(c: Any) -> tuple[str, int] | str:
    """What a `pmx_address` says: (host, port), or a path."""
    if c.family == 4:
        return socket.inet_ntop(socket.AF_INET, bytes(c.ip)[:4]), c.port
    if c.family == 6:
        host = socket.inet_ntop(socket.AF_INET6, bytes(c.ip))
        return (f"{host}%{c.scope}" if c.scope else host), c.port
    path = ffi.buffer(c.path, c.path_size)[:] if c.path_size else b""
    return str(os.fsdecode(path))


def format_address(address: Any) -> str:
    """An address as the command line writes it: HOST:PORT or unix:PATH."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"
    return "unix:" + str(os.fspath(address)).replace("\0", "@")
