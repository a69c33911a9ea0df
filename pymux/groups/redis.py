"""Redis: channels of one connection that publishes and subscribes, by RESP3."""

from __future__ import annotations

from typing import Any

from . import resp
from .backplane import Backplane, BadTalk, Link
from .group import Group
from .stamps import DIGITS, SENDER

__all__ = ["Redis"]

HEAD = b"PYMUX/1 "
KEY = len(HEAD) + SENDER + 1  # bytes of a message before its number
LAST = KEY + DIGITS + 1  # bytes of the longest stamp
MAX_PAYLOAD = (1 << 29) - LAST  # Redis' proto-max-bulk-len


def _reader() -> tuple[Any, type[Exception], type[Exception]]:
    """Return a reader of RESP3: hiredis', or else ours; its two errors."""
    try:
        import hiredis
    except ImportError:
        return resp.Reader(), resp.ReplyError, BadTalk
    return hiredis.Reader(), hiredis.ReplyError, hiredis.ProtocolError


class Redis(Backplane):
    """A Redis server that carries messages between the groups of several workers.

    Give one object to all groups. They share a connection of their mux, which is
    dialled in the mux's thread, and again after 20 ms to 1 s when it is lost. A name is
    resolved in another thread. The server needs version 6 or later, or to be another
    that speaks RESP3. The package ``hiredis`` is used if it is installed.

    Args:
        address: (host, port), a path, a URL like ``"tls://redis.example:6380"``, or an
            `Endpoint` without handler and framing.
        ssl: an `ssl.SSLContext`, or True, for TLS; None is plain text.
        limits: of the connection; None lets 16 MiB wait for a slow server.
        user: a user's name, with `password`; None is ``default``.
        password: the user's.
        keep: the most messages that wait while the server is away; beyond it the
            oldest are dropped, and counted in `Group.dropped`.
        keep_bytes: the same in bytes of data.

    Raises:
        TypeError, ValueError: an argument is wrong or does not apply.

    >>> Redis("/run/redis.sock", keep=100)
    Redis(address='/run/redis.sock', ssl=None, limits=None, user=None, keep=100, \
keep_bytes=1048576)
    """

    _max_payload = MAX_PAYLOAD

    def _talk(self, link: Link) -> RedisTalk:
        return RedisTalk(self, link)


class RedisTalk:
    """The protocol of a connection."""

    def __init__(self, backplane: Redis, link: Link) -> None:
        self.max_payload: int = backplane._max_payload
        self._backplane = backplane
        self._link = link
        self._greeted = False  # HELLO was answered
        self._ready = False  # and the first PING
        self._reader, self._refusal, self._garbage = _reader()

    # --- to the server ----------------------------------------------------------

    def open(self) -> None:
        """Begin; the answer to the PING tells that every subscription is in force."""
        user, password = self._backplane.user, self._backplane.password
        words = [b"HELLO", b"3"]
        if password is not None:
            words += [b"AUTH", (user or "default").encode(), password.encode()]
        begin = resp.command(*words)
        if self._link.groups:
            begin += resp.command(b"SUBSCRIBE", *self._link.groups)
        self._link.say(begin + resp.command(b"PING"))

    def subscribe(self, subject: bytes) -> None:
        """Subscribe a channel."""
        self._link.say(resp.command(b"SUBSCRIBE", subject))

    def unsubscribe(self, subject: bytes) -> None:
        """End a subscription."""
        self._link.say(resp.command(b"UNSUBSCRIBE", subject))

    def publish(self, subject: bytes, stamp: bytes, data: bytes) -> None:
        """Publish a message, behind its stamp."""
        size = len(HEAD) + len(stamp) + 1 + len(data)
        self._link.say(
            b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b%b\n%b\r\n"
            % (len(subject), subject, size, HEAD, stamp, data)
        )

    def ping(self) -> None:
        """Make the server say PONG."""
        self._link.say(resp.command(b"PING"))

    # --- from the server --------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes; give messages to their groups, in order.

        Raises:
            BadTalk: the bytes are not Redis', or it has refused HELLO.
        """
        now: Group | None = None
        senders: dict[bytes, int] = {}
        run: list[bytes] = []
        gets, groups = self._reader.gets, self._link.groups
        try:
            self._reader.feed(data)
            while (value := gets()) is not False:
                if not isinstance(value, list) or len(value) != 3:
                    self._take_reply(value)
                    continue
                kind, channel, text = value
                if kind != b"message":
                    self._take_reply(value)
                    continue
                try:
                    group, stamped = groups.get(channel), text.startswith(HEAD)
                except (TypeError, AttributeError):  # it is no bytes
                    raise BadTalk(f"it has pushed {value!r:.80}") from None
                if group is not now:
                    if now is not None and run:
                        now._take(run)
                    if group is None:  # it has just left
                        now = None
                        continue
                    now, senders = group, group._senders
                if stamped and now is not None:
                    key, end = text[:KEY], text.find(b"\n", KEY, LAST)
                    try:
                        number = int(text[KEY:end])
                    except ValueError:
                        number = -1  # of another program
                    if senders.get(key) == number - 1:
                        senders[key] = number
                        text = text[end + 1 :]
                    elif number >= 0 and end > 0:
                        if run:
                            now._take(run)
                        if not now._unusual(key, number):
                            continue
                        text = text[end + 1 :]
                run.append(text)
        except self._garbage as error:
            raise BadTalk(str(error)) from None
        except TypeError as error:  # of hiredis: a list is a key, or in a set
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # it is of a call below
            raise BadTalk(f"it has sent what Redis does not: {error}") from None
        finally:
            if now is not None and run:
                now._take(run)

    def _take_reply(self, value: Any) -> None:
        """Take anything but a message: the answer to a command, or news of one."""
        if isinstance(value, self._refusal):
            if not self._greeted:
                raise BadTalk(f"it has said: {value}")
            self._link.refused(str(value))
        elif isinstance(value, list) and value[:1] == [b"subscribe"]:
            if len(value) != 3 or not isinstance(value[1], bytes):
                raise BadTalk(f"it has pushed {value!r:.80}")
            self._link.confirmed(value[1])
        elif not self._greeted:
            self._greeted = True
        elif value == b"PONG" and not self._ready:
            self._ready = True
            self._link.in_force()
