"""One store of keys and values, over HTTP and over Redis' protocol.

    pip install h11 hiredis
    python examples/raw.py [HTTP_PORT [REDIS_PORT]]

pymux moves bytes; the protocols are those of two parsers. h11 runs in a coroutine that
reads raw bytes. hiredis is given as a framing, so each message is a command.

    $ python examples/raw.py &
    $ curl -X PUT --data-binary green 127.0.0.1:9000/colour
    $ redis-cli -p 9001 get colour
    "green"
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import h11
import hiredis

import pymux

LARGEST = 1 << 20  # bytes of a value
REFUSAL = b"HTTP/1.1 400 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
store: dict[bytes, bytes] = {}


def answer_to(request: h11.Request, body: bytes) -> tuple[int, bytes]:
    """The status and the content."""
    key = request.target.lstrip(b"/")
    if request.method == b"PUT":
        store[key] = body
        return 204, b""
    if request.method not in (b"GET", b"HEAD"):
        return 405, b"GET, HEAD and PUT are served\n"
    return (200, store[key]) if key in store else (404, b"no such key\n")


async def http(conn: pymux.Connection) -> None:
    """The requests of one connection, one after the other."""
    parser = h11.Connection(h11.SERVER)
    request, body = None, b""
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            conn.send(REFUSAL)
            return
        if event is h11.NEED_DATA:
            if parser.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                conn.send(parser.send(go_on) or b"")
            parser.receive_data(await conn.recv() or b"")
        elif isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LARGEST:
                return
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            status, content = answer_to(request, body)
            headers = [("Content-Length", str(len(content)))] if status != 204 else []
            head = h11.Response(status_code=status, headers=headers)
            conn.send(parser.send(head) or b"")
            if request.method != b"HEAD":
                conn.send(parser.send(h11.Data(data=content)) or b"")
            conn.send(parser.send(h11.EndOfMessage()) or b"")
            await conn.drain()  # one that asks and does not read waits here
            if parser.our_state is not h11.DONE:
                return
            parser.start_next_cycle()
        else:  # the connection is closed
            return


def commands() -> Callable[[bytes], Iterator[Any]]:
    """The parser of one connection."""
    reader = hiredis.Reader()

    def split(data: bytes) -> Iterator[Any]:
        reader.feed(data)
        while (command := reader.gets()) is not False:
            yield command

    return split


def redis(conn: pymux.Connection, command: Any) -> bytes:
    """The answer to one command, which is a list of bytes if it is well made."""
    match command:
        case [bytes() as name, *rest] if all(isinstance(one, bytes) for one in rest):
            command = [name.upper(), *rest]
    match command:
        case [b"GET", key]:
            value = store.get(key)
            if value is None:
                return b"$-1\r\n"
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case [b"SET", key, value]:
            store[key] = value
            return b"+OK\r\n"
        case [b"PING"]:
            return b"+PONG\r\n"
    return b"-ERR GET, SET and PING are served\r\n"


def main(http_port: int = 9000, redis_port: int = 9001) -> None:
    endpoints = [
        pymux.Endpoint(("127.0.0.1", http_port), handler=http),
        pymux.Endpoint(
            ("127.0.0.1", redis_port),
            handler=redis,
            framing=pymux.Splitter(commands, max_size=LARGEST),
        ),
    ]
    limits = pymux.Limits(max_connections=10_000, idle_timeout=60)
    with pymux.Server(None, endpoints, limits=limits) as server:
        print("http on port", server.addresses[0][1])
        print("redis on port", server.addresses[1][1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 3 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/raw.py [HTTP_PORT [REDIS_PORT]]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
