"""Errors of the operating system as exceptions."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["aborted", "error_from", "meaning"]

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
