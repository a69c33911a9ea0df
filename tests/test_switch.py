"""A connection's framing is switched in mid-stream."""

import asyncio
import contextlib
import socket

import pytest

import pymux

from . import loops, util

FORMS = ("function", "object", "coroutine")
HELLO = pymux.Lines()
BODY = pymux.LengthPrefix(2)


def framed(*messages):
    return b"".join(len(m).to_bytes(2, "big") + m for m in messages)


def handler_of(form, switch):
    """Answers each message by itself in brackets; at b"go" it switches."""

    def answer(conn, data):
        if data == b"go":
            conn.send(b"old")
            switch(conn)
            return b"new"
        return b"[" + data + b"]"

    async def coroutine(conn):
        async for data in conn:
            conn.send(answer(conn, data))

    class Object:
        def received(self, conn, data):
            return answer(conn, data)

    return {"function": answer, "object": Object(), "coroutine": coroutine}[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [(10,), (10, 300), (1,) * 100], ids=str)
def test_what_follows_in_the_same_batch_is_cut_anew(form, sizes, backend):
    """Payloads with newlines in them would be cut by the old framing."""
    bodies = [b"\n" * size for size in sizes]
    handler = handler_of(form, lambda conn: conn.set_framing(BODY))
    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\ngo\n" + framed(*bodies))
        wanted = b"[one]\nold\n" + framed(b"new", *(b"[%s]" % body for body in bodies))
        assert util.recv_exactly(sock, len(wanted)) == wanted


@pytest.mark.parametrize("form", FORMS)
def test_a_frame_that_comes_in_pieces_around_the_switch_is_whole(form, backend):
    handler = handler_of(form, lambda conn: conn.set_framing(BODY))
    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        body = framed(b"\n\nbody\n")
        sock.sendall(b"go\n" + body[:4])
        wanted = b"old\n" + framed(b"new")
        assert util.recv_exactly(sock, len(wanted)) == wanted
        sock.sendall(body[4:])
        wanted = framed(b"[\n\nbody\n]")
        assert util.recv_exactly(sock, len(wanted)) == wanted


