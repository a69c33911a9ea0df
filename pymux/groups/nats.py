"""NATS: text lines, and messages whose sizes these lines tell.

A message is ``HMSG <subject> <sid> [<reply-to>] <size of the head> <size>``, then the
head, then the data. Lines repeat, so what a line means is looked up.
"""

from __future__ import annotations

import json
from struct import Struct
from typing import Any

from .backplane import Backplane, BadTalk, Link
from .group import Group
from .stamps import DIGITS, SENDER

__all__ = ["Nats"]

HEAD = b"NATS/1.0\r\nPymux: "
KEY = len(HEAD) + SENDER + 1  # bytes of a head before the number
MAX_PAYLOAD = 1 << 20  # the default of nats-server
LONGEST_LINE = 1 << 16  # INFO has the addresses of a cluster
LONGEST = 1 << 27  # bytes of a message, far more than any server allows
LINES = 4096  # that are remembered

# What a line means: the group, if it is subscribed; the size of its head; the size of
# all; and where the head is as long as one of ours, how to take apart messages that
# begin with the same line: the line, the stamp before the number, the number, the data.
Meaning = tuple[Group | None, int, int, Struct | None]


class Nats(Backplane):
    """A NATS server that carries messages between the groups of several workers.

    Give one object to all groups. They share a connection of their mux, which is
    dialled in the mux's thread, and again after 20 ms to 1 s when it is lost. A name is
    resolved in another thread. The server needs version 2.2 or later.

    Args:
        address: (host, port), a path, a URL like ``"tls://nats.example:4222"``, or an
            `Endpoint` without handler and framing.
        ssl: an `ssl.SSLContext`, or True, for TLS from the first byte: the server's
            configuration needs ``handshake_first: true`` (version 2.10.4).
        limits: of the connection; None lets 16 MiB wait for a slow server.
        user: a user's name, with `password`.
        password: the user's, or without `user` a token.
        keep: the most messages that wait while the server is away; beyond it the
            oldest are dropped, and counted in `Group.dropped`.
        keep_bytes: the same in bytes of data.

    Raises:
        TypeError, ValueError: an argument is wrong or does not apply.

    >>> Nats(("127.0.0.1", 4222), user="chat", password="secret").keep
    1000
    """

    _max_payload = MAX_PAYLOAD - KEY - DIGITS - 4

    def _talk(self, link: Link) -> NatsTalk:
        return NatsTalk(self, link)


