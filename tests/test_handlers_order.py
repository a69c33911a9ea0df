"""Output is in program order, whatever handlers do to any of their connections."""

import contextlib
import random

import pytest

import pymux

from . import util
from .util import Boom

# On both sides of what is joined with others, and of what goes by reference.
SIZES = [0, 0, 1, 5, 60, 4000, 8191, 8192, 8193, 20_000, 70_000]
PEERS = 4
QUESTIONS = 25  # of each peer, a line each
LINES = pymux.Lines()
ROOMY = pymux.Limits(high_water=1 << 30, max_output=1 << 30)


class Program:
    """What the messages of some peers make a server send, and in which order."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.peers = []  # Connection
        self.sent = {}  # Connection: [bytes]
        self.handled = 0

    def meet(self, conn):
        """A connection that others may send to."""
        self.peers.append(conn)
        self.sent[conn] = []

    def piece(self):
        """Something to send, of any size."""
        return bytes([self.random.randrange(97, 123)]) * self.random.choice(SIZES)

    def send(self, conn):
        """Send to one."""
        data = self.piece()
        conn.send(self.random.choice([bytes, bytearray, memoryview])(data))
        self.sent[conn].append(data)

    def send_many(self, conn):
        """Send to several."""
        data = self.piece()
        some = self.random.sample(self.peers, self.random.randrange(1, PEERS + 1))
        assert conn.mux.send_many(some, data) == len(some)
        for one in some:
            self.sent[one].append(data)

    def later(self, conn):
        """Send from a timer."""
        conn.mux.call_later(0, self.send, self.random.choice(self.peers))

    def look(self, conn):
        """Look how much is queued, which must change nothing."""
        assert conn.queued >= 0

    def step(self, conn):
        """Do a few things; what is to be answered, or None."""
        things = [self.send, self.send, self.send_many, self.later, self.look]
        for _ in range(self.random.choice([0, 0, 0, 1, 3])):
            self.random.choice(things)(self.random.choice([conn, *self.peers]))
        return self.random.choice([None, self.piece()])

    def answer(self, conn, data):
        """The function handler."""
        reply = self.step(conn)
        if reply is not None:
            self.sent[conn].append(reply)
        self.handled += 1
        return reply

    def answer_batch(self, batch):
        """The batch handler."""
        replies = [self.step(conn) for conn in batch.conns]
        batch.reply(replies)
        for conn, reply in zip(batch.conns, replies):
            if reply is not None:
                self.sent[conn].append(reply)
        self.handled += len(batch)
        self.step(batch.conns[0])

    async def answer_all(self, conn):
        """The coroutine handler."""
        self.meet(conn)
        async for _ in conn:
            self.step(conn)
            if self.random.random() < 0.2:
                await pymux.sleep(0)
            self.send(conn)
            self.handled += 1

    def handler(self, form):
        """The handler in a form that can be told of `opened`."""
        if form == "coroutine":
            return self.answer_all
        received = (
            (lambda _, *args: self.answer(*args))
            if form == "object"
            else pymux.batched(lambda _, batch: self.answer_batch(batch))
        )
        methods = {"opened": lambda _, conn: self.meet(conn), "received": received}
        return type("Handler", (), methods)()


@pytest.mark.parametrize("framing", [pymux.Raw(), pymux.Lines(), pymux.LengthPrefix(4)])
@pytest.mark.parametrize("form", ["object", "batched object", "coroutine"])
def test_every_peer_gets_what_it_was_sent_in_program_order(
    backend, form, framing, tmp_path
):
    program = Program(f"{backend} {form} {framing}")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            util.serving(
                program.handler(form),
                backend,
                tmp_path / "s",
                framing=framing,
                limits=ROOMY,
            )
        )
        socks = [
            stack.enter_context(util.connect(server.address)) for _ in range(PEERS)
        ]
        util.wait_until(lambda: len(program.peers) == PEERS)
        for _ in range(QUESTIONS):
            with util.held(server):
                for sock in socks:
                    sock.sendall(framed(framing, b"x"))
        util.wait_until(lambda: program.handled == PEERS * QUESTIONS)
        util.settle(server)
        # Peers are met in the order in which they came.
        for sock, conn in zip(socks, program.peers):
            expected = b"".join(framed(framing, data) for data in program.sent[conn])
            assert util.recv_exactly(sock, len(expected)) == expected
        util.wait_until(lambda: server.stats().queued == 0)


def framed(framing, data):
    """A message as it is on the wire."""
    if isinstance(framing, pymux.Lines):
        return data + framing.delimiter
    if isinstance(framing, pymux.LengthPrefix):
        return len(data).to_bytes(framing.width, framing.byteorder) + data
    return data


def raises(conn):
    raise Boom


def closes(conn):
    conn.close()
    return b"bye"


def sends_eof(conn):
    conn.send_eof()
    return b"is discarded"


ENDS = {raises: b"1\n2\n", closes: b"1\n2\nbye\n", sends_eof: b"1\n2\n"}


@pytest.mark.parametrize("behind", [b"", b"3\n4\n"], ids=["at its end", "inside"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("form", ["function", "object"])
def test_who_ends_a_connection_in_a_batch_keeps_its_earlier_answers(
    backend, form, end, behind
):
    errors = []

    def function(conn, data):
        return end(conn) if data == b"x" else data

    class Object:
        def received(self, conn, data):
            return function(conn, data)

    handler = function if form == "function" else Object()
    with util.serving(
        handler, backend, framing=LINES, on_error=lambda *args: errors.append(args[1])
    ) as server:
        assert util.everything(server.address, b"1\n2\nx\n" + behind) == ENDS[end]
        assert util.exchange(server.address, b"1\n2\n3\n", 6) == b"1\n2\n3\n"
    assert [type(error) for error in errors] == ([Boom] if end is raises else [])


def test_an_answer_is_sent_whatever_else_is_sent_after_the_close(backend):
    others = []

    def handler(conn, data):
        if data == b"first":
            others.append(conn)
            return b"ok"
        conn.close()
        for _ in range(9000):
            others[0].send(b"z")
        return b"bye"

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as other,
    ):
        other.sendall(b"first")
        assert util.recv_exactly(other, 2) == b"ok"
        assert util.everything(server.address, b"go") == b"bye"
        assert util.recv_exactly(other, 9000) == b"z" * 9000