@pytest.mark.parametrize("form", FORMS)
def test_the_switch_may_share_a_batch_with_a_new_connection(form, backend):
    handler = handler_of(form, lambda conn: conn.set_framing(BODY))
    if form == "object":
        handler.opened = lambda conn: None
    with (
        util.serving(handler, backend, framing=HELLO) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        with contextlib.ExitStack() as stack:
            with util.held(server):
                stack.enter_context(util.connect(server.address))
                sock.sendall(b"go\n")
            wanted = b"old\n" + framed(b"new")
            assert util.recv_exactly(sock, len(wanted)) == wanted
            sock.sendall(framed(b"body"))
            assert util.recv_exactly(sock, 8) == framed(b"[body]")


def test_other_connections_of_the_batch_keep_theirs(backend):
    """Many in one batch, every second of which switches."""

    def handler(conn, data):
        if data == b"go":
            conn.set_framing(BODY)
        return data

    with pymux.Server(
        handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
    ) as server:
        socks = [util.connect(server.address) for _ in range(20)]
        for k, sock in enumerate(socks):
            rest = framed(b"a\nb") if k % 2 else b"a\nb\n"
            sock.sendall((b"go\n" if k % 2 else b"no\n") + rest)
        for k, sock in enumerate(socks):
            wanted = framed(b"go", b"a\nb") if k % 2 else b"no\na\nb\n"
            assert util.recv_exactly(sock, len(wanted)) == wanted
            sock.close()


def test_a_connection_may_be_switched_as_it_opens(backend):
    class Object:
        def opened(self, conn):
            conn.set_framing(BODY)

        def received(self, conn, data):
            return data

    with (
        pymux.Server(
            Object(), ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(framed(b"a\nb", b"c"))
        wanted = framed(b"a\nb", b"c")
        assert util.recv_exactly(sock, len(wanted)) == wanted


def test_a_coroutine_gives_back_what_it_has_not_taken(backend):
    async def handler(conn):
        assert await conn.recv() == b"go"
        await pymux.sleep(0.05)  # the rest comes meanwhile, cut by the old framing
        conn.set_framing(BODY)
        async for data in conn:
            conn.send(data)

    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        bodies = [b"\n" * 30_000, b"x\n" * 30_000]
        sock.sendall(b"go\n")
        sock.sendall(framed(*bodies))
        wanted = framed(*bodies)
        assert util.recv_exactly(sock, len(wanted)) == wanted


def test_the_peers_end_comes_behind_what_is_cut_anew(backend):
    """The old framing had cut all that came, so the end was reported with it."""
    switch = handler_of("coroutine", lambda conn: conn.set_framing(BODY))
    with (
        pymux.Server(
            switch, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        assert util.recv_exactly(sock, 4) == b"[a]\n"
        bodies = [b"one\n", b"\n", b"two\n"]
        with util.held(server):
            sock.sendall(b"go\n" + framed(*bodies))
            sock.shutdown(socket.SHUT_WR)
        wanted = b"old\n" + framed(b"new", *(b"[%s]" % body for body in bodies))
        assert util.recv_all(sock) == wanted


def test_messages_not_taken_at_the_peers_end_are_given_back(backend):
    async def handler(conn):
        assert await conn.recv() == b"go"
        await pymux.sleep(0.05)  # the rest comes meanwhile, and the end
        conn.set_framing(BODY)
        async for data in conn:
            conn.send(data)

    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        bodies = [b"one\n", b"\n" * 300]
        sock.sendall(b"go\n" + framed(*bodies))
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == framed(*bodies)


def test_a_task_that_switches_gets_what_is_cut_anew(loop):
    """It need do nothing else: no other turn of the loop's comes."""
    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)

    async def handler(conn):
        assert await conn.recv() == b"go"
        await loops.until(lambda: conn.mux.stats().bytes_in == len(sent))
        await loops.at_rest(conn.mux)  # so that no turn is under way
        conn.set_framing(BODY)
        conn.send(await conn.recv())

    sent = b"go\n" + framed(b"one\n")

    async def main():
        async with pymux.aio.serve(handler, ("127.0.0.1", 0), framing=HELLO) as server:
            got = await asyncio.to_thread(util.exchange, server.address, sent, 6)
            assert got == framed(b"one\n")

    loop.run(main())


def test_tasks_answer_before_a_broken_frame_ends_their_connections(loop):
    """What is no frame of the old framing is one of the new. The loop may call twice
    in a step, for the descriptor and for the next turn: the tasks come first."""
    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)

    async def handler(conn):
        async for data in conn:
            conn.send(b"[" + data + b"]")
            if data == b"go":
                conn.set_framing(HELLO)

    def many(address):
        socks = []
        for _ in range(60):
            sock = util.connect(address)
            sock.sendall(framed(b"go") + b"hello\nworld\n")
            socks.append(sock)
        answers = set()
        for sock in socks:
            with sock:
                sock.shutdown(socket.SHUT_WR)
                answers.add(util.recv_all(sock))
        return answers

    async def main():
        short = pymux.LengthPrefix(2, max_size=100)
        async with pymux.aio.serve(handler, ("127.0.0.1", 0), framing=short) as server:
            answers = await asyncio.to_thread(many, server.address)
            assert answers == {framed(b"[go]") + b"[hello]\n[world]\n"}

    loop.run(main())


def test_bytes_that_a_parser_has_left_come_first(backend):
    def handler(conn, data):
        if data.startswith(b"GET"):
            _, _, rest = data.partition(b"\r\n\r\n")
            conn.send(b"101\r\n")
            conn.set_framing(HELLO, rest)
            return None
        return data.upper()

    with (
        pymux.Server(handler, ("127.0.0.1", 0), backend=backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\n\r\nhello\nwor")
        assert util.recv_exactly(sock, 11) == b"101\r\nHELLO\n"
        sock.sendall(b"ld\n")
        assert util.recv_exactly(sock, 6) == b"WORLD\n"


@pytest.mark.parametrize(
    "framing, data",
    [
        (pymux.Raw(), b"go"),
        (pymux.Lines(b"\r\n"), b"go\r\n"),
        (pymux.LengthPrefix(1), b"\x02go"),
        (pymux.LengthPrefix(4, "little", adjust=-4), b"\x06\0\0\0go"),
        (pymux.Varint(), b"\x02go"),
        (pymux.Fixed(2), b"go"),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_each_framing_gives_its_frames_back(framing, data, backend):
    """Frames behind the switch look like the old framing's, and are given back."""
    seen = []

    def handler(conn, message):
        seen.append(message)
        if len(seen) == 1:
            conn.set_framing(pymux.Fixed(len(data)))

    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=framing, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        if isinstance(framing, pymux.Raw):
            sock.sendall(data)
            util.wait_until(lambda: seen)
            sock.sendall(data * 2)
        else:
            sock.sendall(data * 3)
        util.wait_until(lambda: len(seen) == 3)
    assert seen[1:] == [data, data]


def test_what_is_no_framing_is_refused_and_changes_nothing(backend):
    errors = []

    def handler(conn, data):
        try:
            conn.set_framing("lines")
        except TypeError as error:
            errors.append(str(error))
        return data

    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        assert util.recv_exactly(sock, 2) == b"a\n"
    assert "framing is 'lines'" in errors[0]


def test_a_closed_connection_is_switched_no_more(backend):
    errors = []

    def handler(conn, data):
        conn.close()
        with pytest.raises(pymux.ConnectionClosed) as caught:
            conn.set_framing(BODY)
        errors.append(caught.value)

    with (
        pymux.Server(
            handler, ("127.0.0.1", 0), framing=HELLO, backend=backend
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        assert util.recv_all(sock) == b""
    assert len(errors) == 1


# -- replies behind the switch --------------------------------------------------


def sends(conn, reply):
    conn.send(reply)


def returns(conn, reply):
    return reply


@pytest.mark.parametrize("answer", [sends, returns])
def test_a_reply_that_only_the_new_framing_carries_is_taken(answer, backend):
    """The core is told of the switch when the handler has seen its batch."""

    def handler(conn, data):
        conn.set_framing(HELLO)
        return answer(conn, b"x" * 300)

    short = pymux.LengthPrefix(1)
    with util.serving(handler, backend, framing=short) as server:
        got = util.everything(server.address, b"\x01a")
    assert got == b"x" * 300 + b"\n"


@pytest.mark.parametrize("answer", [sends, returns])
@pytest.mark.parametrize(
    "framing, reply", [(pymux.Fixed(3), b"four"), (pymux.LengthPrefix(1), b"x" * 300)]
)
def test_a_reply_that_only_the_old_framing_carries_is_refused(
    answer, framing, reply, backend
):
    errors = []

    def handler(conn, data):
        conn.set_framing(framing)
        return answer(conn, reply)

    def note(conn, error):
        errors.append(error)

    with util.serving(handler, backend, framing=HELLO, on_error=note) as server:
        assert util.everything(server.address, b"a\n") == b""
    assert [type(error) for error in errors] == [ValueError]


@pytest.mark.parametrize("whole", [True, False])
def test_replies_of_a_batch_are_checked_by_the_new_framing(whole, backend):
    errors = []

    @pymux.batched
    def handler(batch):
        for conn in batch.conns:
            conn.set_framing(pymux.Fixed(3))
        if whole:
            batch.reply_data(bytes(batch.data))
        else:
            batch.reply(batch.messages)

    def note(conn, error):
        errors.append(error)

    with util.serving(handler, backend, framing=HELLO, on_error=note) as server:
        assert util.everything(server.address, b"four\n") == b""
    assert [type(error) for error in errors] == [ValueError]
