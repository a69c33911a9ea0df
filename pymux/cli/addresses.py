"""Addresses as they are written on the command line."""

from __future__ import annotations

import argparse
import sys

from ..values.addresses import check_served, is_url, parse_url
from .numbers import digits
from .words import Address, as_typed

__all__ = ["FD", "SYSTEMD", "parse_address", "parse_listening"]

FD, SYSTEMD = "fd", "systemd"  # schemes of inherited sockets


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT`, `unix:PATH` or a URL.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.

    Example:
        >>> parse_address("[::1]:80").value
        ('::1', 80)
        >>> parse_address("unix:/run/app.sock").value
        '/run/app.sock'
        >>> parse_address("tcp://[::1]:80").value
        ('::1', 80)
    """
    if is_url(text):
        return _parse_url(text)
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path:
            raise argparse.ArgumentTypeError("unix: needs a path, as in unix:/tmp/x")
        if path.startswith("@") and sys.platform == "linux":
            path = "\0" + path[1:]
        elif "/" not in path:
            path = "./" + path  # other code would take a bare name for a host
        return Address(path, as_typed(text))
    text = as_typed(text)
    if is_given(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is an inherited socket, which only serve listens on; "
            f"for a host of that name write tcp://{text}"
        )
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(
            f"{text!r}: an IPv6 address needs brackets, as in [::1]:8093"
        )
    number = digits(port)
    if not colon or number is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of HOST:PORT, [IPV6]:PORT, unix:PATH and a URL"
        )
    if number > 65535:
        raise argparse.ArgumentTypeError(f"port {port} is not within 0 to 65535")
    return Address((host, number), text)


def parse_listening(text: str) -> Address:
    """Read what `parse_address` reads, or `fd:N`, `systemd` or `systemd:NAME`.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    if not is_given(text):
        return parse_address(text)
    return parse_given(as_typed(text))


def _parse_url(text: str) -> Address:
    shown = as_typed(text)
    try:
        # Python's text opens a path; the text that the user typed names a host.
        url = parse_url(text if text[:5].lower() == "unix:" else shown)
        check_served(url)
        address = url.address(listen=True)
    except ValueError as error:
        message = str(error).replace(repr(text), repr(shown))
        raise argparse.ArgumentTypeError(message) from None
    return Address(address, shown, url.scheme)


def is_given(text: str) -> bool:
    """Whether an address has the form of an inherited socket."""
    return text == SYSTEMD or text.startswith((f"{FD}:", f"{SYSTEMD}:"))


def parse_given(text: str) -> Address:
    """Read `fd:N`, `systemd` or `systemd:NAME`; nothing is opened yet.

    Raises:
        argparse.ArgumentTypeError: there is no number of a descriptor, or no name.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == FD:
        number = digits(rest)
        if number is None or number > 2**31 - 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: the number of a descriptor is needed, as fd:3"
            )
        return Address(number, text, FD)
    if colon and not rest:
        raise argparse.ArgumentTypeError(
            f"{text!r}: a name is needed, as systemd:web, or systemd alone"
        )
    return Address(rest or None, text, SYSTEMD)
