r"""A load balancer for any protocol over TCP.

    python examples/balancer.py PORT BACKEND_PORT [BACKEND_PORT ...]

A connection goes to the backend that has the fewest. One that cannot be reached is
left alone for a second, and the next one is tried. Bytes are passed on as they come,
both ways, no faster than they are read; so are the end of a stream and a reset.

    $ python -m pymux serve 127.0.0.1:9001 & python -m pymux serve 127.0.0.1:9002 &
    $ python examples/balancer.py 9000 9001 9002 &
    $ printf 'hello\n' | python -m pymux connect 127.0.0.1:9000
    HELLO
"""

import sys
import time

import pymux

PAUSE = 1.0  # seconds without a try after a failure


class Backend:
    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.connections = 0
        self.down_until = 0.0


async def pump(source: pymux.Connection, sink: pymux.Connection) -> None:
    """Pass one direction on until it ends."""
    try:
        async for data in source:
            sink.send(data)
            await sink.drain()
        if not source.stopping:  # else the peer may have had more to send
            sink.send_eof()
    except pymux.ConnectionClosed:
        source.abort()  # the other side sees a reset too
        sink.abort()


class Balancer:
    def __init__(self, ports: list[int]) -> None:
        self.backends = [Backend(port) for port in ports]

    async def handler(self, conn: pymux.Connection) -> None:
        """One client's connection, as long as it lives."""
        for backend in sorted(self.backends, key=lambda one: one.connections):
            if backend.down_until > time.monotonic():
                continue
            backend.connections += 1
            try:
                upstream = await pymux.dial(backend.address, timeout=2)
            except OSError:
                backend.down_until = time.monotonic() + PAUSE
            else:
                pymux.spawn(pump(upstream, conn))
                await pump(conn, upstream)
                return
            finally:
                backend.connections -= 1
        conn.abort()


def main(port: int, *ports: int) -> None:
    handler = Balancer(list(ports)).handler
    with pymux.Server(handler, ("127.0.0.1", port), drain_timeout=2) as server:
        print("balancing on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/balancer.py PORT BACKEND_PORT ...")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
