"""The conversation of `pymux connect` with a server."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..client.waiting import LIMITS
from ..mux import Mux
from ..objects.base import engine_of
from ..values.framing import Fixed, Raw
from ..values.tls import SSLContext
from .console import Terminal, write
from .words import Failure

if TYPE_CHECKING:
    from ..objects.batch import Batch
    from ..objects.connection import Connection
    from ..values.addresses import Address
    from ..values.framing import Framing

# Bounds of the input in memory: the size of a block, the number of blocks that are
# read ahead, and the queued bytes over which no further block is sent.
_BLOCK = 65536
_BLOCKS_AHEAD = 4
_MAX_QUEUED = 256 * 1024

# Seconds that a wait may take. A signal that arrives just before a wait is handled
# when the wait is over.
_LONGEST_WAIT = 1.0

# Seconds to wait for further input after the server's end. A server that has ended
# only its own direction gets the input that is on its way; one that is gone does not
# keep the command from ending.
_INPUT_PATIENCE = 1.0


def talk(
    address: Address,
    framing: Framing,
    terminal: Terminal | None,
    ssl: SSLContext | bool | None = None,
) -> None:
    """Send standard input to a server, and print its answers until its end.

    Raises:
        OSError: the connection could not be made, or was lost.
        ValueError: the address is malformed, or the input does not fit the framing.
        Failure: standard input or output failed.
    """
    with Mux() as mux:
        conn = mux.connect(
            address,
            framing=framing,
            ssl=ssl,
            limits=LIMITS,  # reading goes on while output is queued
            half_open=True,
        )
        _Conversation(mux, conn, framing, terminal).run()


class _Conversation:
    """One connection between standard input and standard output.

    The main thread owns the mux and prints. A second thread reads standard input,
    since no poller can wait for a file, a few blocks ahead.
    """

    def __init__(
        self, mux: Mux, conn: Connection, framing: Framing, terminal: Terminal | None
    ) -> None:
        self._mux = mux
        self._conn = conn
        self._terminal = terminal
        self._raw = isinstance(framing, Raw)
        source = _blocks() if terminal is None else terminal.lines()
        self._reader = _Reader(_messages(source, framing, terminal), mux.wakeup)
        self._opened = False
        self._sent_all = False
        self._ended = False
        self._closed = False
        self._patience_ends: float | None = None  # a monotonic time, or none yet

    def run(self) -> None:
        """Talk until the peer has ended the connection and no input follows.

        Raises:
            OSError: the connection could not be made, or was lost.
            Failure: standard input or output failed.
        """
        while not self._opened:
            self._take(self._mux.harvest(_LONGEST_WAIT))
        self._reader.start()
        while not self._finished():
            if self._send_some():
                self._take(self._mux.harvest(0))
            elif self._conn.queued:
                self._take(self._harvest_until_sent())
            else:
                self._take(self._mux.harvest(self._longest_wait()))

    def _harvest_until_sent(self) -> Batch:
        """Harvest; the wait ends when the kernel has taken all output, too."""
        turn = engine_of(self._mux).turn
        turn.until_sent = 1
        try:
            return self._mux.harvest(_LONGEST_WAIT)
        finally:
            turn.until_sent = 0

    def _finished(self) -> bool:
        """Whether nothing more is to be sent or printed."""
        if self._closed:
            return True
        if self._terminal is not None and self._ended:
            self._terminal.leave("connection closed by the server")
            return True
        if not self._ended or self._conn.queued:
            self._patience_ends = None
            return False
        return self._sent_all or self._longest_wait() <= 0

    def _longest_wait(self) -> float:
        """Seconds that the next wait may take; 0 if no input has followed the end."""
        if not self._ended:
            return _LONGEST_WAIT
        now = time.monotonic()
        if self._patience_ends is None:
            self._patience_ends = now + _INPUT_PATIENCE
        return max(self._patience_ends - now, 0)

    def _send_some(self) -> bool:
        """Send input that was read; False if none was, or if too much is queued."""
        if self._sent_all or self._conn.queued > _MAX_QUEUED:
            return False
        messages = self._reader.take()
        if messages is None:
            return False
        self._patience_ends = None
        for message in messages:
            self._conn.send(message)
        if not messages:
            self._sent_all = True
            self._conn.send_eof()
        return True

    def _take(self, batch: Batch) -> None:
        """Print the messages of a batch, and note the connection's state."""
        if batch.opened:
            self._opened = True
        if len(batch):
            data = bytes(batch.data) if self._raw else _as_lines(batch.messages)
            if self._terminal is None:
                write(data)
            else:
                self._terminal.show(data)
        if batch.ended:
            self._ended = True
        for _, error in batch.closed:
            self._opened = self._closed = True
            if error is not None:
                raise error


def _as_lines(messages: list[bytes]) -> bytes:
    return b"".join([message + b"\n" for message in messages])


def _blocks() -> Iterator[bytes]:
    """Standard input in blocks, as they arrive.

    A read from the descriptor may be pending when the program ends; one from
    `sys.stdin` would then abort the program.
    """
    while True:
        try:
            block = os.read(0, _BLOCK)
        except OSError as error:
            raise Failure(f"cannot read standard input: {error.strerror}") from None
        if not block:
            return
        yield block


def _messages(
    source: Iterator[bytes], framing: Framing, terminal: Terminal | None
) -> Iterator[list[bytes]]:
    """Messages to send: blocks of input under `Raw`, else each line as a payload."""
    if terminal is not None:
        end = b"\n" if isinstance(framing, Raw) else b""
        return ([line + end] for line in source)
    if isinstance(framing, Raw):
        return ([block] for block in source)
    limit = framing.size if isinstance(framing, Fixed) else framing.max_size
    return _payloads(source, limit)


def _payloads(blocks: Iterator[bytes], limit: int) -> Iterator[list[bytes]]:
    rest = b""
    for block in blocks:
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > limit or any(len(line) > limit for line in lines):
            raise Failure(f"a line of the input is longer than {limit} bytes")
        if lines:
            yield lines
    if rest:
        yield [rest]


class _Reader(threading.Thread):
    """A thread that reads lists of messages from a source, a few ahead.

    A signal's handler may raise anywhere in the main thread, and would leave a lock
    that is written in Python, as `threading.Condition` is, in an undefined state. So
    the main thread uses no such lock here.
    """

    def __init__(
        self, source: Iterator[list[bytes]], wake: Callable[[], object]
    ) -> None:
        super().__init__(name="pymux-stdin", daemon=True)
        self._source = source
        self._wake = wake
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_BLOCKS_AHEAD):
            self._room.put(None)
        self._ready: deque[list[bytes]] = deque()
        self._failure: Failure | None = None

    def start(self) -> None:
        """Start the thread, with SIGINT and SIGTERM blocked there."""
        if sys.platform == "win32":  # the main thread gets all signals there
            super().start()
            return
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}
        )
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        """Read until the end of input or an error; the last list is empty."""
        try:
            for messages in self._source:
                self._room.get()
                self._ready.append(messages)
                self._wake()
        except Failure as failure:
            self._failure = failure
        self._ready.append([])
        self._wake()

    def take(self) -> list[bytes] | None:
        """The next messages, `[]` at the end of input, None if none are ready.

        Raises:
            Failure: the input could not be read. It is raised once, in place of `[]`.
        """
        if not self._ready:
            return None
        messages = self._ready.popleft()
        if messages:
            self._room.put(None)
        elif self._failure is not None:
            raise self._failure
        return messages
