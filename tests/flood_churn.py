"""A client that connects, asks, checks its answer and leaves, as often as it can.

    python -m tests.flood_churn OPTIONS

Most leave by a reset, so that their ports are free again; some close in order, some
leave before their answer. What is not their own answer is an AssertionError.
"""

import json
import os
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)
PATIENCE = struct.pack("ll", 30, 0)  # the kernel's, which costs no call for each wait


def main():
    """Until the time is over, or so many have been."""
    options = json.loads(sys.argv[1])
    address, number = tuple(options["address"]), options["number"]
    secret = os.urandom(16).hex().encode()
    begun = time.monotonic()
    deadline = begun + options["seconds"]
    connections = checked = 0
    while connections < options["most"] and time.monotonic() < deadline:
        sock = socket.socket()
        connections += 1
        # other source addresses, so that a port in TIME_WAIT is not needed again
        if connections % 16 == 1:
            host = f"127.{1 + number}.{connections // 16 % 250}.{1 + connections % 251}"
            sock.bind((host, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PATIENCE)
        sock.connect(address)
        words = b"%s %d %d\n" % (secret, number, connections)
        sock.sendall(words)
        if connections % 7:
            got = sock.recv(4096)
            while got and len(got) < len(words):
                got += sock.recv(4096)
            assert got == words, f"asked for {words}, got {got}"
            checked += 1
        if connections % 16 != 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
    figures = {"connections": connections, "checked": checked}
    figures["seconds"] = time.monotonic() - begun
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
