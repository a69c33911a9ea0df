"""What a command prints, sent to every connection; a heartbeat while it is silent.

    python examples/pipes.py PORT COMMAND [ARGUMENT ...]

A pipe, a timer and sockets, in one thread. The pipe of the command is asyncio's; the
sockets are pymux's, in the same loop. The server ends with the command.

    $ python examples/pipes.py 9000 journalctl --follow
    $ nc 127.0.0.1 9000
"""

import asyncio
import contextlib
import sys

import pymux

HEARTBEAT = 5.0  # seconds of silence


class Tail:
    """The connections that listen."""

    def __init__(self) -> None:
        self.listeners: set[pymux.Connection] = set()

    def opened(self, conn: pymux.Connection) -> None:
        self.listeners.add(conn)

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.listeners.discard(conn)

    def tell(self, line: bytes) -> None:
        for conn in self.listeners:
            conn.send(line)

    async def follow(self, output: asyncio.StreamReader) -> None:
        """Pass on what the command prints, until it has ended."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    line = await output.readline()
            except TimeoutError:
                self.tell(b"(silence)")
                continue
            if not line:
                return
            self.tell(line.rstrip(b"\n"))


async def main(port: str, *command: str) -> None:
    tail = Tail()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with pymux.aio.serve(
            tail, ("127.0.0.1", int(port)), framing=pymux.Lines()
        ) as server:
            print("listening on port", server.address[1], flush=True)
            await tail.follow(process.stdout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
