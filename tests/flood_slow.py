"""Slow readers and slow writers: each moves one byte at a time.

    python -m tests.flood_slow OPTIONS

Says `ready`; moves at `go`; at `halt` says how many bytes that were.
"""

import contextlib
import json
import resource
import select
import socket
import sys

TICK = 0.002  # seconds, in which
EACH = 10  # of either kind move a byte


def main():
    """As told."""
    options = json.loads(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address, count = tuple(options["address"]), options["count"]
    writers = [socket.create_connection(address) for _ in range(count)]
    readers = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address)
        sock.sendall(b"1048576\n")
        readers.append(sock)
    for sock in writers + readers:
        sock.setblocking(False)
    print("ready", flush=True)
    at = 0
    while sys.stdin.readline():
        print("going", flush=True)
        moved = 0
        while not select.select([sys.stdin], [], [], TICK)[0]:
            for _ in range(EACH):
                with contextlib.suppress(BlockingIOError):
                    moved += writers[at % count].send(b"y")
                with contextlib.suppress(BlockingIOError):
                    moved += len(readers[at % count].recv(1))
                at += 1
        sys.stdin.readline()
        print(moved, flush=True)


if __name__ == "__main__":
    main()
