"""`Batch.later`: answers that come later, from other threads."""

import errno
import socket
import threading

import pytest

import pymux

from . import util
from .serving import OwedAndTold, in_thread
from .serving import later_upper as upper
from .util import Boom

LINES = pymux.Lines()
LONG = 100  # seconds, more than any time that the tests set


@pytest.fixture
def server(owing):
    return owing


@pytest.fixture
def sock(server):
    with util.connect(server.address) as sock:
        yield sock


WAYS = {
    "a list": lambda later: later.reply([b"A", None, b"", b"CCC"]),
    "columns": lambda later: later.reply_data(
        b"AxxCCC", [0, 1, 3, 3, 6], mask=[True, False, True, True]
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_any_thread_answers_for_the_rows_of_the_batch(owed, sock, way):
    sock.sendall(b"a\nbb\n\nccc\n")
    later = owed.take(b"a", b"bb", b"", b"ccc")
    assert len(later) == 4
    assert len(set(later.ids)) == 1
    assert in_thread(way, later) is None
    assert util.recv_exactly(sock, 7) == b"A\n\nCCC\n"


def test_a_buffer_is_cut_as_the_batch_was(owed, sock):
    sock.sendall(b"a\nbb\n\nccc\n")
    owed.take(b"a", b"bb", b"", b"ccc").reply_data(bytearray(b"ABBCCC"))
    assert util.recv_exactly(sock, 10) == b"A\nBB\n\nCCC\n"


def test_an_arrow_array_answers(owed, sock):
    pa = pytest.importorskip("pyarrow")
    sock.sendall(b"a\nb\nc\n")
    later = owed.take(b"a", b"b", b"c")
    later.reply_data(pa.array([b"one", None, b"three"], pa.binary()))
    assert util.recv_exactly(sock, 10) == b"one\nthree\n"


def test_a_view_of_the_batch_may_be_kept_for_the_answer(backend):
    kept = []

    @pymux.batched
    def handler(batch):
        kept.append((batch.data, batch.later()))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        for word in (b"one", b"two"):
            sock.sendall(word + b"\n")
            util.wait_until(lambda: len(kept) == 1)
            util.settle(server)  # there has been another harvest
            data, later = kept.pop()
            later.reply_data(bytes(data).upper())
            assert util.recv_exactly(sock, 4) == word.upper() + b"\n"


def test_the_thread_of_the_mux_may_answer_too(owed, server, sock):
    sock.sendall(b"a\n")
    later = owed.take(b"a")
    util.in_server(server, lambda mux: upper(later, b"a"))
    assert util.recv_exactly(sock, 2) == b"A\n"


def test_a_loop_of_ones_own_gets_the_answers_out(mux, lines):
    conn, peer = lines
    peer.sendall(b"a\n")
    later = mux.harvest(5).later()
    peer.shutdown(socket.SHUT_WR)
    mux.harvest(0)
    assert in_thread(upper, later, b"a") is None
    acc = util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) is None
    assert util.recv_all(peer) == b"A\n"


# --- what it takes the place of -----------------------------------------------------


def test_a_batch_has_one_reply_or_one_later(abc):
    batch, _ = abc
    later = batch.later()
    for again in (batch.later, lambda: batch.reply([None] * 3)):
        with pytest.raises(RuntimeError, match="one is all it takes"):
            again()
    later.reply([None] * 3)


def test_a_later_is_given_once(abc):
    batch, _ = abc
    later = batch.later()
    later.reply([None] * 3)
    for again in (
        lambda: later.reply([None] * 3),
        lambda: later.reply_data(b"abbccc"),
        lambda: later.fail(Boom()),
        lambda: later.fail(Boom(), 0),
    ):
        with pytest.raises(RuntimeError, match="once is all it takes"):
            again()


def test_what_does_not_fit_is_refused_at_the_call_and_may_be_given_anew(abc, mux):
    batch, peer = abc
    later = batch.later()
    for error, wrong in (
        (ValueError, lambda: later.reply([b"a"])),
        (TypeError, lambda: later.reply([b"a", "b", None])),
        (ValueError, lambda: later.reply_data(b"short")),
        (ValueError, lambda: later.reply_data(b"abc", [0, 2, 1, 3])),
        (ValueError, lambda: later.reply_data(b"abc", [0, 1, 2, 3], mask=[True])),
        (TypeError, lambda: later.fail("no exception")),
        (IndexError, lambda: later.fail(Boom(), 3)),
    ):
        assert type(in_thread(wrong)) is error
    later.reply([b"1", None, b"3"])
    util.answer(mux, peer, b"1\n3\n")


def test_a_size_that_the_framing_cannot_carry_is_refused_at_the_call(backend):
    owed = OwedAndTold()
    with (
        util.serving(owed, backend, framing=pymux.Fixed(2)) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ab")
        later = owed.take(b"ab")
        for wrong in (
            lambda: later.reply([b"abc"]),
            lambda: later.reply_data(b"abc", [0, 3]),
        ):
            with pytest.raises(ValueError, match="Fixed"):
                wrong()
        later.reply([b"AB"])
        assert util.recv_exactly(sock, 2) == b"AB"


def test_a_size_that_one_of_several_framings_cannot_carry_is_told(backend):
    owed = OwedAndTold()
    places = [
        pymux.Endpoint(("127.0.0.1", 0), framing=pymux.LengthPrefix(width))
        for width in (1, 4)
    ]
    with pymux.Server(owed, places, backend=backend, on_error=owed.on_error) as server:
        small, large = map(util.connect, server.addresses)
        with small, large:
            large.sendall(b"\0\0\0\1a")
            owed.take(b"a").reply([b"x" * 300])
            assert util.recv_exactly(large, 304)[4:] == b"x" * 300
            small.sendall(b"\1a")
            owed.take(b"a").reply([b"x" * 300])
            assert util.recv_all(small) == b""
            util.wait_until(lambda: owed.errors)
    ((conn, error),) = owed.errors
    assert conn is None
    assert isinstance(error, ValueError)


# --- order ---------------------------------------------------------------------------


def test_answers_to_a_later_batch_wait_for_those_to_an_earlier_one(owed, sock):
    sock.sendall(b"a\n")
    first = owed.take(b"a")
    sock.sendall(b"b\n")
    second = owed.take(b"b")
    sock.sendall(b"c\n")
    third = owed.take(b"c")
    upper(third, b"c")
    upper(second, b"b")
    upper(first, b"a")
    assert util.recv_exactly(sock, 6) == b"A\nB\nC\n"


def test_other_connections_do_not_wait_for_it(owed, server, tmp_path):
    ours, others = (util.connect(server.address) for _ in range(2))
    with ours, others:
        ours.sendall(b"a\n")
        first = owed.take(b"a")
        with util.held(server):
            ours.sendall(b"b\n")
            others.sendall(b"c\n")
        util.wait_until(lambda: sum(len(m) for m, _ in owed.batches) == 2)
        for messages, later in owed.batches:
            upper(later, *messages)
        assert util.recv_exactly(others, 2) == b"C\n"
        upper(first, b"a")
        assert util.recv_exactly(ours, 4) == b"A\nB\n"


def test_a_failed_batch_holds_back_nobody(owed, server, sock):
    sock.sendall(b"a\n")
    first = owed.take(b"a")
    with util.connect(server.address) as other:
        other.sendall(b"b\n")
        second = owed.take(b"b")
        first.fail(Boom())
        upper(second, b"b")
        assert util.recv_exactly(other, 2) == b"B\n"
    assert util.recv_all(sock) == b""


def test_what_is_sent_otherwise_does_not_wait(backend):
    kept = []

    @pymux.batched
    def handler(batch):
        if batch.messages == [b"later"]:
            kept.append(batch.later())
        else:
            batch.reply(batch.messages)

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"later\n")
        util.wait_until(lambda: kept)
        sock.sendall(b"now\n")
        assert util.recv_exactly(sock, 4) == b"now\n"
        upper(kept.pop(), b"later")
        assert util.recv_exactly(sock, 6) == b"LATER\n"


# --- time, memory --------------------------------------------------------------------


def test_no_idle_time_ends_a_connection_that_is_owed_an_answer(backend, clock):
    owed = OwedAndTold()
    limits = pymux.Limits(idle_timeout=60)
    with (
        util.serving(owed, backend, framing=LINES, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        later = owed.take(b"a")
        for _ in range(3):
            with util.connect(server.address) as silent:
                assert clock.outlast(silent, LONG, server)
        upper(later, b"a")
        assert util.recv_exactly(sock, 2) == b"A\n"
        assert clock.outlast(sock, LONG, server)


def test_a_peer_that_sends_faster_than_is_answered_is_held(backend):
    kept = []

    @pymux.batched
    def handler(batch):
        kept.append((batch.messages, batch.later()))

    limits = pymux.Limits(high_water=50000, low_water=10000)
    with (
        util.serving(
            handler, backend, framing=LINES, limits=limits, max_messages=100
        ) as server,
        util.connect(server.address) as sock,
    ):
        text = b"".join(b"%4d" % k * 100 + b"\n" for k in range(20000))
        sender = threading.Thread(target=sock.sendall, args=[text])
        sender.start()
        util.wait_until(lambda: server.stats().messages_in >= 100)
        done, before = 0, -1
        while before != done:
            before = done
            util.settle(server)
            done = server.stats().messages_in
        assert done <= 50000 // 464 + 1 + 100
        answers = 0
        while answers < 20000:
            util.wait_until(lambda: kept)
            messages, later = kept.pop(0)
            upper(later, *messages)
            assert util.recv_exactly(sock, 401 * len(messages))
            answers += len(messages)
        sender.join()


def test_answers_may_have_any_size_and_no_other_output(backend):
    owed = OwedAndTold()
    limits = pymux.Limits(max_output=1 << 20)
    with (
        util.serving(owed, backend, framing=LINES, limits=limits) as server,
        util.connect_narrow(server.address) as sock,
    ):
        sock.sendall(b"a\n" * 3)
        later = owed.take(b"a", b"a", b"a")
        later.reply([b"x" * (4 << 20)] * 3)
        assert len(util.recv_exactly(sock, 3 * (4 << 20) + 3))


def test_while_answers_are_owed_other_output_has_its_limit(mux):
    limits = pymux.Limits(max_output=1 << 20)
    conn, peer = util.pair(mux, LINES, limits=limits)
    with peer:
        peer.sendall(b"a\n")
        later = mux.harvest(5).later()
        mux.harvest(0)
        conn.send(b"x" * (8 << 20))
        mux.harvest(0)
        conn.send(b"x" * (8 << 20))
        acc = util.harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ENOBUFS
        later.reply([None])


# --- other batches -------------------------------------------------------------------


def test_messages_of_a_parser_may_be_answered_later(backend):
    def words():
        return lambda data: [word.decode() for word in data.split()]

    owed = OwedAndTold()
    with (
        util.serving(owed, backend, framing=pymux.Splitter(words)) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one two")
        later = owed.take("one", "two")
        with pytest.raises(TypeError, match="Splitter"):
            later.reply_data(b"onetwo")
        later.reply([b"1", b"2"])
        assert util.recv_exactly(sock, 2) == b"12"


def test_a_batch_without_messages_is_owed_nothing(mux):
    later = mux.harvest(0).later()
    assert (len(later), list(later.ids)) == (0, [])
    later.reply([])


def test_every_answer_arrives_in_order_whatever_threads_do(backend):
    """Four threads answer batches of ten connections as they come."""
    jobs = []
    ready = threading.Semaphore(0)

    @pymux.batched(min_messages=8, max_delay=0.001)
    def handler(batch):
        jobs.append((batch.messages, batch.later()))
        ready.release()

    def work():
        while True:
            ready.acquire()
            job = jobs.pop()  # the newest first
            if job is None:
                return
            upper(job[1], *job[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    text = b"".join(b"line %d\n" % k for k in range(500))
    with util.serving(handler, backend, framing=LINES, max_messages=50) as server:
        socks = [util.connect(server.address) for _ in range(10)]
        for sock in socks:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
        for sock in socks:
            assert util.recv_all(sock) == text.upper()
            sock.close()
    for _ in threads:
        jobs.append(None)
        ready.release()
    for thread in threads:
        thread.join()
