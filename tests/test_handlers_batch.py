"""Batch handlers: called once a harvest that has at least one message."""

import contextlib
import signal
import socket
import threading
import time

import pytest

import pymux

from . import util
from .util import Boom

LINES = pymux.Lines()
LONG = 30  # seconds that no test waits out


@contextlib.contextmanager
def clients(server, count):
    """Some clients whose first line was answered, so that all of them are open."""
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(util.connect(server.address)) for _ in range(count)
        ]
        for sock in socks:
            sock.sendall(b"0\n")
        for sock in socks:
            assert util.recv_exactly(sock, 2) == b"0\n"
        yield socks


class Recorder:
    """An echo that keeps the messages of each batch."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch.messages)
        batch.reply(batch.messages)

    def of(self, *messages):
        """The batches that hold any of these messages."""
        return [b for b in self.batches if set(b) & set(messages)]


def test_one_call_has_the_messages_of_every_connection(backend, tmp_path):
    recorder = Recorder()
    with (
        util.serving(
            pymux.batched(recorder), backend, tmp_path / "s", framing=LINES
        ) as server,
        clients(server, 3) as socks,
    ):
        with util.held(server):
            for k, sock in enumerate(socks):
                sock.sendall(b"%d a\n%d b\n" % (k, k))
        for k, sock in enumerate(socks):
            assert util.recv_exactly(sock, 8) == b"%d a\n%d b\n" % (k, k)
    (batch,) = recorder.of(b"0 a")
    assert sorted(batch) == [b"0 a", b"0 b", b"1 a", b"1 b", b"2 a", b"2 b"]


def test_it_is_never_called_without_a_message(backend):
    sizes = []

    @pymux.batched
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    with util.serving(handler, backend) as server:
        for _ in range(3):
            assert util.everything(server.address, b"") == b""
            assert util.everything(server.address, b"a") == b"a"
        util.settle(server)
    assert sizes == [1, 1, 1]


def test_each_reply_goes_to_the_connection_of_its_row(backend):
    @pymux.batched
    def handler(batch):
        assert len(batch.conns) == len(batch.messages) == len(batch)
        batch.reply([data.upper() for data in batch.messages])

    with util.serving(handler, backend, framing=LINES) as server:
        for k in range(5):
            sent = b"from %d\n" % k
            assert util.everything(server.address, sent) == sent.upper()


def test_reply_data_answers_a_whole_batch_at_once(backend, tmp_path):
    @pymux.batched
    def upper(batch):
        batch.reply_data(bytes(batch.data).upper())

    with (
        util.serving(upper, backend, tmp_path / "s", framing=LINES) as server,
        clients(server, 3) as socks,
    ):
        with util.held(server):
            for k, sock in enumerate(socks):
                sock.sendall(b"abc %d\n\nde %d\n" % (k, k))
        for k, sock in enumerate(socks):
            assert util.recv_exactly(sock, 12) == b"ABC %d\n\nDE %d\n" % (k, k)


def test_none_in_a_reply_is_nothing_and_empty_is_an_empty_frame(backend):
    @pymux.batched
    def handler(batch):
        answers = {b"none": None, b"empty": b""}
        batch.reply([answers.get(data, data) for data in batch.messages])

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\nnone\nempty\nb\n") == b"a\n\nb\n"


def test_it_may_answer_by_send_alone(backend):
    @pymux.batched
    def handler(batch):
        for conn, data in batch:
            conn.send(data.upper())

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\nb\n") == b"A\nB\n"


def test_output_is_in_program_order_of_send_reply_and_send_many(backend):
    @pymux.batched
    def handler(batch):
        conn = batch.conns[0]
        conn.send(b"1")
        batch.reply([b"2"] * len(batch))
        conn.mux.send_many([conn], b"3")
        conn.send(b"4")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"go") == b"1234"


def test_what_is_replied_is_as_it_was_at_the_call(backend):
    @pymux.batched
    def handler(batch):
        answer = bytearray(b"early")
        batch.reply([answer] * len(batch))
        answer[:] = b"later"

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"go") == b"early"


def test_the_end_of_a_stream_closes_it_once_its_answers_are_flushed(backend):
    size = 8 << 20

    @pymux.batched
    def handler(batch):
        batch.reply([b"x" * size] * len(batch))

    with util.serving(handler, backend) as server:
        assert len(util.everything(server.address, b"go")) == size
        util.wait_until(lambda: server.stats().connections == 0)


def test_a_reply_to_a_connection_that_it_closed_is_discarded_silently(backend):
    @pymux.batched
    def handler(batch):
        for conn in set(batch.conns):
            conn.send(b"last")
            conn.close()
        batch.reply(batch.messages)
        batch.conns[0].mux.call_later(0, ended.append, batch.conns[0].closed)

    ended = []
    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\nb\n")
        assert util.recv_all(sock) == b"last\n"
        util.wait_until(lambda: ended)


def test_one_that_raises_ends_every_connection_with_a_row_and_no_other(
    backend, tmp_path
):
    errors = []

    @pymux.batched
    def handler(batch):
        batch.reply(batch.messages)
        if b"boom" in batch.messages:
            raise Boom("of the batch")

    with (
        util.serving(
            handler,
            backend,
            tmp_path / "s",
            framing=LINES,
            on_error=lambda *args: errors.append(args),
        ) as server,
        clients(server, 3) as (a, b, other),
    ):
        with util.held(server):
            a.sendall(b"a\n")
            b.sendall(b"boom\n")
        assert util.recv_all(a) == b"a\n"
        assert util.recv_all(b) == b"boom\n"
        other.sendall(b"still\n")
        assert util.recv_exactly(other, 6) == b"still\n"
    ((conn, error),) = errors
    assert conn is None
    assert isinstance(error, Boom)


def test_one_that_raises_is_logged_once_with_its_traceback(backend, logged):
    @pymux.batched
    def handler(batch):
        raise Boom("of the batch")

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\nb\n") == b""
    (record,) = logged
    assert record.exc_info[0] is Boom
    assert record.exc_info[2] is not None


def test_connection_closed_that_escapes_touches_no_other_connection(backend, tmp_path):
    gone = []

    @pymux.batched
    def handler(batch):
        for conn, data in batch:
            if data == b"leave":
                gone.append(conn)
                conn.close()
            if data == b"send":
                gone[0].send(b"late")
            conn.send(data) if data not in (b"leave", b"send") else None

    with (
        util.serving(handler, backend, tmp_path / "s", framing=LINES) as server,
        clients(server, 3) as (a, b, c),
    ):
        a.sendall(b"leave\n")
        assert util.recv_all(a) == b""
        with util.held(server):
            b.sendall(b"send\n")
            c.sendall(b"send\n")
        util.settle(server)
        for sock in (b, c):
            sock.sendall(b"still\n")
            assert util.recv_exactly(sock, 6) == b"still\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_end_the_server(backend, error, logged):
    @pymux.batched
    def handler(batch):
        raise error

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"go")
        util.until_end(sock)
    with pytest.raises(error):
        server.stop()


@contextlib.contextmanager
def opened(server, count):
    """Some clients that the server has accepted and not yet heard of."""
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(util.connect(server.address)) for _ in range(count)
        ]
        util.wait_until(lambda: server.stats().connections == count)
        yield socks


def test_it_waits_for_min_messages(backend):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=2, max_delay=LONG)
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 3) as (a, b, _),
    ):
        a.sendall(b"first\n")
        a.settimeout(0.05)
        with pytest.raises(socket.timeout):
            a.recv(1)
        a.settimeout(10)
        b.sendall(b"second\n")
        assert util.recv_exactly(b, 7) == b"second\n"
        assert util.recv_exactly(a, 6) == b"first\n"
    assert recorder.batches == [[b"first", b"second"]]


def test_it_waits_no_longer_than_max_delay(backend):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=2, max_delay=0.05)
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 2) as (a, _),
    ):
        before = time.monotonic()
        a.sendall(b"alone\n")
        assert util.recv_exactly(a, 6) == b"alone\n"
        assert time.monotonic() - before >= 0.049
    assert recorder.batches == [[b"alone"]]


def test_a_row_from_every_open_connection_ends_the_wait(backend):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=100, max_delay=LONG)
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 2) as (a, b),
    ):
        a.sendall(b"first\n")
        b.sendall(b"second\n")
        assert util.recv_exactly(a, 6) == b"first\n"
        assert util.recv_exactly(b, 7) == b"second\n"
    assert [sorted(batch) for batch in recorder.batches] == [[b"first", b"second"]]


def test_a_full_arena_ends_the_wait(backend):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=1_000_000, max_delay=LONG)
    sent = b"x" * 99 + b"\n"
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 2) as (a, _),
    ):
        a.sendall(sent * 3000)
        assert util.recv_exactly(a, 100 * 2000) == sent * 2000


def test_a_wakeup_ends_the_wait(backend):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=100, max_delay=LONG)
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 2) as (a, _),
    ):
        a.sendall(b"first\n")
        # More than one, as the first may come before the message.
        util.wait_until(lambda: util.settle(server) or recorder.batches)
        assert util.recv_exactly(a, 6) == b"first\n"


def test_a_due_timer_ends_the_wait(backend):
    def again(mux):
        mux.call_later(0.01, again, mux)

    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=100, max_delay=LONG)
    with (
        util.serving(handler, backend, framing=LINES) as server,
        opened(server, 2) as (a, _),
    ):
        util.in_server(server, again)
        a.sendall(b"first\n")
        assert util.recv_exactly(a, 6) == b"first\n"


def test_a_signal_ends_the_wait(backend, tmp_path):
    recorder = Recorder()
    handler = pymux.batched(recorder, min_messages=100, max_delay=LONG)
    server = pymux.Server(handler, tmp_path / "s", backend=backend, framing=LINES)
    got = []

    def client():
        util.connect_when_up(tmp_path / "s").close()
        try:
            with opened(server, 2) as (a, _):
                a.sendall(b"first\n")
                got.append(util.recv_exactly(a, 6))
        finally:
            server.stop()

    thread = threading.Thread(target=client)
    before = signal.signal(signal.SIGALRM, lambda *args: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        thread.start()
        server.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        thread.join(10)
    assert got == [b"first\n"]


def test_output_goes_on_while_it_waits(backend, tmp_path):
    """A client that reads slowly gets the rest of its answer meanwhile."""
    size = 4 << 20

    def long_answer(batch):
        batch.reply([b"x" * size] * len(batch))

    handler = pymux.batched(long_answer, min_messages=2, max_delay=LONG)
    with (
        util.serving(handler, backend, tmp_path / "s") as server,
        opened(server, 3) as (a, b, c),
    ):
        a.sendall(b"a")
        b.sendall(b"b")
        util.wait_until(lambda: server.stats().bytes_out > 0)
        c.sendall(b"waits for one more")
        for sock in (a, b):
            assert util.recv_exactly(sock, size) == b"x" * size


def test_more_messages_than_can_be_counted_may_be_waited_for(backend):
    handler = pymux.batched(
        lambda batch: batch.reply(batch.messages), min_messages=2**32
    )
    with util.serving(handler, backend) as server:
        assert util.exchange(server.address, b"hi", 2) == b"hi"
