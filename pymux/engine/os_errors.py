"""Errors of the operating system as exceptions."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["aborted", "error_from", "meaning", "number_of", "words_of"]

_WINSOCK = 10000  # Winsock numbers begin here; errno has the others


def meaning(number: int) -> str:
    """Say what an errno, or on Windows a Winsock number, means."""
    if sys.platform == "win32" and number >= _WINSOCK:
        import ctypes

        return ctypes.FormatError(number).rstrip(".")
    return os.strerror(number)


def aborted(cause: BaseException | None) -> OSError:
    """Return the error of a connection that an exception on this side ended."""
    error = OSError(errno.ECONNABORTED, meaning(errno.ECONNABORTED))
    error.__cause__ = cause
    return error


def error_from(number: int) -> OSError:
    """Return the OSError, of the fitting subclass, of an errno."""
    return OSError(number, meaning(number))


def _is_of_tls(error: BaseException) -> bool:
    loaded = sys.modules.get("ssl")
    return loaded is not None and isinstance(error, loaded.SSLError)


def number_of(error: BaseException) -> int | None:
    """Return the errno of an error, if it has one; of an `ssl.SSLError`, whose own
    number is one of OpenSSL's, EPROTO."""
    return errno.EPROTO if _is_of_tls(error) else getattr(error, "errno", None)


def words_of(error: OSError) -> str:
    """Say what an error means."""
    return str(error) if _is_of_tls(error) else meaning(error.errno or 0)
