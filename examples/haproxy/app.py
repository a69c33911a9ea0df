"""A handler for the balancer beside it: lines in capitals, and who has asked."""

from __future__ import annotations

import pymux


class Upper:
    """Answers each line in capitals. A client that is told to leave finishes first."""

    def received(self, conn: pymux.Connection, line: bytes) -> bytes | None:
        if line == b"quit":
            conn.close()
            return b"goodbye"
        if line == b"who":  # the client, and not the balancer
            return f"{conn.peer[0]}:{conn.peer[1]}".encode()
        return line.upper()

    def draining(self, conn: pymux.Connection) -> None:
        """Called when the server leaves and the connection's turn has come."""
        conn.send(b"the server leaves: finish, and send quit")


handler = Upper()
