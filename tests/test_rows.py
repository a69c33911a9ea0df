"""Many rows at once: runs of one connection, and the ways that replies go in."""

import contextlib
import socket
import sys
import threading

import pytest

import pymux

from . import inside, util

LINES = pymux.Lines()
SLACK = pymux.Limits(high_water=1 << 30, max_output=1 << 30)
MANY = [b"%d" % n for n in range(1000)]


def talk(server, lines):
    """What the server answers to lines that arrive together."""
    return util.everything(server.address, as_lines(lines))


def odd(n):
    """Answers of every kind that there is, by turns."""
    return [
        b"%d" % n,
        None,
        bytearray(b"array %d" % n),
        b"large %d " % n * 3000,
        b"",
        memoryview(b"view %d" % n),
        b"two\nlines",
    ][n % 7]


def as_lines(answers):
    return b"".join(bytes(one) + b"\n" for one in answers if one is not None)


@pytest.mark.parametrize("form", ["function", "object", "batch", "batched object"])
def test_answers_of_every_kind_keep_their_order(backend, form):
    handler = util.in_form(form, lambda data: odd(int(data)))
    with util.serving(handler, backend, framing=LINES, limits=SLACK) as server:
        assert talk(server, MANY) == as_lines(map(odd, range(1000)))


def test_an_answer_that_holds_the_delimiter_stays_one_answer(backend):
    counts = []

    @pymux.batched
    def handler(batch):
        batch.reply([b"a\nb"] * len(batch))
        counts.append(len(batch))

    with util.serving(handler, backend, framing=LINES) as server:
        assert talk(server, MANY) == b"a\nb\n" * 1000
        assert server.stats().messages_out == sum(counts) == 1000


@pytest.mark.parametrize("framing", [LINES, pymux.Lines(b"ab"), pymux.LengthPrefix(1)])
def test_views_of_wide_items_are_answered_with_their_bytes(backend, framing):
    wide = memoryview(b"01234567" * 4).cast("q")

    @pymux.batched
    def handler(batch):
        batch.reply([wide] * len(batch))

    lines = isinstance(framing, pymux.Lines)
    before, after = (b"", framing.delimiter) if lines else (b"\x20", b"")
    ask = (b"x" if lines else b"\x01x") + after
    with util.serving(handler, backend, framing=framing) as server:
        answer = util.everything(server.address, ask * 3)
    assert answer == (before + wide.tobytes() + after) * 3


def test_more_large_answers_than_the_log_holds_keep_their_order(backend):
    def handler(conn, data):
        return data * (1 << 18)

    with util.serving(handler, backend, framing=LINES, limits=SLACK) as server:
        sent = [b"%04d" % n for n in range(24)]
        assert talk(server, sent) == as_lines(line * (1 << 18) for line in sent)


def test_rows_of_several_connections_go_to_their_own(backend):
    with util.serving(
        lambda conn, data: b"%d:" % conn.id + data, backend, framing=LINES
    ) as server:
        socks = [util.connect(server.address) for _ in range(5)]
        for sock in socks:
            sock.sendall(as_lines(MANY))
            sock.shutdown(socket.SHUT_WR)
        seen = set()
        for sock in socks:
            with sock:
                lines = util.recv_all(sock).split()
            names, numbers = zip(*(line.split(b":") for line in lines))
            assert list(numbers) == MANY
            assert len(set(names)) == 1
            seen.add(names[0])
        assert len(seen) == 5


def test_closing_in_the_middle_of_a_run_ends_delivery(backend):
    got = []

    def handler(conn, data):
        got.append(data)
        if data == b"500":
            conn.close()
        return data

    with util.serving(handler, backend, framing=LINES) as server:
        assert talk(server, MANY) == as_lines(MANY[:501])
    assert got == MANY[:501]


@pytest.mark.parametrize("how", ["recv", "iteration", "one by one"])
def test_a_coroutine_finds_all_lines_of_a_run_in_order(backend, how):
    got = []

    async def handler(conn):
        if how == "iteration":
            async for data in conn:
                got.append(data)
        while how != "iteration" and (data := await conn.recv()) is not None:
            got.append(data)
            if how == "one by one" and len(got) < 50:
                await pymux.sleep(0)  # the rest is kept meanwhile
        conn.send(b"done")

    limits = pymux.Limits(high_water=2000, low_water=500)
    with util.serving(handler, backend, framing=LINES, limits=limits) as server:
        assert talk(server, MANY) == b"done\n"
    assert got == MANY


