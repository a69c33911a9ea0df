"""A broker that says what a test has it say, one step at a time: NATS or Redis.

The mux is harvested by the test's thread, and so is what the broker waits for.
"""

import contextlib
import re
import socket
import time

import pymux

from . import util

INFO = b'INFO {"version":"2.9.10","headers":true,"max_payload":1048576}\r\n'
HELLO = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"
LOBBY = b"pymux.lobby"
OTHER = b"0123456789abcdef"  # a sender
PAUSE = 1.0  # seconds that a worker waits before it sends what has waited


class Scripted:
    """One broker, and the connection that it has accepted.

    Attributes:
        heard: what the connection has said and no test has asked for yet.
    """

    def __init__(self, mux, listener, wrap=lambda sock: sock):
        self.mux = mux
        self.listener = listener
        self.address = listener.getsockname()
        self.sock = None
        self.heard = b""
        self.over = False  # the other side has ended the connection
        self._wrap = wrap
        listener.setblocking(False)

    @property
    def backplane(self):
        return self.make()

    def make(self, **options):
        """A backplane that leads here."""
        return self.kind(self.address, **options)

    def step(self):
        """Harvest, and take what has come."""
        self.mux.harvest(0.002)
        try:
            while piece := self.sock and self.sock.recv(1 << 20):
                self.heard += piece
            self.over = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.over = True

    def accept(self, timeout=10):
        """Wait for a connection, which takes the place of an earlier one."""
        self.cut()
        deadline = time.monotonic() + timeout
        while True:
            self.mux.harvest(0.002)
            with contextlib.suppress(BlockingIOError):
                sock, _ = self.listener.accept()
                break
            assert time.monotonic() < deadline, "nobody has dialled"
        sock.setblocking(False)
        self.heard, self.over = b"", False
        self.sock = self._wrap(sock)

    def has_dialled(self):
        """Whether a connection waits; it is thrown away."""
        for _ in range(3):
            self.mux.harvest(0.002)
        with contextlib.suppress(BlockingIOError):
            self.listener.accept()[0].close()
            return True
        return False

    def hears(self, text, timeout=10):
        """Wait for these bytes; return what was said before them."""
        deadline = time.monotonic() + timeout
        while text not in self.heard:
            assert time.monotonic() < deadline, f"no {text!r} in {self.heard!r}"
            self.step()
        before, _, self.heard = self.heard.partition(text)
        return before

    def hears_nothing(self):
        """That a while brings no word."""
        for _ in range(5):
            self.step()
        assert self.heard == b""

    def say(self, *parts):
        """Say something, and have the mux take it."""
        for part in parts:
            self.sock.sendall(part)
            self.step()
        self.step()

    def cut(self):
        """End the connection."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def is_left(self, timeout=10):
        """Wait until the other side has ended the connection."""
        deadline = time.monotonic() + timeout
        while not self.over:
            assert time.monotonic() < deadline, "the connection is open"
            self.step()

    def closes(self):
        """The end of the test."""
        self.cut()
        self.listener.close()

    def published(self, subject=LOBBY):
        """The next publication: (sender, kind, number, data)."""
        stamp, data = self.publication(subject)
        found = re.fullmatch(rb"([0-9a-f]{16})([.?=])(\d+)", stamp)
        assert found, stamp
        return found[1], found[2], int(found[3]), data

    def until_asked(self):
        """The numbers of messages that come before the group's question."""
        numbers = []
        while True:
            _, kind, number, data = self.published()
            if kind == b"?":
                return numbers, number
            numbers.append((number, data))


