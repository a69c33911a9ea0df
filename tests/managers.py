"""The end of NOTIFY_SOCKET that systemd has."""

import socket
import struct
import time

PATIENCE = 40  # seconds, for a machine that is busy
BEAT = "WATCHDOG=1"
CREDENTIALS = struct.Struct("3i")  # process, user, group


class Manager:
    """Hears what a service says of itself.

    Args:
        path: of the socket; an abstract one begins with a zero byte.
    """

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.sock.settimeout(PATIENCE)

    def hear(self):
        """The lines of the next message."""
        return self.sock.recv(4096).decode().splitlines()

    def hear_until(self, line):
        """All messages up to one that has a line."""
        heard = []
        while not heard or line not in heard[-1]:
            heard.append(self.hear())
        return heard


class Watcher(Manager):
    """Hears who says it, too, and keeps the watchdog's beats apart (Linux).

    Attributes:
        speakers: the numbers of the processes that have spoken.
    """

    def __init__(self, path):
        super().__init__(path)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.speakers = set()

    def next(self):
        """The next message; its speaker is noted."""
        room = socket.CMSG_SPACE(CREDENTIALS.size)
        data, rights, _, _ = self.sock.recvmsg(4096, room)
        ((_, _, who),) = rights
        self.speakers.add(CREDENTIALS.unpack(who)[0])
        return data.decode()

    def hear(self):
        """The lines of the next message that is no beat, as a dict."""
        by = time.monotonic() + PATIENCE
        while (said := self.next()) == BEAT:
            assert time.monotonic() < by
        return dict(line.split("=", 1) for line in said.split("\n"))

    def beat(self):
        """Wait for a beat, which is next."""
        assert self.next() == BEAT

    def states(self, count):
        """The next so many states, in order."""
        return [self.state() for _ in range(count)]

    def state(self):
        """The next state. A reload comes with the time of its signal."""
        said = self.hear()
        said.pop("STATUS", None)
        self.since = said.pop("MONOTONIC_USEC", None)
        ((name, value),) = said.items()
        assert value == "1"
        assert (self.since is not None) is (name == "RELOADING")
        return name

    def silent(self):
        """Whether nothing but beats is left."""
        self.sock.setblocking(False)
        try:
            self.hear()
        except BlockingIOError:
            return True
        return False
