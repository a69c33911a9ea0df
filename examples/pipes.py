"""What a command prints, sent to every connection; a heartbeat while it is silent.

    python examples/pipes.py PORT COMMAND [ARGUMENT ...]

Sockets, a pipe and a timer in one thread. What the command prints comes by a pipe. Its
standard input is one end of a socket pair: lines from the connections go there, and the
connections wait while the command does not read. The server ends with the command.

    $ python examples/pipes.py 9000 cat &
    $ printf 'hello\\n' | nc -q1 127.0.0.1 9000
    hello
"""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
from typing import IO

import pymux

HEARTBEAT = 5.0  # seconds of silence
MOST = 65536  # bytes that wait for the command
LINES = pymux.Lines(max_size=1000)


class Input:
    """The command's standard input, and the connections that wait for it."""

    def __init__(self) -> None:
        self.waiting: set[pymux.Connection] = set()

    def drained(self, conn: pymux.Connection) -> None:
        for one in self.waiting:
            one.resume()
        self.waiting.clear()


class Tail:
    """The connections that hear the command."""

    server: pymux.Server

    def __init__(self, output: IO[bytes], sock: socket.socket) -> None:
        self.output, self.sock = output, sock
        self.rest = b""  # of a line that has no end yet
        self.listeners: set[pymux.Connection] = set()

    def started(self, mux: pymux.Mux) -> None:
        self.mux = mux
        self.input = Input()
        self.command = mux.adopt(self.sock, framing=LINES, handler=self.input)
        self.watch = mux.watch(self.output, selectors.EVENT_READ, self.printed)
        self.timer = mux.call_later(HEARTBEAT, self.silent)

    def opened(self, conn: pymux.Connection) -> None:
        self.listeners.add(conn)

    def received(self, conn: pymux.Connection, line: bytes) -> None:
        self.command.send(line)
        if self.command.queued > MOST:
            self.input.waiting.add(conn)
            conn.pause()

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.listeners.discard(conn)
        self.input.waiting.discard(conn)

    def printed(self, output: IO[bytes], events: int) -> None:
        """The pipe has something to read, or has ended."""
        data = os.read(output.fileno(), 65536)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.mux.send_many(self.listeners, line)
        self.timer.cancel()
        if data:
            self.timer = self.mux.call_later(HEARTBEAT, self.silent)
        else:
            self.watch.close()
            self.server.stop()

    def silent(self) -> None:
        self.mux.send_many(self.listeners, b"(silence)")
        self.timer = self.mux.call_later(HEARTBEAT, self.silent)


def main(port: str, *command: str) -> None:
    (ours, theirs), pipe = socket.socketpair(), subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=theirs.fileno(), stdout=pipe) as process,
        contextlib.suppress(KeyboardInterrupt),
    ):
        theirs.close()
        assert process.stdout is not None
        tail = Tail(process.stdout, ours)
        tail.server = pymux.Server(tail, ("127.0.0.1", int(port)), framing=LINES)
        try:
            with tail.server as server:
                print("listening on port", server.address[1], flush=True)
                server.wait()
        finally:
            process.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
