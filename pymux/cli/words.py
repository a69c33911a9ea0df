"""Errors in words, and arguments as the user typed them."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from typing import Any, NamedTuple

from ..engine.os_errors import meaning
from ..values.addresses import format_address
from ..values.errors import BackendUnavailable

__all__ = [
    "Address",
    "Failure",
    "as_typed",
    "describe",
    "explain",
    "in_words",
    "one_line",
    "quoted",
]


class Failure(Exception):
    """Ends the command with one line to the user and exit code 1."""


def as_typed(text: str) -> str:
    """An argument, or a path, as the user typed it.

    Where the locale's encoding is not UTF-8, Python has decoded the bytes of an
    argument otherwise, or byte by byte. A file is opened by Python's text, and the
    user is shown the text that this function returns.
    """
    return os.fsencode(text).decode(errors="surrogateescape")


def quoted(text: str) -> str:
    """An argument in quotes, for an error."""
    return repr(as_typed(text))


def one_line(error: BaseException) -> str:
    """The message of an exception as one line, never an empty one."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


class Address(NamedTuple):
    """An address for pymux, with the text that the user wrote, and of a URL the
    scheme."""

    value: Any
    text: str
    scheme: str = ""


def describe(error: OSError, *addresses: Address) -> str:
    """One line for an error of one of these addresses; the line names the address."""
    if isinstance(error, (BackendUnavailable, socket.gaierror)):
        return one_line(error)
    address = addresses[0]
    for other in addresses:
        if format_address(other.value) == error.filename:
            address = other
    loaded = sys.modules.get("ssl")
    if loaded is not None and isinstance(error, loaded.SSLError):
        return _of_tls(error, address.text)
    if error.errno is None:
        return f"{one_line(error)}: {address.text}"
    reason = meaning(error.errno)
    line = f"{reason[:1].lower()}{reason[1:]}: {address.text}"
    return line + _hint(error.errno, address.value)


def in_words(error: Any) -> str:
    """The reason of an `ssl.SSLError`, as in "wrong version number"."""
    reason: str = error.reason or "unknown reason"
    return reason.replace("_", " ").lower()


# What OpenSSL finds in an answer that is no TLS.
NO_TLS = {
    "BAD_RECORD_TYPE",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNEXPECTED_MESSAGE",  # an echo
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
NO_ISSUER = 18, 19, 20, 21  # X509_V_ERR_: self-signed, or signed by a stranger


def _of_tls(error: Any, where: str) -> str:
    """One line for an `ssl.SSLError` of an address."""
    if hasattr(error, "verify_message"):
        why = str(error.verify_message).rstrip(".")
        hint = " (--ca FILE trusts an issuer)" if error.verify_code in NO_ISSUER else ""
        return f"the certificate of {where} is refused: {why}{hint}"
    if isinstance(error, sys.modules["ssl"].SSLEOFError):
        return f"cut off, with no close_notify of TLS: {where}"
    if error.reason in NO_TLS:
        return f"no TLS, perhaps plain text, comes from {where} ({in_words(error)})"
    if "ALERT" in (error.reason or ""):
        return f"TLS was refused by {where}: {in_words(error)}"
    return (
        f"TLS failed ({in_words(error) if error.reason else one_line(error)}): {where}"
    )


def explain(error: ValueError, *addresses: Address) -> str:
    """One line for a wrong address or wrong input."""
    line = one_line(error)
    for address in addresses:
        line = line.replace(repr(address.value), repr(address.text))
    return line


def _hint(number: int, address: Any) -> str:
    """A hint in brackets for an errno; `""` if none is known."""
    if isinstance(address, tuple):
        low = number in (errno.EACCES, errno.EPERM) and 0 < address[1] < 1024
        return " (ports below 1024 need a privilege)" if low else ""
    if isinstance(address, socket.socket):
        return ""
    if number == errno.EADDRINUSE and not address.startswith("\0"):
        try:
            taken = not stat.S_ISSOCK(os.lstat(address).st_mode)
        except OSError:
            taken = False
        return " (something that is no socket)" if taken else ""
    return ""