def test_a_coroutine_that_returns_in_the_middle_of_a_run_ends_delivery(backend):
    async def handler(conn):
        for _ in range(3):
            conn.send(await conn.recv())

    with util.serving(handler, backend, framing=LINES) as server:
        assert talk(server, MANY) == b"0\n1\n2\n"


class Struck(Exception):
    """What a signal's handler raises."""


def striking(name, nth):
    """A trace function that raises at the nth line run in functions of a name."""
    left = nth

    def in_lines(frame, event, arg):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                raise Struck
        return in_lines

    def in_calls(frame, event, arg):
        wanted = frame.f_code.co_name == name and "pymux" in frame.f_code.co_filename
        return in_lines if wanted and left > 0 else None

    return in_calls


@pytest.mark.parametrize("nth", range(1, 40))
def test_an_exception_anywhere_between_rows_mixes_up_nobody(nth, logged):
    """As a signal's handler may raise it: also where a row's answer is in."""
    failed = []
    options = {"framing": LINES, "on_error": lambda conn, error: failed.append(error)}
    server = pymux.Server(
        lambda conn, data: b"%s to %d" % (data, conn.peer[1]),
        ("127.0.0.1", 0),
        **options,
    )
    threading.settrace(striking("some", nth))
    try:
        server.start()
    finally:
        threading.settrace(None)
    socks = [util.connect(server.address) for _ in range(3)]
    whole = 0
    for sock in socks:
        with contextlib.suppress(OSError):  # the server may have been ended
            sock.sendall(b"1\n2\n3\n4\n")
            sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        with sock:
            port = sock.getsockname()[1]
            lines = util.until_end(sock)[0].split(b"\n")[:-1]
        wanted = [b"%d to %d" % (n, port) for n in range(1, 5)]
        assert lines == wanted[: len(lines)]
        whole += lines == wanted
    try:
        server.stop()
    except Struck:  # before the first row of a batch: that ends the server
        return
    assert whole >= 2
    assert all(isinstance(error, Struck) for error in failed)


def test_a_framing_noted_in_a_harvest_leaves_its_batch_alone(backend):
    with pymux.Mux(backend) as mux:
        listener = mux.listen(("127.0.0.1", 0), framing=LINES)
        with util.connect(listener.address) as sock:
            util.harvest_until(mux, lambda batch: batch.opened)
            sock.sendall(b"ab\ncde\nf\n")
            mux.call_threadsafe(mux.listen, ("127.0.0.1", 0))
            while not len(batch := mux.harvest(10)):
                pass
            assert batch.messages == [b"ab", b"cde", b"f"]
            assert bytes(batch.data) == b"abcdef"


def test_a_reply_is_cut_by_its_bytes_not_by_its_items(backend):
    np = pytest.importorskip("numpy")
    with util.serving(
        pymux.batched(
            lambda batch: batch.reply(
                [np.zeros((3, 0), "u1"), np.array([0x41424344], "<i4")][: len(batch)]
            )
        ),
        backend,
        framing=pymux.LengthPrefix(1),
    ) as server:
        answer = util.everything(server.address, b"\x01a\x01b")
    assert answer in (b"\x00\x04DCBA", b"\x00\x00")


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="the GIL is never kept here"
)
@pytest.mark.parametrize("nth", [1, 3, 5])
def test_an_exception_before_the_core_is_called_loses_nothing(nth):
    with pymux.Mux() as mux:
        listener = mux.listen(("127.0.0.1", 0))
        with util.connect(listener.address) as sock:
            sock.sendall(b"question")
            while not len(batch := mux.harvest(10)):
                pass
            batch.conns[0].send(b"answer")
            inside.keep_the_gil(mux)
            sys.settrace(striking("arguments", nth))
            try:
                with pytest.raises(Struck):
                    mux.harvest(0)
            finally:
                sys.settrace(None)
            assert mux.harvest(0).messages == []  # not once more
            assert util.recv_exactly(sock, 6) == b"answer"
            sock.settimeout(0)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
