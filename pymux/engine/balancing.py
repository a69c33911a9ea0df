"""Connections that the core has accepted for other workers: see csrc/balance.c."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from .._core import ffi, lib
from .os_errors import meaning
from .owner import BUSY, busy

if TYPE_CHECKING:
    from .engine import Engine

__all__ = [
    "OPEN",
    "SEAT",
    "Gift",
    "admit",
    "balance",
    "clear",
    "gave",
    "here",
    "next_gift",
]

SEAT = int(ffi.sizeof("pmx_seat"))  # bytes
OPEN = int(ffi.offsetof("pmx_seat", "open"))  # a word of 32 bits in a seat
HERE = int(ffi.offsetof("pmx_seat", "here"))
COMING = int(ffi.offsetof("pmx_seat", "coming"))
PEER = struct.Struct("=3I16s")  # family, port, scope, address; then the path


class Gift(NamedTuple):
    """A connection that is another worker's.

    Attributes:
        fd: the socket, which the core closes.
        listener: the core's number of the listener that has accepted it.
        seat: the number of the worker.
        peer: the peer's name, for `admit`.
    """

    fd: int
    listener: int
    seat: int
    peer: bytes


def clear(seats: memoryview, number: int) -> None:
    """Let no connection be on its way to a seat."""
    begin = number * SEAT + COMING
    seats[begin : begin + 4] = bytes(4)


def here(seats: memoryview, count: int) -> list[int]:
    """Return how many connections each of the first seats says that it has."""
    begins = range(HERE, count * SEAT, SEAT)
    return [int.from_bytes(seats[at : at + 4], sys.byteorder) for at in begins]


def balance(engine: Engine, file: int, seats: int = 0, own: int = 0) -> None:
    """Let the core give connections to workers that have fewer.

    Args:
        file: the descriptor of the seats, which may be closed afterwards; -1 gives no
            more.
        seats: how many there are.
        own: the number of this worker's.

    Raises:
        OSError: the core cannot use the file.
    """
    error = lib.pmx_balance(engine.c, file, seats, own)
    if error == BUSY:
        raise busy()
    if error:
        raise OSError(-error, meaning(-error))


def next_gift(engine: Engine) -> Gift | None:
    """Take the next connection in hand that is to be given away; None: there is none.
    `gave` is to follow, else it counts as sent."""
    gift = ffi.new("pmx_gift *")
    if lib.pmx_given(engine.c, gift) != 1:
        return None
    peer = gift.peer
    path = ffi.buffer(peer.path, peer.path_size)[:] if peer.path_size else b""
    name = PEER.pack(peer.family, peer.port, peer.scope, ffi.buffer(peer.ip)[:]) + path
    return Gift(int(gift.sock), int(gift.listener), int(gift.seat), name)


def gave(engine: Engine, was_sent: bool) -> None:
    """The connection in hand was sent, or is accepted here."""
    lib.pmx_gave(engine.c, was_sent)


def admit(engine: Engine, fd: int, listener: int, peer: bytes, seat: int) -> None:
    """Accept a connection that another worker has accepted.

    Args:
        fd: its socket, which is the core's from now on.
        listener: of the core's, by whose policy it goes.
        peer: as in `Gift`.
        seat: for which it was given.

    Raises:
        OSError: the core refuses. The socket is the caller's.
    """
    name = ffi.new("pmx_address *")
    family, name.port, name.scope, ip = PEER.unpack_from(peer)
    path = ffi.new("char[]", peer[PEER.size :])
    ffi.memmove(name.ip, ip, 16)
    name.path, name.path_size, name.family = path, len(peer) - PEER.size, family
    error = lib.pmx_admit(engine.c, fd, listener, name, seat)
    if error == BUSY:
        raise busy()
    if error:
        raise OSError(-error, meaning(-error))
