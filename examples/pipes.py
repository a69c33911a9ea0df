r"""What a command prints, sent to every connection; a heartbeat while it is silent.

    python examples/pipes.py PORT COMMAND [ARGUMENT ...]

Sockets, two pipes and a timer in one thread. The command's input and output are
connections: lines from the peers go to the one, and the peers wait while the command
does not read; lines from the other go to every peer. The command's input ends when
every peer has ended its stream, and the server ends with the command.

    $ python examples/pipes.py 9000 cat &
    $ printf 'hello\n' | python -m pymux connect 127.0.0.1:9000
    hello
"""

import contextlib
import subprocess
import sys

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

    def __init__(self, command: "subprocess.Popen[bytes]") -> None:
        self.command = command
        self.listeners: set[pymux.Connection] = set()
        self.senders = 0  # connections that have not ended their streams
        self.over = pymux.Event()  # the command has ended

    def started(self, mux: pymux.Mux) -> None:
        assert self.command.stdin and self.command.stdout
        self.mux, self.waiting, output = mux, Input(), Output(self)
        self.input = mux.adopt(self.command.stdin, framing=LINES, handler=self.waiting)
        mux.adopt(self.command.stdout, framing=pymux.Lines(), handler=output)
        self.timer = mux.call_later(HEARTBEAT, self.silent)

    async def __call__(self, conn: pymux.Connection) -> None:
        pymux.spawn(self.listen(conn))
        self.senders += 1
        try:
            async for line in conn:
                self.input.send(line)
                if self.input.queued > MOST:
                    self.waiting.room.clear()
                    await self.waiting.room.wait()
        finally:
            self.senders -= 1
            if not self.senders:
                self.input.send_eof()  # the command has it all, and may answer

    async def listen(self, conn: pymux.Connection) -> None:
        """Keep a connection open that has ended its stream: answers are to come."""
        self.listeners.add(conn)
        try:
            await self.over.wait()
        finally:
            self.listeners.discard(conn)

    def heard(self, line: bytes) -> None:
        self.mux.send_many(self.listeners, line)
        self.timer.cancel()
        self.timer = self.mux.call_later(HEARTBEAT, self.silent)

    def silent(self) -> None:
        self.heard(b"(silence)")


class Output:
    """The command's standard output."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail

    def received(self, conn: pymux.Connection, line: bytes) -> None:
        self.tail.heard(line)

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.tail.timer.cancel()
        self.tail.over.set()
        self.tail.server.stop()


def main(port: str, *command: str) -> None:
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe) as process,
        contextlib.suppress(KeyboardInterrupt),
    ):
        try:
            tail = Tail(process)
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