class ScriptedNats(Scripted):
    kind = pymux.Nats
    ping, pong = b"PING\r\n", b"PONG\r\n"
    subscribing, leaving = b"SUB " + LOBBY, b"UNSUB "
    garbage = (
        b"BAH\r\n",
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a 1 x\r\n",
        b"HMSG a 1 9 5\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 999999999999\r\n",
        b"INFO 3\r\n",
        b"INFO {\r\n",
        b"INFO %b\r\n" % (b"[" * 60000),
        b"\xff\r\n",
        b"x" * 70000,
        b"PONG\r\n",
    )

    last_words = INFO + b"PING\r\n" * 50 + b"-ERR 'go'\r\n"

    def greet(self):
        """Accept, and take the connection in."""
        self.accept()
        self.say(INFO)
        said = self.hears(self.ping)
        self.answer()
        return said

    def answer(self, *subjects):
        """Say that all has been taken that was said."""
        self.say(self.pong * max(1, len(subjects)))

    def message(self, stamp, data, subject=LOBBY):
        head = b"NATS/1.0\r\nPymux: %b\r\n\r\n" % stamp
        sizes = len(head), len(head) + len(data)
        return b"HMSG %b 1 %d %d\r\n%b%b\r\n" % (subject, *sizes, head, data)

    def foreign(self, data):
        """A message of another program."""
        return b"MSG %b 1 reply.to %d\r\n%b\r\n" % (LOBBY, len(data), data)

    def refusal(self, text):
        return b"-ERR '%b'\r\n" % text

    def publication(self, subject):
        self.hears(b"HPUB " + subject + b" ")
        head, whole = map(int, self.hears(b"\r\n").split())
        while len(self.heard) < whole + 2:
            self.step()
        text, self.heard = self.heard[:whole], self.heard[whole + 2 :]
        assert text[:head].startswith(b"NATS/1.0\r\nPymux: ")
        return text[17 : head - 4], text[head:]


class ScriptedRedis(Scripted):
    kind = pymux.Redis
    ping, pong = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
    subscribing = b"$9\r\nSUBSCRIBE\r\n$11\r\n" + LOBBY
    leaving = b"$11\r\nUNSUBSCRIBE\r\n$11\r\n" + LOBBY
    garbage = (
        b"BAH\r\n",
        b"$x\r\n",
        b"*-7\r\n",
        b"$-7\r\n",
        b">3\r\n:x\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n*1\r\n:1\r\n$1\r\na\r\n",
        b">1\r\n$9\r\nsubscribe\r\n",
        b">3\r\n$9\r\nsubscribe\r\n*1\r\n:1\r\n:1\r\n",
    )

    last_words = b"+PONG\r\n" * 50

    def greet(self):
        """Accept, and take the connection in."""
        self.accept()
        said = self.hears(self.ping)
        self.answer(*re.findall(rb"(pymux\.\S+)\r\n", said))
        return said

    def answer(self, *subjects):
        """Say that all has been taken that was said."""
        self.say(HELLO)
        for subject in subjects:
            sub = (len(subject), subject)
            self.say(b">3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % sub)
        self.say(self.pong)

    def message(self, stamp, data, subject=LOBBY):
        return self.foreign(b"PYMUX/1 %b\n%b" % (stamp, data), subject)

    def foreign(self, data, subject=LOBBY):
        """A message of another program."""
        return b">3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(subject),
            subject,
            len(data),
            data,
        )

    def refusal(self, text):
        return b"-ERR %b\r\n" % text

    def publication(self, subject):
        self.hears(b"PUBLISH\r\n$%d\r\n%b\r\n$" % (len(subject), subject))
        size = int(self.hears(b"\r\n"))
        while len(self.heard) < size + 2:
            self.step()
        text, self.heard = self.heard[:size], self.heard[size + 2 :]
        head, _, data = text.partition(b"\n")
        assert head.startswith(b"PYMUX/1 ")
        return head[8:], data


KINDS = {"nats": ScriptedNats, "redis": ScriptedRedis}


@contextlib.contextmanager
def scripted(name, mux, **options):
    """A broker at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = KINDS[name](mux, listener, **options)
        try:
            yield broker
        finally:
            broker.closes()


class Heard:
    """A member of a group, and what its peer has got: lines."""

    def __init__(self, mux, **options):
        self.mux = mux
        self.conn, self.peer = util.pair(mux, pymux.Lines(), **options)
        self.peer.setblocking(False)
        self._data = b""

    @property
    def lines(self):
        """What has come so far."""
        for _ in range(2):
            self.mux.harvest(0.002)
        with contextlib.suppress(BlockingIOError):
            while piece := self.peer.recv(1 << 20):
                self._data += piece
        return self._data.decode().split("\n")[:-1]

    def wait(self, count, timeout=10):
        """The lines, once there are so many."""
        deadline = time.monotonic() + timeout
        while len(lines := self.lines) < count:
            assert time.monotonic() < deadline, lines
        return lines


def joined(broker, member, **options):
    """A group that its broker has subscribed, and that has asked the others."""
    room = pymux.Group("lobby", broker.make(**options))
    room.add(member.conn)
    broker.greet()
    assert broker.until_asked() == ([], 0)
    broker.hears(broker.ping)
    assert room.connected
    return room


def returned(broker, clock):
    """The broker is there again, and the pause is over."""
    broker.greet()
    broker.hears_nothing()
    clock.advance(PAUSE, broker.mux)
