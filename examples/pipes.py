r"""What a command prints, sent to every connection; a heartbeat while it is silent.

    python examples/pipes.py PORT COMMAND [ARGUMENT ...]

Sockets, a pipe and a timer in one thread. What the command prints comes by a pipe. Its
standard input is one end of a socket pair: lines from the connections go there, and the
connections wait while the command does not read. The command's input ends when every
connection has ended its stream, and the server ends with the command.

    $ python examples/pipes.py 9000 cat &
    $ printf 'hello\n' | python -m pymux connect 127.0.0.1:9000
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
    """The command's standard input: `room` is set while it takes lines."""

    def __init__(self) -> None:
        self.room = pymux.Event()

    def drained(self, conn: pymux.Connection) -> None:
        self.room.set()

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.room.set()


class Tail:
    """What is called with each connection, which hears the command until it ends."""

    server: pymux.Server

    def __init__(self, output: IO[bytes], sock: socket.socket) -> None:
        self.output, self.sock = output, sock
        self.rest = b""  # of a line that has no end yet
        self.listeners: set[pymux.Connection] = set()
        self.senders = 0  # connections that have not ended their streams
        self.over = pymux.Event()  # the command has ended

    def started(self, mux: pymux.Mux) -> None:
        self.mux = mux
        self.input = Input()
        self.command = mux.adopt(self.sock, framing=LINES, handler=self.input)
        self.watch = mux.watch(self.output, selectors.EVENT_READ, self.printed)
        self.timer = mux.call_later(HEARTBEAT, self.silent)

    async def __call__(self, conn: pymux.Connection) -> None:
        pymux.spawn(self.listen(conn))
        self.senders += 1
        try:
            async for line in conn:
                self.command.send(line)
                if self.command.queued > MOST:
                    self.input.room.clear()
                    await self.input.room.wait()
        finally:
            self.senders -= 1
            if not self.senders:
                self.command.send_eof()  # the command has it all, and may answer

    async def listen(self, conn: pymux.Connection) -> None:
        """Keep a connection open that has ended its stream: answers are to come."""
        self.listeners.add(conn)
        try:
            await self.over.wait()
        finally:
            self.listeners.discard(conn)

    def printed(self, output: IO[bytes], events: int) -> None:
        """The pipe has something to read, or has ended."""
        data = os.read(output.fileno(), 65536)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if not data and self.rest:  # the last line has no end
            lines.append(self.rest)
        for line in lines:
            self.mux.send_many(self.listeners, line)
        self.timer.cancel()
        if data:
            self.timer = self.mux.call_later(HEARTBEAT, self.silent)
        else:
            self.watch.close()
            self.over.set()
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
        try:
            tail = Tail(process.stdout, ours)
            tail.server = pymux.Server(tail, ("127.0.0.1", int(port)), framing=LINES)
            with tail.server as server:
                print("listening on port", server.address[1], flush=True)
                server.wait()
        finally:
            process.terminate()


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit("usage: python examples/pipes.py PORT COMMAND [ARGUMENT ...]")
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError) as error:  # a port that is taken
        sys.exit(str(error))
