"""Addresses as users write them: checked, not resolved.

An address is a tuple (host, port), the path of a Unix socket, or a URL. A `str`
that begins with a scheme and ``://`` is a URL; any other is a path.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from dataclasses import dataclass
from typing import Any, SupportsIndex
from urllib.parse import unquote_to_bytes

from .checks import whole

__all__ = [
    "Address",
    "Url",
    "check_address",
    "check_served",
    "format_address",
    "host_and_port",
    "is_localhost",
    "is_numeric",
    "is_url",
    "parse_url",
    "socket_path",
]

Address = (
    str
    | os.PathLike[str]
    | tuple[str, SupportsIndex]
    | tuple[str, SupportsIndex, SupportsIndex, SupportsIndex]
)
"""What stands for one address: (host, port), a path or a URL."""

NEEDED = "(host, port), a path or a URL is needed"
SERVED = ("tcp", "tls", "unix")  # a call refuses URLs of the other schemes
FORMS = {
    "tcp": "tcp://HOST:PORT",
    "tls": "tls://HOST:PORT",
    "unix": "unix:///PATH or unix://@NAME",
    "udp": "udp://HOST:PORT",
    "ws": "ws://HOST:PORT/PATH",
    "wss": "wss://HOST:PORT/PATH",
}
WEB_PORTS = {"ws": 80, "wss": 443}  # where a URL to connect to names none

_BSD = sys.platform == "darwin" or "bsd" in sys.platform  # a shorter sun_path

_LOOKS_LIKE_HOST_AND_PORT = re.compile(r"[^/\0]*:[^/\0]*\Z")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)\Z", re.DOTALL)
_BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNFIT = re.compile(r"[\x00-\x20\x7f]")  # in no URL; a path has them as %20


def socket_path(address: str | os.PathLike[str]) -> bytes:
    """The path of a Unix socket, encoded.

    Raises:
        TypeError, ValueError: the path can be no socket's.
    """
    path = os.fspath(address)
    if not isinstance(path, str):
        raise TypeError(f"address is {address!r}; (host, port) or a str path is needed")
    if not path:
        raise ValueError("address is ''; (host, port) or a path is needed")
    if _LOOKS_LIKE_HOST_AND_PORT.match(path):
        host, _, port = path.rpartition(":")
        raise ValueError(
            f"address {path!r} is a str, which is a Unix socket's path; "
            f"for TCP give ({host.strip('[]')!r}, {port or 'port'}) or "
            f"'tcp://{path}', or './{path}' for a path"
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
    """The host, with its scope, and the port of an address.

    Raises:
        TypeError, ValueError: the tuple can be no address.
    """
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


@dataclass(frozen=True)
class Url:
    """The parts of a URL, decoded.

    Attributes:
        text: as the user wrote it.
        scheme: one of `FORMS`, in lower case.
        host: a name or a number without brackets; "" where the URL names none.
        port: None where a ws or wss URL names none, and with a Unix socket.
        path: of the Unix socket, with a leading NUL where it is abstract; of a
            ws URL its path and query, as they are sent.
    """

    text: str
    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""

    def address(self, *, listen: bool) -> tuple[str, int] | str:
        """The tuple or path to listen on, or to connect to.

        Raises:
            ValueError: no host to connect to, no port to listen on.
        """
        if self.scheme == "unix":
            return self.path
        port = self.port
        if port is None and not listen:
            port = WEB_PORTS[self.scheme]
        if port is None:
            raise self.error("has no port, which is needed to listen")
        if not self.host and not listen:
            raise self.error("has no host, which is needed to connect")
        return self.host, port

    def error(self, fault: str) -> ValueError:
        """A ValueError that names the URL, its fault and the right form."""
        return _url_error(self.text, fault, FORMS[self.scheme])


def is_url(address: Any) -> bool:
    """Whether an address is a `str` that begins with a scheme and ``://``."""
    return isinstance(address, str) and _URL.match(address) is not None


