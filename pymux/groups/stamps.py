"""The stamp of a message between workers: its sender and its number.

A stamp is a word that each protocol puts before the message in a way of its own:

    0123456789abcdef.57
    |               ||
    sender       kind number

The sender is a group of one worker, which numbers its messages from 1. So who hears
them knows its own, and finds that some were lost. The kinds beside a message tell
how many messages there have been, and carry no data.
"""

from __future__ import annotations

import os

__all__ = [
    "ASK",
    "DIGITS",
    "MESSAGE",
    "SENDER",
    "TELL",
    "new_sender",
]

SENDER = 16  # bytes
DIGITS = 18  # of a number, at most

MESSAGE = b"."
ASK = b"?"  # the sender has (again) begun to hear: the others shall tell their numbers
TELL = b"="  # the sender's last number


def new_sender() -> bytes:
    """Return a name that no other sender has."""
    return os.urandom(SENDER // 2).hex().encode()
