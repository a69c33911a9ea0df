"""The whole life of connections, against a model of the one promise.

Every message that was received, and every byte that was accepted for sending,
arrives in order, once, or its connection is reported in `closed` with a cause.

Hypothesis chooses what clients and server do to each other. The model keeps for each
connection what its client sent, what its handler saw, what the server was asked to
send, and what its client got; at the end the four must agree.

PYMUX_LIFE_EXAMPLES sets how many lives of a server are tried for each handler form
on each backend.
"""

import contextlib
import errno
import os
import socket
import tempfile

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

import pymux

from . import util
from .util import Boom

EXAMPLES = int(os.environ.get("PYMUX_LIFE_EXAMPLES", "30"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
PATTERN = bytes(range(65, 91)) * 20_000  # long answers are cut from it


class Side:
    """The server's end of a connection: what happened there, in program order."""

    def __init__(self, conn):
        self.conn = conn
        self.seen = []  # messages that reached the handler
        self.accepted = bytearray()  # what was accepted for sending, framed
        self.certain = 0  # how much of it was not sent to a peer that may be gone
        self.ended = None  # "close" or "abort" when the server did it
        self.raised = False  # a handler raised with this connection in hand
        self.unsure = False  # send_many did not say whether this one took it
        self.errors = []  # what `closed`, or the coroutine, was given: once

    def accept(self, data, certain=True):
        """Note what the server has taken for sending."""
        self.accepted += data + b"\n"
        if certain:
            self.certain = len(self.accepted)

    def send(self, data, certain=True):
        """Send, as far as there is still somebody to send to."""
        with contextlib.suppress(pymux.ConnectionClosed):
            self.conn.send(data)
            self.accept(data, certain)

    def end(self, how):
        """Close or abort."""
        getattr(self.conn, how)()
        self.ended = "abort" if self.ended == "abort" else how

    def answer(self, data):
        """Do what a message asks for; what is to be answered, or None."""
        self.seen.append(data)
        word, _, rest = data.partition(b" ")
        if word == b"long" and rest.isdigit():
            return PATTERN[: int(rest)]
        if word == b"raise":
            self.send(b"last words")
            self.raised = True
            raise Boom
        if word in (b"close", b"abort"):
            self.send(b"last words")
            self.end(word.decode())
            return None
        if word == b"both":
            self.send(b"sent first")
        return None if word == b"quiet" else data.upper()


class Sides:
    """Handlers in every form that keep a Side for each connection."""

    def __init__(self):
        self.by_name = {}  # name: Side

    def of(self, conn):
        """The Side of a connection, new at its first mention."""
        if conn.state is None:
            conn.state = Side(conn)
        return conn.state

    def name(self, conn, data):
        """The Side of a connection, known by name once it has said hello."""
        side = self.of(conn)
        if data.startswith(b"hello"):
            self.by_name[data] = side
        return side

    def answer(self, conn, data):
        """What a connection's message is to be answered with, or None."""
        return self.name(conn, data).answer(data)

    def answer_one(self, conn, data):
        """The function handler."""
        reply = self.answer(conn, data)
        if reply is not None:
            self.of(conn).accept(reply)
        return reply

    def answer_batch(self, batch):
        """The batch handler."""
        try:
            replies = [self.answer(conn, data) for conn, data in batch]
        except Boom:
            for conn, data in batch:
                self.name(conn, data).raised = True
            raise
        batch.reply(replies)
        for conn, reply in zip(batch.conns, replies):
            if reply is not None and not self.of(conn).ended:
                self.of(conn).accept(reply)

    async def answer_all(self, conn):
        """The coroutine handler."""
        side = self.of(conn)
        try:
            async for data in conn:
                reply = self.answer(conn, data)
                if reply is not None:
                    side.send(reply)
                if side.ended:
                    break
        except Boom as error:
            aborted = OSError(errno.ECONNABORTED, "as closed would be given")
            aborted.__cause__ = error
            side.errors.append(aborted)
            raise
        except pymux.ConnectionClosed as error:
            side.errors.append(error)
            raise
        else:
            side.errors.append(None)

    def closed(self, conn, error):
        """The closed method of the object handlers."""
        self.of(conn).errors.append(error)

    def handler(self, form):
        """The handler in one of the forms."""
        methods = {"closed": lambda _, *args: self.closed(*args)}
        batched = pymux.batched(self.answer_batch)
        if form == "object":
            methods["received"] = lambda _, *args: self.answer_one(*args)
        else:
            methods["received"] = pymux.batched(lambda _, b: self.answer_batch(b))
        return {
            "function": self.answer_one,
            "coroutine": self.answer_all,
            "batch": batched,
        }.get(form) or type("Handler", (), methods)()


class Client:
    """A client: its socket, what it sent and what it got."""

    def __init__(self, name, address):
        self.name = name
        self.sock = util.connect(address)
        self.tcp = self.sock.family == socket.AF_INET
        if self.tcp:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = bytearray()
        self.late = b""  # sent when the server had begun to stop: heard or not
        self.got = bytearray()
        self.ended = False  # it has ended its stream
        self.reset = False  # it left without a word
        self.lost = None  # the errno with which the server left it

    def send(self, data):
        """Send, unless it has ended its stream or the server left it."""
        if self.ended or self.reset or self.lost:
            return
        try:
            self.sock.sendall(data)
            self.sent += data
        except ConnectionError as error:
            self.lost = error.errno

    def talk_on(self):
        """Send on while the server stops, as far as it goes."""
        if self.ended or self.reset or self.lost:
            return
        words = b"\nlate" * 2000
        self.sock.setblocking(False)
        with contextlib.suppress(OSError):  # full; or it has all, and has left
            while len(self.late) < len(words):
                rest = words[len(self.late) :]
                self.late += rest[: self.sock.send(rest)]
        self.sock.settimeout(10)

    def half_close(self):
        """End the stream."""
        if not (self.ended or self.reset):
            self.ended = True
            with contextlib.suppress(OSError):  # the server may have left
                self.sock.shutdown(socket.SHUT_WR)

    def leave(self):
        """Reset over TCP, close over a Unix socket."""
        if not self.reset:
            self.reset = True
            (util.reset if self.tcp else socket.socket.close)(self.sock)

    def read(self, size):
        """Read what is there, up to a size."""
        if self.reset or self.lost:
            return
        self.sock.setblocking(False)
        try:
            self.got += self.sock.recv(size)
        except BlockingIOError:
            pass
        except ConnectionError as error:
            self.lost = error.errno
        finally:
            self.sock.settimeout(10)

    def read_to_the_end(self):
        """Read until the server ends the stream."""
        if not self.reset and not self.lost:
            data, self.lost = util.until_end(self.sock)
            self.got += data

    def messages(self, more=b""):
        """The lines that it sent, an unfinished last one too."""
        lines = bytes(self.sent + more).split(b"\n")
        return lines if lines[-1] else lines[:-1]

    def said(self, seen):
        """Whether it has said this, and nothing between; the last of it may be cut
        off, where it came late."""
        every = self.messages(self.late)[: len(seen)]
        if seen != every and len(seen) == len(every) >= len(self.messages()):
            return seen[:-1] == every[:-1] and every[-1].startswith(seen[-1])
        return seen == every


COMMANDS = st.one_of(
    st.binary(max_size=30).map(lambda data: b"say " + data.replace(b"\n", b"-")),
    st.sampled_from([b"", b"quiet", b"both", b"both of them"]),
    st.sampled_from([10, 5_000, 70_000, 300_000]).map(lambda n: b"long %d" % n),
)
ENDINGS = st.sampled_from([b"raise", b"close", b"abort"])
LIMITS = st.sampled_from(
    [None, pymux.Limits(high_water=100, low_water=10), pymux.Limits(high_water=20_000)]
)


class Life(RuleBasedStateMachine):
    """One server, its clients, and what they do to each other."""

    clients = Bundle("clients")

    def __init__(self, backend, form):
        super().__init__()
        self.backend = backend
        self.form = form
        self.sides = Sides()
        self.all = []
        self.told = []  # errors given to on_error
        self.server = None

    @initialize(
        limits=LIMITS, tcp=st.booleans(), stop=st.booleans(), talk=st.booleans()
    )
    def start(self, limits, tcp, stop, talk):
        """A server; how its life is to end is chosen at once."""
        self.directory = tempfile.TemporaryDirectory()
        path = os.path.join(self.directory.name, "s")
        self.stopping = stop
        self.talking = talk  # clients send on while the server stops
        self.server = pymux.Server(
            self.sides.handler(self.form),
            ("127.0.0.1", 0) if tcp else path,
            framing=pymux.Lines(),
            limits=limits,
            backend=self.backend,
            drain_timeout=20,
            on_error=lambda conn, error: self.told.append(error),
        ).start()

    def new_client(self):
        """A client that has sent its name, which may not have arrived yet."""
        name = b"hello %d" % len(self.all)
        client = Client(name, self.server.address)
        self.all.append(client)
        client.send(name + b"\n")
        return client

    def side(self, client):
        """The server's end of a client's connection."""
        return self.sides.by_name[client.name]

    def is_here(self, client):
        """Whether what is sent unasked to a client must arrive.

        One who has ended its stream may be gone as soon as it has its answers; a
        coroutine sees the end, and decides itself how long it is sent to.
        """
        return self.form == "coroutine" or not client.ended

    @rule(target=clients)
    def connect(self):
        """A client comes and is greeted."""
        client = self.new_client()
        greeting = client.name.upper() + b"\n"
        client.got += util.recv_exactly(client.sock, len(greeting))
        return client

    @rule(
        client=clients,
        commands=st.lists(COMMANDS, min_size=1, max_size=8),
        whole=st.booleans(),
        cuts=st.lists(st.integers(0, 400), max_size=3).map(sorted),
    )
    def send(self, client, commands, whole, cuts):
        """Messages in pieces; the last may be unfinished."""
        data = b"\n".join(commands) + (b"\n" if whole else b"")
        for start, end in zip([0, *cuts], [*cuts, len(data)]):
            if start < end:
                client.send(data[start:end])

    @rule(client=clients, ending=ENDINGS, more=COMMANDS)
    def send_an_ending(self, client, ending, more):
        """A message that makes the handler end the connection, and another."""
        client.send(b"\n%s\n%s\n" % (ending, more))

    @rule(client=clients, size=st.sampled_from([1, 1000, 1_000_000]))
    def read(self, client, size):
        """The client reads what is there."""
        client.read(size)

    @rule(client=clients)
    def half_close(self, client):
        """The client ends its stream and goes on reading."""
        client.half_close()

    @rule(client=clients)
    def leave(self, client):
        """The client leaves without a word."""
        client.leave()

    @rule(client=clients, what=st.sampled_from(["pause", "resume", "close", "abort"]))
    def at_the_server(self, client, what):
        """Somebody at the server pauses, resumes, closes or aborts it."""
        side = self.side(client)
        if what in ("close", "abort"):
            util.in_server(self.server, lambda mux: side.end(what))
        else:
            util.in_server(self.server, lambda mux: getattr(side.conn, what)())

    @rule(client=clients, size=st.sampled_from([0, 7, 5_000, 200_000]))
    def push(self, client, size):
        """Somebody at the server sends, unasked."""
        side, here = self.side(client), self.is_here(client)
        util.in_server(self.server, lambda mux: side.send(PATTERN[:size], here))

    @rule(size=st.sampled_from([1, 30_000]))
    def push_many(self, size):
        """The server sends to every connection that it has."""

        def send_many(mux):
            sides = {
                side: here
                for side, here in everybody.items()
                if not (side.conn.closed or side.ended or side.raised)
            }
            took = mux.send_many([side.conn for side in sides], PATTERN[:size])
            for side, here in sides.items():
                side.accept(PATTERN[:size], here)
                side.unsure = side.unsure or took < len(sides)

        everybody = {self.side(client): self.is_here(client) for client in self.all}

        util.in_server(self.server, send_many)

    def teardown(self):
        """The end, gentle or by stop; then everything must agree."""
        if self.server is None:
            return
        try:
            self.finish()
            for client in self.all:
                self.check(client)
            self.check_figures()
        finally:
            for client in self.all:
                client.sock.close()
            self.server.stop(0)
            self.directory.cleanup()

    def finish(self):
        """Bring every connection to its end."""
        for side in list(self.sides.by_name.values()):
            util.in_server(self.server, lambda mux, side=side: side.conn.resume())
        if self.stopping:
            with util.then_stopped(self.server):
                for client in self.all:
                    client.send(b"\nsay the last word")
                for _ in range(2):
                    self.new_client()
            for client in self.all if self.talking else ():
                client.talk_on()
        else:
            for client in self.all:
                client.half_close()
        for client in self.all:
            client.read_to_the_end()
            client.sock.close()
        if not self.stopping:
            util.wait_until(lambda: self.server.stats().connections == 0)
        self.server.stop()

    def check(self, client):
        """The promise, for one connection."""
        side, sent = self.side(client), client.messages()
        assert client.said(side.seen)
        assert side.unsure or side.accepted.startswith(client.got)
        if not client.reset and side.ended != "abort":
            assert client.lost is None
            assert side.unsure or len(client.got) >= side.certain
            if not side.ended and not side.raised:
                assert len(side.seen) >= len(sent)
        if self.form not in ("function", "batch"):
            (error,) = side.errors
            self.check_cause(client, side, error)

    def check_cause(self, client, side, error):
        """The cause that `closed` was given, or that the coroutine was."""
        number = error and error.errno
        if not client.reset and not side.raised:
            assert number is None or (side.ended and self.form == "coroutine")
        elif not client.reset and not side.ended:
            assert number == errno.ECONNABORTED
            assert isinstance(error.__cause__, Boom)
        elif not side.raised and not side.ended:
            certain = client.tcp and not client.ended
            expected = [errno.ECONNRESET] if certain else [errno.ECONNRESET, None]
            assert number in expected

    def check_figures(self):
        """The statistics, and what was told of."""
        stats = self.server.stats()
        assert stats.accepted == stats.closed == len(self.all)
        assert (stats.connections, stats.queued, stats.listeners) == (0, 0, 0)
        assert {type(error) for error in self.told} <= {Boom}


@pytest.mark.parametrize("form", util.FORMS)
def test_the_one_promise_holds_whatever_happens(backend, form):
    run_state_machine_as_test(lambda: Life(backend, form), settings=SETTINGS)