def parse_url(text: str) -> Url:
    """The parts of a URL. Names are not resolved.

    Args:
        text: a str for which `is_url` is true.

    Raises:
        ValueError: an unknown scheme, or a URL that does not have the scheme's form.

    >>> parse_url("tcp://[fe80::1%eth0]:80").address(listen=False)
    ('fe80::1%eth0', 80)
    >>> parse_url("unix:///run/my%20app.sock").path
    '/run/my app.sock'
    """
    found = _URL.match(text)
    assert found is not None
    scheme, rest = found[1].lower(), found[2]
    if scheme not in FORMS:
        raise ValueError(
            f"address {text!r} has the unknown scheme {scheme!r}; known are "
            f"{', '.join(FORMS)}, and for a path write './{text}'"
        )
    form = FORMS[scheme]
    if _UNFIT.search(rest):
        raise _url_error(
            text, "has a space or a control character, which %XX stands for", form
        )
    if "#" in rest:
        raise _url_error(text, "has a fragment ('#'; %23 stands for the sign)", form)
    web = scheme in WEB_PORTS
    if "?" in rest and not web:
        raise _url_error(text, "has a query ('?'; %3F stands for the sign)", form)
    if scheme == "unix":
        return Url(text, scheme, path=_unix_path(text, rest))
    end = re.search(r"[/?]|\Z", rest)
    assert end is not None
    authority, path = rest[: end.start()], rest[end.start() :]
    if "@" in authority:  # and perhaps a password, which no log is to have
        bare = text.replace(authority, "..." + authority[authority.rindex("@") :])
        raise _url_error(bare, "has a user name", form)
    if path and not web:
        raise _url_error(text, "has a path", form)
    host, port = _authority(text, scheme, authority)
    if web and not path.startswith("/"):
        path = "/" + path
    return Url(text, scheme, host, port, path)


def check_served(url: Url) -> None:
    """Raise ValueError for a URL that no version serves yet."""
    if url.scheme not in SERVED:
        *most, last = (f"{scheme}://" for scheme in SERVED)
        raise ValueError(
            f"address {url.text!r}: this version of pymux does not serve "
            f"{url.scheme}:// yet; it serves {', '.join(most)} and {last}"
        )


def _unix_path(text: str, rest: str) -> str:
    form = FORMS["unix"]
    if not rest or rest == "@":
        raise _url_error(text, "has no path", form)
    if rest[0] not in "/@":
        raise _url_error(text, f"has the host {rest.partition('/')[0]!r}", form)
    path = os.fsdecode(_decoded(text, os.fsencode(rest.removeprefix("@")), form))
    path = "\0" + path if rest[0] == "@" else path
    socket_path(path)
    return path


def _authority(text: str, scheme: str, authority: str) -> tuple[str, int | None]:
    form = FORMS[scheme]
    host, colon, digits = authority.rpartition(":")
    if not colon or digits.endswith("]"):
        host, colon, digits = authority, "", ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1].replace("%25", "%")
        try:
            socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        except OSError:
            fault = f"has {host!r} in brackets, which is no IPv6 address"
            raise _url_error(text, fault, form) from None
    elif ":" in host or "[" in host or "]" in host:
        fault = "has an IPv6 address without brackets, like [::1], around it"
        raise _url_error(text, fault, form)
    else:
        try:
            host = _decoded(text, host.encode(), form).decode()
        except UnicodeError:
            raise _url_error(text, "has a host that is not UTF-8", form) from None
    if "\0" in host:
        raise _url_error(text, "has a NUL in its host", form)
    if not digits and scheme in WEB_PORTS:
        return host, None
    if not digits:
        raise _url_error(text, "has no port", form)
    if not re.fullmatch("[0-9]{1,5}", digits) or int(digits) > 65535:
        fault = f"has the port {digits!r}, which is no number from 0 to 65535"
        raise _url_error(text, fault, form)
    return host, int(digits)


def _decoded(text: str, part: bytes, form: str) -> bytes:
    """A part of a URL with each %XX as the byte it stands for."""
    if _BARE_PERCENT.search(part):
        fault = "has a '%' without two hexadecimal digits (%25 stands for the sign)"
        raise _url_error(text, fault, form)
    return unquote_to_bytes(part)


def _url_error(text: str, fault: str, form: str) -> ValueError:
    return ValueError(f"address {text!r} {fault}; {form} is needed")


def check_address(address: Any) -> None:
    """Raise TypeError or ValueError if this can be no address.

    Names are not resolved.
    """
    if isinstance(address, tuple):
        host_and_port(address)
    elif is_url(address):
        parse_url(address)
    elif isinstance(address, (str, os.PathLike)):
        socket_path(address)
    else:
        raise TypeError(f"address is {address!r}; {NEEDED}")


def is_localhost(host: str) -> bool:
    """True if a host is this machine by name, whatever a resolver says.

    Source: RFC 6761, section 6.3.
    """
    return host.lower().removesuffix(".") == "localhost"


def is_numeric(address: Any) -> bool:
    """True if no name has to be resolved for an address."""
    if not isinstance(address, tuple):
        return True
    host, port = host_and_port(address)
    if is_localhost(host):
        return True
    try:
        socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def format_address(address: Any) -> str:
    """An address as the command line writes it: HOST:PORT or unix:PATH.

    Args:
        address: a tuple, a path, or a socket that is bound.
    """
    if isinstance(address, socket.socket):
        address = address.getsockname()
    if isinstance(address, bytes):  # as `socket` tells an abstract name
        address = os.fsdecode(address)
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"
    return "unix:" + str(os.fspath(address)).replace("\0", "@")
