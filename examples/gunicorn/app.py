"""Handlers for gunicorn: see pymux_worker.py."""

import os

import pymux

lobby = pymux.Group("lobby")  # of one worker; with a backplane, of all


class Chat:
    """Everybody hears everybody in the same worker."""

    def opened(self, conn: pymux.Connection) -> None:
        lobby.add(conn)

    def received(self, conn: pymux.Connection, line: bytes) -> None:
        lobby.send(line)


def who(conn: pymux.Connection, line: bytes) -> bytes:
    """Answer with the number of the worker's process."""
    return b"%d %b" % (os.getpid(), line)
