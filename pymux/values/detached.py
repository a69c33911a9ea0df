"""A connection that has left its mux, and the record that moves it to another process.

The record is binary and versioned, and holds no pickled object: the process that reads
it may run another version of pymux. Whatever is not such a record is refused.
"""

from __future__ import annotations

import os
import struct
import warnings
from typing import NamedTuple

from .errors import no_copy

__all__ = ["MOST_SAVED", "Detached", "Record", "read_record"]

MAGIC = b"PMXC"
VERSION = 1
# magic, version, state, endpoint, idle, frame, family, port, scope, ip,
# then the sizes of path, proxy, framings, saved (-1: None), input, output
HEAD = struct.Struct("<4sHHiqqBHI16sHHHiIQ")
FRAMING = struct.Struct("<5IiII16s")  # the fields of a `pmx_framing`, but `scan`
FRAMINGS = 2 * FRAMING.size
STATES = 31  # all of `enum pmx_moving_state`
SWITCHED = 16
MOST_AGE = 2**61  # ns: no time that is reckoned with it overflows
MOST_PATH = 108
MOST_PROXY = 4096
MOST_SAVED = 1 << 20
MOST_INPUT = 2**31 - 1
MOST_OUTPUT = 2**62
PARTS = "path", "proxy", "framings", "saved", "input", "output"
MOST = MOST_PATH, MOST_PROXY, FRAMINGS, MOST_SAVED, MOST_INPUT, MOST_OUTPUT


class Record(NamedTuple):
    """What the next mux of a connection must know.

    Attributes:
        state: of `enum pmx_moving_state`.
        endpoint: the number of the server's endpoint that the connection came by, or
            -1.
        idle_ns, frame_ns: how long the clocks of the connection have run.
        family, port, scope, ip, path: the peer's address.
        framings: FRAMING of what is received and of what is sent, if the connection
            has switched to another framing; else empty.
        saved: what `leaving` returned, or None.
        input: bytes received and not delivered.
        output: bytes to send, as they go out.
        proxy: facts of a PROXY header.
    """

    state: int
    endpoint: int
    idle_ns: int
    frame_ns: int
    family: int
    port: int
    scope: int
    ip: bytes
    path: bytes
    framings: bytes
    saved: bytes | None
    input: bytes | bytearray
    output: bytes | bytearray
    proxy: bytes = b""

    @property
    def size(self) -> int:
        """The bytes that the record takes, about."""
        return HEAD.size + len(self.input) + len(self.output) + len(self.saved or b"")

    def pack(self) -> bytes:
        """Return the record as bytes."""
        saved = self.saved
        head = HEAD.pack(
            MAGIC,
            VERSION,
            *self[:8],
            len(self.path),
            len(self.proxy),
            len(self.framings),
            -1 if saved is None else len(saved),
            len(self.input),
            len(self.output),
        )
        parts = head, self.path, self.proxy, self.framings, saved or b""
        return b"".join((*parts, self.input, self.output))


def read_record(data: bytes | bytearray | memoryview) -> Record:
    """Return the record of `Record.pack`.

    Raises:
        ValueError: the bytes are no record, or one of another version.
    """
    start = bytes(data[: HEAD.size])
    if start[:4] != MAGIC:
        raise ValueError(
            f"the record begins with {start[:4]!r}; {MAGIC!r} begins the record of "
            "a pymux connection"
        )
    version = int.from_bytes(start[4:6], "little")
    if version != VERSION:
        raise ValueError(
            f"the record has version {version}; this pymux reads version {VERSION}"
        )
    if len(start) < HEAD.size:
        raise ValueError(
            f"the record has {len(start)} bytes; at least {HEAD.size} are needed"
        )
    fields = HEAD.unpack(start)
    state, endpoint, idle, frame, family = fields[2:7]
    sizes = fields[10:]
    for name, size, most in zip(PARTS, sizes, MOST):
        if size > most or (size < 0 and name != "saved") or size < -1:
            raise ValueError(
                f"the record's {name} has size {size}; at most {most} is accepted"
            )
    saved_size = max(sizes[3], 0)
    whole = HEAD.size + sum(sizes) - sizes[3] + saved_size
    if len(data) != whole:
        raise ValueError(
            f"the record has {len(data)} bytes; {whole} are needed by its head"
        )
    if (
        state & ~STATES
        or endpoint < -1
        or not 0 <= idle <= MOST_AGE
        or not 0 <= frame <= MOST_AGE
        or family not in (1, 4, 6)
        or sizes[2] != (FRAMINGS if state & SWITCHED else 0)
    ):
        raise ValueError(
            f"the record has a value that none can have: state {state}, endpoint "
            f"{endpoint}, ages {idle} and {frame}, family {family}, framings of "
            f"{sizes[2]} bytes"
        )
    parts, at = [], HEAD.size
    for size in (*sizes[:3], saved_size, *sizes[4:]):
        parts.append(bytes(data[at : at + size]))
        at += size
    path, proxy, framings, saved, input, output = parts
    kept = saved if sizes[3] >= 0 else None
    first = state, endpoint, idle, frame, family, fields[7], fields[8], fields[9]
    return Record(*first, path, framings, kept, input, output, proxy)


