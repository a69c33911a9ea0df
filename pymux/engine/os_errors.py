"""Errors of the operating system as exceptions."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["aborted", "error_from", "meaning"]

_WINSOCK = 10000  # where its numbers begin; errno has those it shares with C


def meaning(number: int) -> str:
    """What an errno means; on Windows those of Winsock are among them."""
    if sys.platform == "win32" and number >= _WINSOCK:
        import ctypes

        return ctypes.FormatError(number).rstrip(".")
    return os.strerror(number)


def aborted(cause: BaseException | None) -> OSError:
    """The end of a connection that an error on this side has ended."""
    error = OSError(errno.ECONNABORTED, meaning(errno.ECONNABORTED))
    error.__cause__ = cause
    return error


def error_from(number: int) -> OSError | None:
    """The OSError of an errno, of the subclass that fits; None for 0."""
    return OSError(number, meaning(number)) if number else None
