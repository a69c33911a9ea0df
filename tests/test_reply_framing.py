"""`reply_framing`: what is sent has another framing than what is received."""

import asyncio
import struct

import pytest

import pymux

from . import util
from .loops import ask
from .serving import upper
from .util import harvest_until, pair, recv_exactly

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
PREFIX = pymux.LengthPrefix(2)
WORDS = [b"one", b"", b"three" * 100]
QUESTIONS = b"".join(word + b"\n" for word in WORDS)


def prefixed(*words):
    return b"".join(struct.pack(">H", len(word)) + word for word in words)


ANSWERS = prefixed(*(word.upper() for word in WORDS))


@pytest.mark.parametrize("form", util.FORMS)
def test_every_form_answers_in_the_framing_of_replies(backend, place, form):
    handler = util.in_form(form, bytes.upper)
    with util.serving(
        handler, backend, place, framing=LINES, reply_framing=PREFIX
    ) as server:
        assert util.everything(server.address, QUESTIONS) == ANSWERS
        assert util.everything(server.address, b"last") == prefixed(b"LAST")


@pytest.mark.parametrize(
    ("reply_framing", "answer"),
    [
        (None, b"AB\n"),
        (LINES, b"AB\n"),
        (pymux.Lines(b"\r\n"), b"AB\r\n"),
        (pymux.Raw(), b"AB"),
        (pymux.LengthPrefix(4, "little"), b"\2\0\0\0AB"),
        (pymux.Varint(), b"\2AB"),
        (pymux.Fixed(2), b"AB"),
    ],
)
def test_each_framing_frames_what_is_sent(backend, reply_framing, answer):
    with util.serving(
        lambda conn, data: data.upper(),
        backend,
        framing=LINES,
        reply_framing=reply_framing,
    ) as server:
        assert util.everything(server.address, b"ab\n" * 3) == answer * 3


@pytest.mark.parametrize(
    ("framing", "question"),
    [
        (pymux.LengthPrefix(1), b"\2ab"),
        (pymux.Varint(), b"\2ab"),
        (pymux.Fixed(2), b"ab"),
        (pymux.Lines(b"\r\n"), b"ab\r\n"),
    ],
)
def test_lines_answer_each_framing(backend, framing, question):
    @pymux.batched
    def handler(batch):
        batch.reply([data.upper() for data in batch.messages])

    with util.serving(handler, backend, framing=framing, reply_framing=LINES) as server:
        assert util.everything(server.address, question * 3) == b"AB\n" * 3


def test_columns_are_cut_as_they_were_received(backend):
    """Delimiters may stay in a batch's memory: those of questions, not of answers."""

    @pymux.batched
    def handler(batch):
        handler.turn += 1
        if handler.turn % 3:
            batch.reply([data.upper() for data in batch.messages])
        else:
            batch.reply_data(bytes(batch.data).upper())

    handler.turn = 0
    with (
        util.serving(
            handler, backend, framing=LINES, reply_framing=pymux.Lines(b"<>")
        ) as server,
        util.connect(server.address) as sock,
    ):
        for _ in range(6):
            sock.sendall(b"ab\nc\n")
            assert recv_exactly(sock, 7) == b"AB<>C<>"


def test_a_mux_listens_and_connects_with_it(mux):
    listener = mux.listen(LOCAL, framing=LINES, reply_framing=PREFIX)
    conn = mux.connect(listener.address, framing=PREFIX, reply_framing=LINES)
    conn.send(b"hello")
    conn.send(b"")
    acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    (other, first), (_, second) = acc.messages
    assert (first, second) == (b"hello", b"")
    assert mux.send_many([other, conn], b"x" * 300) == 2
    acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    assert dict(acc.messages) == {conn: b"x" * 300, other: b"x" * 300}


def test_an_endpoint_has_it_and_wins_over_the_call(backend):
    where = [
        pymux.Endpoint(LOCAL, reply_framing=pymux.Raw()),
        pymux.Endpoint(LOCAL, framing=pymux.Raw()),
        LOCAL,
    ]
    with pymux.Server(
        lambda conn, data: data,
        where,
        framing=LINES,
        reply_framing=PREFIX,
        backend=backend,
    ) as server:
        got = [util.everything(at, b"ab\n") for at in server.addresses]
    assert got == [b"ab", b"\0\3ab\n", b"\0\2ab"]


def test_connections_of_both_kinds_share_a_batch(mux):
    """A list of replies is one block only where all replies go out alike."""
    one = mux.listen(LOCAL, framing=LINES, reply_framing=PREFIX)
    two = mux.listen(LOCAL, framing=LINES)
    socks = [util.connect(one.address) for one in (one, two, one)]
    harvest_until(mux, lambda acc: len(acc.opened) == 3)
    for sock in socks:
        sock.sendall(b"ab\n")
    left = 3
    while left:
        batch = mux.harvest(10)
        left -= len(batch)
        batch.reply([data.upper() for data in batch.messages])
    mux.harvest(0)
    for sock, answer in zip(socks, [b"\0\2AB", b"AB\n", b"\0\2AB"]):
        with sock:
            assert recv_exactly(sock, len(answer)) == answer


