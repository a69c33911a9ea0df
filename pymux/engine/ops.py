"""Operations on connections, as the top four bits of an id in the log."""

from __future__ import annotations

from .._core import lib

__all__ = [
    "ABORT",
    "ANSWERED",
    "BEGUN",
    "CLOSE",
    "FAIL",
    "HOLD",
    "KEPT",
    "OWED",
    "PAUSE",
    "RELEASE",
    "RESUME",
    "SEND_EOF",
    "SWITCH",
    "TAKEN",
    "WAITS",
    "WHOLE",
]

SEND_EOF = lib.PMX_SEND_EOF << 60
CLOSE = lib.PMX_CLOSE << 60
FAIL = lib.PMX_FAIL << 60
ABORT = lib.PMX_ABORT << 60
PAUSE = lib.PMX_PAUSE << 60
RESUME = lib.PMX_RESUME << 60
HOLD = lib.PMX_HOLD << 60
RELEASE = lib.PMX_RELEASE << 60
WAITS = lib.PMX_WAITS << 60
KEPT = lib.PMX_KEPT << 60
TAKEN = lib.PMX_TAKEN << 60
SWITCH = lib.PMX_SWITCH << 60
BEGUN = lib.PMX_BEGUN << 60
WHOLE = lib.PMX_WHOLE << 60
OWED = lib.PMX_OWED << 60
ANSWERED = WAITS  # of a connection that is owed answers
