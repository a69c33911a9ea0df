"""What a server may hold in memory at most: the formula of the documentation."""

import pymux

FIXED = 4 << 20  # the mux, its arenas, what Python and the allocator keep at hand
IDLE = 256  # bytes of a connection: its slot, its Connection, its place in tables
COROUTINE = 1050  # of one with a coroutine that waits
READ = 69_632  # what one connection is read from at a time, at least
PIECE = 65_536  # the allocator's step for queued output, twice: front and back
TLS = 200_000  # of a connection over TLS: OpenSSL's, records, ciphertext both ways
SHAKING = 42 << 10  # of one whose handshake is not done
LONG_HELLO = 230 << 10  # of one with the longest hello that OpenSSL takes


def largest_message(framing, arena_size):
    """Bytes of it."""
    if isinstance(framing, pymux.Raw):
        return arena_size
    return framing.size if isinstance(framing, pymux.Fixed) else framing.max_size


def largest_carry(framing, arena_size):
    """Bytes of one connection's unfinished frame, and of whole ones not yet seen."""
    if isinstance(framing, pymux.Raw):
        return 0
    return max(largest_message(framing, arena_size) + READ, arena_size) + 512


def memory(
    connections,
    *,
    framing,
    limits,
    reply=0,
    answers=0,
    form="function",
    arena_size=262_144,
    max_messages=4096,
    carry=None,
    queued=None,
    tls=False,
):
    """Bytes that a server of so many connections may take beyond an idle one.

    `reply` is the largest thing it sends at once, `answers` what it sends one
    connection in answer to one batch, where that is more than `max_output`. `carry`
    and `queued`, bytes of all connections together, are for where it is known that
    there are fewer.
    """
    arenas = 5 * (arena_size + 20 * max_messages)
    batch = arena_size + 100 * max_messages + max(reply, 2 * answers)
    batch += largest_message(framing, arena_size)
    if carry is None:
        carry = connections * largest_carry(framing, arena_size)
    if queued is None:
        each = max(limits.max_output, answers) * 17 // 16
        queued = connections * (each + reply + 2 * PIECE)
    each = IDLE
    if form == "coroutine":
        each = COROUTINE + limits.high_water + arena_size
    if tls:
        each += TLS
    return FIXED + arenas + batch + connections * each + carry + queued
