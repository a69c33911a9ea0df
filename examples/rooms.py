"""A chat in several processes: rooms that reach over workers, by NATS or Redis.

    BROKER=nats://127.0.0.1:4222 python examples/rooms.py [PORT [WORKERS]]

Without BROKER there is one worker, and its rooms are its own. BROKER may also be
redis://HOST:PORT. The first line is a name; `/join ROOM` moves to another room. SIGHUP
replaces the workers, and nobody is disconnected.

    $ nats-server -a 127.0.0.1 &
    $ BROKER=nats://127.0.0.1:4222 python examples/rooms.py 9000 2 &
    $ python -m pymux connect 127.0.0.1:9000
    what is your name?
    >>: Ann
    Ann has come to hall
"""

import os
import sys
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import pymux

LONGEST = 32  # bytes of a name


def backplane(url: str) -> pymux.Nats | pymux.Redis | None:
    """The broker of a URL."""
    parts = urlsplit(url)
    address = parts.hostname or "127.0.0.1", parts.port or 0
    if parts.scheme == "nats":
        return pymux.Nats(address, user=parts.username, password=parts.password)
    if parts.scheme == "redis":
        return pymux.Redis(address, user=parts.username, password=parts.password)
    if url:
        raise ValueError(f"BROKER is {url!r}; nats://HOST:PORT or redis:// is needed")
    return None


def tell_gap(room: pymux.Group, lost: int) -> None:
    """Tell the members here, in the place of what they have missed."""
    for conn in room:
        conn.send(b"(%d messages were lost)" % lost)


class Chat:
    """`conn.state` is (name, room) once a member has told its name."""

    def __init__(self, broker: pymux.Nats | pymux.Redis | None) -> None:
        self.broker = broker
        # A room lives as long as it has members.
        self.rooms: WeakValueDictionary[str, pymux.Group] = WeakValueDictionary()

    def room(self, name: str) -> pymux.Group:
        room = self.rooms.get(name)
        if room is None:
            room = pymux.Group(name, self.broker, drop_slow=True, on_gap=tell_gap)
            self.rooms[name] = room
        return room

    def opened(self, conn: pymux.Connection) -> None:
        conn.send(b"what is your name?")

    def received(self, conn: pymux.Connection, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if conn.state is None:
            self.enter(conn, line.strip()[:LONGEST], "hall")
        elif word == b"/join" and rest:
            name, room = conn.state
            room.discard(conn)
            room.send(name + b" has left " + room.name.encode())
            self.enter(conn, name, rest[:LONGEST].decode(errors="replace"))
        else:
            name, room = conn.state
            room.send(name + b": " + line)

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        if conn.state is not None:
            name, room = conn.state
            room.send(name + b" has left " + room.name.encode())

    def enter(self, conn: pymux.Connection, name: bytes, where: str) -> None:
        room = self.room(where)
        conn.state = name, room
        room.add(conn)
        room.send(name + b" has come to " + where.encode())

    # A new worker takes the connections of an old one, and its members with them.

    def leaving(self, conn: pymux.Connection) -> bytes:
        if conn.state is None:
            return b""
        name, room = conn.state
        state: bytes = name + b"\n" + room.name.encode()
        return state

    def taken(self, conn: pymux.Connection, state: bytes | None) -> None:
        if state:
            name, _, where = state.partition(b"\n")
            room = self.room(where.decode())
            conn.state = name, room
            room.add(conn)


def main(port: int = 9000, workers: int = 1) -> None:
    broker = backplane(os.environ.get("BROKER", ""))
    if broker is None and workers > 1:
        raise ValueError(f"{workers} workers need a BROKER, to hear each other")
    print("rooms on port", port, flush=True)
    pymux.serve(
        "__main__:chat",
        ("127.0.0.1", port),
        framing=pymux.Lines(max_size=1000),
        workers=workers,
    )


if __name__ == "__main__":
    if len(sys.argv) > 3 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/rooms.py [PORT [WORKERS]]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        sys.exit(str(error))
else:  # a worker, which runs this file again
    chat = Chat(backplane(os.environ.get("BROKER", "")))