@pytest.mark.parametrize("how", ["send", "reply", "reply_data", "send_many"])
def test_an_answer_that_does_not_fit_is_refused(mux, how):
    """It is the framing of replies that decides, and questions have any size."""
    conn, sock = pair(mux, LINES, reply_framing=pymux.LengthPrefix(1))
    long = b"x" * 256
    with sock:
        sock.sendall(long + b"\n")
        batch = mux.harvest(10)
        while not batch.messages:
            batch = mux.harvest(10)
        with pytest.raises(ValueError, match="256 bytes"):
            if how == "send":
                conn.send(long)
            elif how == "reply":
                batch.reply([long])
            elif how == "reply_data":
                batch.reply_data(batch.data)
            else:
                mux.send_many([conn], long)
        conn.send(b"x" * 255)
        mux.harvest(0)
        assert recv_exactly(sock, 256) == b"\xff" + b"x" * 255


def test_an_answer_may_be_longer_than_a_question(mux):
    conn, sock = pair(mux, pymux.LengthPrefix(1), reply_framing=LINES)
    with sock:
        conn.send(b"x" * 70_000)
        harvest_until(mux, lambda acc: not conn.queued)
        assert recv_exactly(sock, 70_001) == b"x" * 70_000 + b"\n"


def test_a_switch_is_of_both_directions(backend):
    def handler(conn, data):
        if data == b"switch":
            conn.send(b"old")
            conn.set_framing(pymux.Lines(b";"))
        return data.upper()

    with util.serving(handler, backend, framing=LINES, reply_framing=PREFIX) as server:
        got = util.everything(server.address, b"a\nswitch\nb;c;")
    assert got == b"\0\1A\0\3oldSWITCH;B;C;"


def test_a_parser_in_python_may_have_framed_answers(backend):
    class Words:
        def __call__(self, data):
            return [word.decode() for word in bytes(data).split()]

    with util.serving(
        lambda conn, word: word.upper().encode(),
        backend,
        framing=pymux.Splitter(Words),
        reply_framing=LINES,
    ) as server:
        assert util.everything(server.address, b"one two ") == b"ONE\nTWO\n"


def test_a_blocking_client_and_dial_have_it(backend):
    async def front(conn):
        upstream = await pymux.dial(
            inner.address, framing=PREFIX, reply_framing=LINES, timeout=10
        )
        async for data in conn:
            upstream.send(data)
            conn.send(await upstream.recv())

    with (
        util.serving(
            lambda conn, data: data.upper(), framing=LINES, reply_framing=PREFIX
        ) as inner,
        util.serving(front, backend, framing=PREFIX) as server,
        pymux.connect(server.address, framing=PREFIX, timeout=10) as client,
        pymux.connect(
            pymux.Endpoint(inner.address, framing=PREFIX, reply_framing=LINES),
            timeout=10,
        ) as direct,
    ):
        for one in (client, direct):
            one.send(b"hello")
            assert one.recv() == b"HELLO"


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_server_and_a_connection_of_asyncio_have_it(loop):
    async def main():
        async with (
            pymux.aio.serve(
                lambda conn, data: data.upper(),
                LOCAL,
                framing=LINES,
                reply_framing=PREFIX,
            ) as server,
            await pymux.aio.connect(
                server.address, framing=PREFIX, reply_framing=LINES
            ) as conn,
        ):
            assert await ask(server.address, b"ab\n", 4) == b"\0\2AB"
            conn.send(b"hello")
            assert await asyncio.wait_for(conn.recv(), 10) == b"HELLO"
            dialled = await pymux.dial(
                server.address, framing=PREFIX, reply_framing=LINES
            )
            dialled.send(b"hello")
            assert await asyncio.wait_for(dialled.recv(), 10) == b"HELLO"

    loop.run(main())


@pytest.mark.parametrize(
    ("framing", "error"),
    [
        (3, TypeError),
        (pymux.Lines, TypeError),
        (pymux.Splitter(list), ValueError),
        (pymux.Scanner(4096), ValueError),
    ],
)
def test_what_frames_no_answer_is_refused(mux, framing, error):
    for call in (
        lambda: pymux.Endpoint(LOCAL, reply_framing=framing),
        lambda: pymux.Server(upper, LOCAL, reply_framing=framing),
        lambda: pymux.serve(upper, LOCAL, reply_framing=framing),
        lambda: mux.listen(LOCAL, reply_framing=framing),
        lambda: mux.connect(("127.0.0.1", 1), reply_framing=framing),
        lambda: pymux.connect(("127.0.0.1", 1), reply_framing=framing),
    ):
        with pytest.raises(error, match="reply_framing is"):
            call()