class Detached:
    """A connection that has left its mux: `Mux.detach` makes it, `Mux.adopt` takes it.

    It owns the socket, whose peer notices nothing but a pause. What has arrived and was
    not delivered, and what was sent and not taken by the kernel, is inside. Close it to
    end the connection; one that is dropped warns and closes.

    To move it to another process, send `pack()` and the descriptor (by SCM_RIGHTS, or
    to a child), and keep this object until the other side has it. `Detached.unpack`
    there makes it whole again, in a later version of pymux too, as long as that reads
    the version of the record.

    Attributes:
        state: what the handler's `leaving` returned, for `taken`; None without. On a
            mux whose caller harvests it is yours: bytes or None.
        endpoint: the number of the server's endpoint, from 0 on, or None.

    >>> import pymux, socket
    >>> with pymux.Mux() as old, pymux.Mux() as new:
    ...     listener = old.listen(("127.0.0.1", 0))
    ...     client = socket.create_connection(listener.address)
    ...     (conn,) = old.harvest(5).opened
    ...     with old.detach(conn) as detached:
    ...         moved = new.adopt(detached)
    ...     client.sendall(b"still here")
    ...     new.harvest(5).messages
    [b'still here']
    >>> client.close()
    """

    __slots__ = ("_fd", "_record", "endpoint", "state")

    def __init__(self, record: Record, fd: int) -> None:
        self._fd = -1
        self._record = record
        self.endpoint: int | None = record.endpoint if record.endpoint >= 0 else None
        self.state: bytes | None = record.saved
        self._fd = fd

    def __repr__(self) -> str:
        record = self._record
        at = f"descriptor {self._fd}" if self._fd >= 0 else "closed"
        return (
            f"<Detached {at}, {len(record.input)} bytes of input, "
            f"{len(record.output)} of output>"
        )

    def __getstate__(self) -> object:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def __enter__(self) -> Detached:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(
                f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self
            )
            self.close()

    def fileno(self) -> int:
        """Return the descriptor, which stays this object's; -1 if it has none now."""
        return self._fd

    def close(self) -> None:
        """Close the socket. If another process has it too, the connection goes on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def own(self, fd: int) -> None:
        """Note a descriptor, which belongs to this object now.

        Args:
            fd: the descriptor.
        """
        self._fd = fd

    def give_up(self) -> None:
        """Note that the descriptor belongs to a mux now."""
        self._fd = -1

    @property
    def record(self) -> Record:
        """What the next mux must know, with the present `state`."""
        record = self._record
        if record.saved is self.state:
            return record
        last = record.input, record.output, record.proxy
        return Record(*record[:10], self.state, *last)

    def pack(self) -> bytes:
        """Return everything but the descriptor, as bytes for `unpack`.

        Raises:
            TypeError: `state` is neither bytes nor None.
            ValueError: `state` has more than 1 MiB.
        """
        state = self.state
        if state is not None:
            if not isinstance(state, bytes):
                raise TypeError(f"state is {state!r}; bytes or None are needed")
            if len(state) > MOST_SAVED:
                raise ValueError(
                    f"state has {len(state)} bytes; at most {MOST_SAVED} are accepted"
                )
        return self.record.pack()

    @staticmethod
    def unpack(data: bytes | bytearray | memoryview, fd: int) -> Detached:
        """Make a connection of `pack()` and its descriptor, in another process.

        Args:
            data: what `pack` returned, there.
            fd: a descriptor of the same socket, which becomes this object's; if the
                call fails it stays the caller's.

        Raises:
            ValueError: the data is no record, is damaged, or has another version.
            TypeError: the data is not bytes-like, or fd is no int.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data is an object of type {type(data).__name__}; bytes are needed"
            )
        if isinstance(data, memoryview) and data.itemsize != 1:
            data = data.cast("B")
        if type(fd) is not int:
            raise TypeError(f"fd is {fd!r}; a descriptor is needed")
        if fd < 0:
            raise ValueError(f"fd is {fd}; an open descriptor is needed")
        return Detached(read_record(data), fd)
