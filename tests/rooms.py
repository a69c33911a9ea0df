"""A worker with a room, as a process of its own: python -m tests.rooms KIND ADDRESS.

What a member says is sent to the group `lobby`. A member is told of a gap in its
place. The first line of the output is the port; each line of the input is answered
by a line of figures.
"""

import json
import logging
import sys

import pymux

KINDS = {"nats": pymux.Nats, "redis": pymux.Redis}


def tell_gap(room, lost):
    """Tell the members in which place messages are missing."""
    for conn in room:
        conn.send(b"gap %d" % lost)


def main(kind, address, options):
    options = json.loads(options)
    if "cafile" in options:
        import ssl

        options["ssl"] = ssl.create_default_context(cafile=options.pop("cafile"))
    address = json.loads(address)
    where = address if isinstance(address, str) else tuple(address)
    room = pymux.Group("lobby", KINDS[kind](where, **options), on_gap=tell_gap)

    class Chat:
        def opened(self, conn):
            room.add(conn)

        def received(self, conn, data):
            room.send(data)

    logging.disable(logging.WARNING)
    lines = pymux.Lines(max_size=1 << 20)
    limits = pymux.Limits(max_output=1 << 28)
    server = pymux.Server(Chat(), ("127.0.0.1", 0), framing=lines, limits=limits)
    with server:
        print(server.address[1], flush=True)
        for _ in sys.stdin:
            figures = {
                "connected": room.connected,
                "dropped": room.dropped,
                "lost": room.lost,
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
