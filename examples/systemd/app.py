"""A handler for the units beside it: lines in capitals, and a goodbye at the end."""

from __future__ import annotations

import pymux


class Upper:
    """Answers each line in capitals. A client that is told to leave finishes first."""

    def received(self, conn: pymux.Connection, line: bytes) -> bytes | None:
        if line == b"quit":
            conn.close()
            return b"goodbye"
        return line.upper()

    def draining(self, conn: pymux.Connection) -> None:
        """Called at `systemctl stop`, when the connection's turn has come."""
        conn.send(b"the server leaves: finish, and send quit")


handler = Upper()