class NatsTalk:
    """The protocol of a connection."""

    def __init__(self, backplane: Nats, link: Link) -> None:
        self.max_payload: int = backplane._max_payload
        self._backplane = backplane
        self._link = link
        self._told = False  # the server's INFO has come
        self._parts: list[bytes] = []  # received, and not enough of it
        self._have = 0  # their bytes
        self._need = 0  # how many make it worth while to look
        self._meanings: dict[bytes, Meaning] = {}
        self._numbers: dict[bytes, int] = {}  # the sid of each subject
        self._last = 0  # sid
        self._first: list[bytes] = []  # subjects that the answer to INFO subscribes
        self._pongs: list[list[bytes] | None] = []  # what each answer confirms

    # --- to the server ----------------------------------------------------------

    def open(self) -> None:
        """Wait for the server's INFO."""

    def subscribe(self, subject: bytes) -> None:
        """Subscribe; the answer to a PING tells that it is in force."""
        if not self._told:
            return  # the answer to INFO subscribes all
        self._link.say(self._sub(subject) + b"PING\r\n")
        self._pongs.append([subject])

    def _sub(self, subject: bytes) -> bytes:
        self._last += 1
        self._numbers[subject] = self._last
        return b"SUB %b %d\r\n" % (subject, self._last)

    def unsubscribe(self, subject: bytes) -> None:
        """End a subscription."""
        number = self._numbers.pop(subject, None)
        if number is not None:
            self._link.say(b"UNSUB %d\r\n" % number)
        self._meanings.clear()

    def publish(self, subject: bytes, stamp: bytes, data: bytes) -> None:
        """Publish a message, with its stamp in the head."""
        head = len(HEAD) + len(stamp) + 4
        self._link.say(
            b"HPUB %b %d %d\r\n%b%b\r\n\r\n%b\r\n"
            % (subject, head, head + len(data), HEAD, stamp, data)
        )

    def ping(self) -> None:
        """Make the server say PONG."""
        self._pongs.append([])
        self._link.say(b"PING\r\n")

    def _answer_info(self, info: dict[str, Any]) -> None:
        """Take what the server tells of itself; answer the first time."""
        most = info.get("max_payload")
        if isinstance(most, int) and most > 0:
            self.max_payload = max(most - KEY - DIGITS - 4, 0)
        if self._told:
            return
        self._told = True
        if not info.get("headers"):
            raise BadTalk(f"NATS {info.get('version')} has no headers; 2.2 is needed")
        if info.get("tls_required") and self._backplane.ssl is None:
            raise BadTalk("it requires TLS, and ssl is None")
        options: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "echo": False,  # what is published here does not come back
            "lang": "python",
            "version": "1",
            "name": "pymux",
            "protocol": 1,
        }
        user, password = self._backplane.user, self._backplane.password
        if user is not None:
            options.update(user=user, **{"pass": password})
        elif password is not None:
            options["auth_token"] = password
        subjects = self._first = list(self._link.groups)
        text = b"CONNECT %b\r\n" % json.dumps(options).encode()
        self._link.say(text + b"".join(map(self._sub, subjects)) + b"PING\r\n")
        self._pongs.append(None)

    # --- from the server --------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes; give messages to their groups, in order.

        Raises:
            BadTalk: the bytes are not NATS'.
        """
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        self._need = 0
        at = self._cut(data)
        if at < len(data):
            self._parts.append(data[at:] if at else data)
            self._have = len(data) - at

    def _cut(self, data: bytes) -> int:
        """Take every whole line and message; return where the rest begins."""
        at, size = 0, len(data)
        find, meanings = data.find, self._meanings
        now: Group | None = None
        senders: dict[bytes, int] = {}
        run: list[bytes] = []
        try:
            while (end := find(b"\r\n", at)) >= 0:
                line = data[at:end]
                meaning = meanings.get(line)
                if meaning is None:
                    meaning = self._look(line)
                    if meaning is None:  # no message
                        at = end + 2
                        continue
                group, head, whole, alike = meaning
                start = end + 2
                end = start + whole
                if end + 2 > size:
                    self._need = end + 2 - at
                    return at
                at = end + 2
                if group is not now:
                    if now is not None and run:
                        now._take(run)
                    if group is None:  # it has just left
                        continue
                    now, senders = group, group._senders
                begin = start + head
                if alike is not None:
                    key = data[start : start + KEY]
                    try:
                        number = int(data[start + KEY : begin - 4])
                    except ValueError:
                        number = -1  # of another program
                    if senders.get(key) == number - 1:
                        senders[key] = number
                    elif number >= 0 and key.startswith(HEAD) and now is not None:
                        if run:
                            now._take(run)
                        if not now._unusual(key, number):
                            continue
                run.append(data[begin:end])
                if alike is not None and data.startswith(line, at):
                    at = _take_alike(data, at, line, alike, senders, run)
            if size - at > LONGEST_LINE:
                raise BadTalk(f"it has sent a line of more than {LONGEST_LINE} bytes")
            return at
        finally:
            if now is not None and run:
                now._take(run)

    def _look(self, line: bytes) -> Meaning | None:
        """Tell what the line before a message means; do what any other line says."""
        word, _, rest = line.partition(b" ")
        if word in (b"HMSG", b"MSG"):
            parts = rest.split()
            try:
                head = int(parts[-2]) if word == b"HMSG" else 0
                whole = int(parts[-1])
                if not 0 <= head <= whole <= LONGEST or len(parts) < 3:
                    raise ValueError
            except (ValueError, IndexError):
                raise _unknown(line) from None
            if len(self._meanings) >= LINES:
                self._meanings.clear()
            alike = None
            if 4 < head - KEY <= DIGITS + 4:
                first, digits, size = len(line) + 2, head - KEY - 4, whole - head
                alike = Struct(f"{first}s{KEY}s{digits}s4x{size}s2x")
            meaning = self._link.groups.get(parts[0]), head, whole, alike
            if meaning[0] is not None:
                self._meanings[line] = meaning
            return meaning
        if word == b"PING":
            self._link.say(b"PONG\r\n")
        elif word == b"PONG":
            self._take_pong()
        elif word == b"INFO":
            try:
                info = json.loads(rest)
                if not isinstance(info, dict):
                    raise ValueError
            except (ValueError, RecursionError):  # also of its encoding
                raise _unknown(line) from None
            self._answer_info(info)
        elif word == b"-ERR":
            self._link.refused(rest[:200].decode(errors="replace").strip("' "))
        elif word != b"+OK":
            raise _unknown(line)
        return None

    def _take_pong(self) -> None:
        if not self._pongs:
            raise _unknown(b"PONG")
        subjects = self._pongs.pop(0)
        for subject in self._first if subjects is None else subjects:
            if subject in self._numbers:
                self._link.confirmed(subject)
        if subjects is None:
            self._link.in_force()


def _take_alike(
    data: bytes,
    at: int,
    line: bytes,
    alike: Struct,
    senders: dict[bytes, int],
    run: list[bytes],
) -> int:
    """Take messages that begin with the same line and have the next numbers.

    Most of a burst are such, and this takes two thirds of the time.

    Returns:
        Where the rest begins.
    """
    line += b"\r\n"
    count = (len(data) - at) // alike.size
    whole = memoryview(data)[at : at + count * alike.size]
    for first, key, digits, text in alike.iter_unpack(whole):
        try:
            number = int(digits)
        except ValueError:  # of another program
            break
        if first != line or senders.get(key) != number - 1:
            break
        senders[key] = number
        run.append(text)
        at += alike.size
    return at


def _unknown(line: bytes) -> BadTalk:
    return BadTalk(f"it has sent {line[:80]!r}, which NATS does not have here")
