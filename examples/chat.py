"""A chat: everybody in a room hears what anybody in it says.

    python examples/chat.py [PORT]

The first line is a name. `/join ROOM` moves to another room, `/who` lists who is in
this one, `/quit` leaves. A reader so slow that 1 MiB waits for it is cut off, and
keeps nobody waiting.

    $ python examples/chat.py &
    $ python -m pymux connect 127.0.0.1:9000
    what is your name?
    >>: Ann
    Ann has come to hall
"""

import sys

import pymux

LONGEST = 32  # bytes of a name


class Member:
    """A peer that has told its name."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.room = b""


class Chat:
    def __init__(self) -> None:
        self.rooms: dict[bytes, set[pymux.Connection]] = {}

    def opened(self, conn: pymux.Connection) -> None:
        conn.send(b"what is your name?")

    def received(self, conn: pymux.Connection, line: bytes) -> bytes | None:
        member: Member | None = conn.state
        if member is None:
            return self.welcome(conn, line.strip())
        command, _, rest = line.partition(b" ")
        if command == b"/who":
            return b", ".join(sorted(one.state.name for one in self.rooms[member.room]))
        if command == b"/join" and rest:
            self.leave(conn)
            self.enter(conn, rest[:LONGEST])
        elif command == b"/quit":
            self.leave(conn)
            conn.state = None
            conn.close()
        else:
            self.tell(conn, member.name + b": " + line)
        return None

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.leave(conn)

    def welcome(self, conn: pymux.Connection, name: bytes) -> bytes | None:
        taken = {one.state.name for room in self.rooms.values() for one in room}
        if not 0 < len(name) <= LONGEST or name in taken:
            return b"another name, please"
        conn.state = Member(name)
        self.enter(conn, b"hall")
        return None

    def enter(self, conn: pymux.Connection, room: bytes) -> None:
        conn.state.room = room
        self.rooms.setdefault(room, set()).add(conn)
        self.tell(conn, conn.state.name + b" has come to " + room)

    def leave(self, conn: pymux.Connection) -> None:
        member: Member | None = conn.state
        if member is None:
            return
        members = self.rooms[member.room]
        members.discard(conn)
        if members:
            text = member.name + b" has left " + member.room
            conn.mux.send_many(members, text)
        else:
            del self.rooms[member.room]

    def tell(self, conn: pymux.Connection, text: bytes) -> None:
        """Send to the room of a connection."""
        conn.mux.send_many(self.rooms[conn.state.room], text)


def main(port: int = 9000) -> None:
    with pymux.Server(
        Chat(),
        ("127.0.0.1", port),
        framing=pymux.Lines(max_size=1000),
        limits=pymux.Limits(max_connections=10_000, max_output=1 << 20),
    ) as server:
        print("chat on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/chat.py [PORT]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
