"""Connections that leave the core with their socket open, and come into it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from ..values.detached import FRAMING, Detached, Record
from ..values.framing import Framings
from .os_errors import meaning
from .owner import BUSY, busy
from .structs import framing_from

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["LATER", "NEVER", "accepted", "attach", "detach", "held", "was_shut"]

LATER = -errno.EAGAIN
NEVER = -errno.ENOTSUP
SWITCHED = lib.PMX_WAS_SWITCHED
MOVING = ffi.typeof("pmx_moving *")
ID = ffi.typeof("uint64_t *")


def accepted(engine: Engine) -> list[int]:
    """Return the ids of all accepted connections."""
    room = int(engine.counts.connections)
    ids = ffi.new("uint64_t[]", room + 1)
    count = int(lib.pmx_accepted(engine.c, ids, room + 1))
    if count < 0:
        raise busy()
    return list(ids[0 : min(count, room + 1)])


def held(engine: Engine, id: int) -> tuple[int, Any]:
    """Ask what a connection would take along: 0, LATER, NEVER or another errno, and a
    `pmx_moving`. The log is handed over before."""
    m = ffi.new(MOVING)
    if engine.log.entries or engine.log.pending:
        engine.submit()
    if engine.log.entries or engine.received:
        return LATER, m
    error = int(lib.pmx_held(engine.c, id, m))
    if error == BUSY:
        raise busy()
    return error, m


def was_shut(detached: Detached) -> bool:
    """True if the end of the stream to the peer was sent."""
    return bool(detached.record.state & lib.PMX_WAS_SHUT)


def detach(
    engine: Engine, id: int, moving: Any, endpoint: int, saved: bytes | None
) -> Detached:
    """Take a connection out, for which `held` has just returned 0."""
    framings, peer = b"", moving.peer
    if moving.state & SWITCHED:
        framings = _pack_framing(moving.framing) + _pack_framing(moving.replies)
    path = ffi.buffer(peer.path, peer.path_size)[:] if peer.path_size else b""
    # The record is made before the connection leaves: nothing may fail behind that.
    input = bytearray(moving.input_size)
    output = bytearray(moving.output_size)
    record = Record(
        moving.state,
        endpoint,
        moving.idle_ns,
        moving.frame_ns,
        peer.family,
        peer.port,
        peer.scope,
        ffi.buffer(peer.ip)[:],
        path,
        framings,
        saved,
        input,
        output,
        ffi.buffer(moving.proxy, moving.proxy_size)[:] if moving.proxy_size else b"",
    )
    detached = Detached(record, -1)
    into = ffi.from_buffer(input) if input else ffi.NULL
    out = ffi.from_buffer(output) if output else ffi.NULL
    detached.own(lib.pmx_detach(engine.c, id, into, out))
    if detached.fileno() < 0:
        number = -detached.fileno()
        raise busy() if number == -BUSY else OSError(number, meaning(number))
    return detached


def attach(
    engine: Engine, detached: Detached, listener: int, policy: Any = None
) -> int:
    """Make a connection of it; return the id. The socket is then the core's.

    Args:
        listener: whose policy the connection has; 0: that which is given.

    Raises:
        OSError: the core refuses it. What was detached is as before.
        ValueError: so does this, for a framing that none can have.
    """
    record = detached.record
    m = ffi.new(MOVING)
    kept = []  # what the core reads
    if record.input:
        kept.append(ffi.from_buffer(record.input))
        m.input, m.input_size = kept[-1], len(record.input)
    if record.output:
        kept.append(ffi.from_buffer(record.output))
        m.output, m.output_size = kept[-1], len(record.output)
    if record.proxy:
        kept.append(ffi.from_buffer(record.proxy))
        m.proxy, m.proxy_size = kept[-1], len(record.proxy)
    if record.path:
        kept.append(ffi.from_buffer(record.path))
        m.peer.path, m.peer.path_size = kept[-1], len(record.path)
    m.idle_ns, m.frame_ns = record.idle_ns, record.frame_ns
    m.state = record.state
    peer = m.peer
    peer.family, peer.port, peer.scope = record.family, record.port, record.scope
    ffi.memmove(peer.ip, record.ip, 16)
    framings = None
    if record.state & SWITCHED:
        framings = _unpack_framings(record.framings, m)
    id_ = ffi.new(ID)
    try:
        policy = ffi.NULL if policy is None else policy
        error = lib.pmx_attach(engine.c, detached.fileno(), listener, policy, m, id_)
    finally:  # in the same step, also if a signal handler raises
        if id_[0]:
            detached.give_up()
    if error == BUSY:
        raise busy()
    if error < 0:
        raise OSError(-error, meaning(-error), repr(detached))
    if framings is not None:  # prepare the service for them
        rules = engine.policy_of(int(id_[0]))
        if rules is not None:
            engine.note_framings(rules.service, framings)
    return int(id_[0])


def _unpack_framings(data: bytes, m: Any) -> Framings:
    """Write the framings of a record into a `pmx_moving`, and return them.

    Raises:
        ValueError: no framing has such numbers.
    """
    _unpack_framing(data, 0, m.framing)
    _unpack_framing(data, 1, m.replies)
    sent = framing_from(m.replies) if m.replies.other else None
    return framing_from(m.framing), sent


def _pack_framing(c: Any) -> bytes:
    return FRAMING.pack(
        c.kind,
        c.width,
        c.little,
        c.max_size,
        c.offset,
        c.adjust,
        c.keep_head,
        c.other,
        ffi.buffer(c.delimiter)[:],
    )


def _unpack_framing(data: bytes, number: int, c: Any) -> None:
    (
        c.kind,
        c.width,
        c.little,
        c.max_size,
        c.offset,
        c.adjust,
        c.keep_head,
        c.other,
        delimiter,
    ) = FRAMING.unpack_from(data, number * FRAMING.size)
    ffi.memmove(c.delimiter, delimiter, 16)
