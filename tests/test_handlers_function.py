"""Function handlers, and what all four forms share: called once a message."""

import errno
import functools

import pytest

import pymux

from . import util

LINES = pymux.Lines()


def test_what_it_returns_is_sent(backend):
    with util.serving(lambda conn, data: data.upper(), backend) as server:
        assert util.exchange(server.address, b"hello", 5) == b"HELLO"


def test_none_sends_nothing(backend):
    with util.serving(
        lambda conn, data: None if data == b"quiet" else data, backend, framing=LINES
    ) as server:
        assert util.everything(server.address, b"a\nquiet\nb\n") == b"a\nb\n"


def test_a_message_is_bytes_and_comes_with_its_connection(backend):
    seen = []
    with util.serving(
        lambda *call: seen.append(call), backend, framing=LINES
    ) as server:
        util.everything(server.address, b"a\n")
    ((conn, data),) = seen
    assert isinstance(conn, pymux.Connection)
    assert type(data) is bytes


def test_an_empty_message_is_no_end_of_stream(backend):
    seen = []
    with util.serving(
        lambda conn, data: seen.append(data) or data, backend, framing=LINES
    ) as server:
        assert util.everything(server.address, b"\na\n\n") == b"\na\n\n"
    assert seen == [b"", b"a", b""]


def test_an_empty_answer_under_raw_is_nothing(backend):
    with util.serving(lambda conn, data: b"", backend) as server:
        assert util.everything(server.address, b"hello") == b""
        assert server.stats().messages_in == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_an_answer_may_be_any_bytes_like(backend, kind):
    with util.serving(lambda conn, data: kind(data.upper()), backend) as server:
        assert util.exchange(server.address, b"hello", 5) == b"HELLO"


@pytest.mark.parametrize("size", [10, 10_000, 10_000_000])
def test_what_is_sent_is_as_it_was_at_the_call(backend, size):
    def handler(conn, data):
        answer = bytearray(b"a" * size)
        conn.send(answer)
        answer[:] = b"b" * size
        conn.send(answer)
        answer[:] = b"c" * size

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"go") == b"a" * size + b"b" * size


def test_what_is_returned_is_as_it_was_when_the_handler_returned(backend):
    answer = bytearray(4)

    def handler(conn, data):
        answer[:] = data
        return answer

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"aaaa\nbbbb\n") == b"aaaa\nbbbb\n"


def test_str_is_a_type_error_of_send(backend):
    caught = []

    def handler(conn, data):
        with pytest.raises(TypeError, match="str") as info:
            conn.send("text")
        caught.append(info.value)
        return b"ok"

    with util.serving(handler, backend) as server:
        assert util.exchange(server.address, b"go", 2) == b"ok"
    assert caught


@pytest.mark.parametrize("answer", ["text", 7, ["list"], object()])
def test_an_answer_that_is_not_bytes_is_a_type_error(backend, answer):
    errors = []
    with util.serving(
        lambda conn, data: answer, backend, on_error=lambda *args: errors.append(args)
    ) as server:
        assert util.everything(server.address, b"go") == b""
    ((_conn, error),) = errors
    assert isinstance(error, TypeError)
    assert type(answer).__name__ in str(error)


def test_output_is_in_program_order_of_send_and_return(backend):
    def handler(conn, data):
        conn.send(b"before " + data)
        conn.send(b"and " + data)
        return b"returned " + data

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"1\n2\n") == (
            b"before 1\nand 1\nreturned 1\nbefore 2\nand 2\nreturned 2\n"
        )


def test_output_is_in_program_order_across_the_handlers_of_several(backend, tmp_path):
    conns, program = {}, []

    def handler(conn, data):
        conns[data] = conn
        if data.startswith(b"from a"):
            conns[b"b"].send(data)
            program.append(data)
            return None
        if data.startswith(b"own"):
            program.append(data)
        return data

    with (
        util.serving(handler, backend, tmp_path / "s", framing=LINES) as server,
        util.connect(server.address) as a,
        util.connect(server.address) as b,
    ):
        for sock in (a, b):
            sock.sendall(b"a\n" if sock is a else b"b\n")
            util.recv_exactly(sock, 2)
        with util.held(server):
            a.sendall(b"from a 1\n")
            b.sendall(b"own\n")
            a.sendall(b"from a 2\n")
        assert util.recv_exactly(b, 22) == b"\n".join(program) + b"\n"
        assert sorted(program) == [b"from a 1", b"from a 2", b"own"]


def test_output_is_in_program_order_of_send_many_and_timers(backend):
    def handler(conn, data):
        conn.send(b"1")
        conn.mux.send_many([conn, conn], b"2")
        conn.send(b"3")
        conn.mux.call_later(0, later, conn)
        return b"4"

    def later(conn):
        conn.mux.send_many([conn], b"5")
        conn.send(b"6")
        conn.mux.send_many([conn], b"7")

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.exchange(server.address, b"go\n", 16) == b"1\n2\n2\n3\n4\n5\n6\n7\n"


def test_large_and_small_pieces_keep_their_order(backend):
    sizes = [1, 100_000, 10, 5000, 3, 3_000_000, 2, 4096, 1]
    pieces = [bytes([65 + k]) * size for k, size in enumerate(sizes)]

    def handler(conn, data):
        for piece in pieces[:-1]:
            conn.send(piece)
        return pieces[-1]

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"go") == b"".join(pieces)


def test_at_the_end_of_its_stream_it_closes_once_its_answers_are_flushed(backend):
    size = 8 << 20
    with util.serving(lambda conn, data: b"x" * size, backend) as server:
        assert len(util.everything(server.address, b"go")) == size
        util.wait_until(lambda: server.stats().connections == 0)
        assert server.stats().closed == 1


def test_a_close_by_the_handler_still_sends_what_it_returns(backend):
    def handler(conn, data):
        conn.close()
        return b"bye"

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.recv_all(sock) == b"bye"


def test_no_message_reaches_it_after_its_close(backend):
    seen = []

    def handler(conn, data):
        seen.append(data)
        conn.close()
        return data

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\nb\nc\n")
        assert util.recv_all(sock) == b"a\n"
    assert seen == [b"a"]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_send_after_its_own_end_raises(backend, end):
    caught = []

    def handler(conn, data):
        getattr(conn, end)()
        with pytest.raises(pymux.ConnectionClosed) as info:
            conn.send(b"late")
        caught.append(info.value)

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.until_end(sock)[0] == b""
    assert len(caught) == 1


def test_what_it_returns_after_abort_is_discarded_silently(backend):
    def handler(conn, data):
        conn.abort()
        return b"late"

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.until_end(sock) == (b"", errno.ECONNRESET)


def test_a_gone_peer_may_be_sent_to_until_its_closed_was_dispatched(backend):
    """The one that resets is in the same harvest as the one that sends to it."""
    conns, caught = [], []

    def handler(conn, data):
        if data == b"name":
            conns.append(conn)
            return b"ok"
        try:
            conns[0].send(b"lost")
        except pymux.ConnectionClosed as error:
            caught.append(error)
        return b"sent"

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sender,
    ):
        gone = util.connect(server.address)
        gone.sendall(b"name")
        assert util.recv_exactly(gone, 2) == b"ok"
        with util.held(server):
            sender.sendall(b"go")
            util.reset(gone)
        assert util.recv_exactly(sender, 4) == b"sent"
        assert caught == []
        util.wait_until(lambda: server.stats().connections == 1)
        assert server.stats().discarded > 0
        sender.sendall(b"go")
        assert util.recv_exactly(sender, 4) == b"sent"
        assert len(caught) == 1


def test_an_answer_to_a_gone_peer_is_discarded_silently(backend):
    with util.serving(lambda conn, data: data, backend) as server:
        with util.held(server):
            sock = util.connect(server.address)
            sock.sendall(b"go")
            util.reset(sock)
        assert util.exchange(server.address, b"other", 5) == b"other"
        util.wait_until(lambda: server.stats().connections == 0)


def test_a_reset_behind_messages_drops_none_of_them(backend):
    seen = []
    with util.serving(
        lambda conn, data: seen.append(data) or data, backend, framing=LINES
    ) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: server.stats().connections == 1)
        with util.held(server):
            sock.sendall(b"a\nb\n")
            util.reset(sock)
        util.wait_until(lambda: server.stats().connections == 0)
        util.settle(server)
    assert seen == [b"a", b"b"]


def test_connection_closed_that_escapes_is_the_normal_end_of_the_one_it_names(
    backend,
):
    """Not of the one whose handler raised it, and nobody is told of an error."""
    conns, errors = [], []

    def handler(conn, data):
        if data == b"name":
            conns.append(conn)
            conn.close()
            return None
        if data == b"send":
            conns[0].send(b"late")
        return data

    with (
        util.serving(
            handler, backend, on_error=lambda *args: errors.append(args), framing=LINES
        ) as server,
        util.connect(server.address) as sock,
    ):
        assert util.everything(server.address, b"name\n") == b""
        sock.sendall(b"send\nstill\n")
        assert util.recv_exactly(sock, 6) == b"still\n"
    assert errors == []


def test_connection_closed_of_its_own_is_not_logged(backend):
    def handler(conn, data):
        conn.close()
        conn.send(b"late")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"go") == b""


def test_a_partial_a_method_and_a_callable_object_are_functions(backend):
    class Callable:
        def __call__(self, conn, data):
            return data.upper()

        def method(self, conn, data):
            return data.upper()

    def two(prefix, conn, data):
        return data.upper()

    for handler in (Callable(), Callable().method, functools.partial(two, b"x")):
        with util.serving(handler, backend) as server:
            assert util.exchange(server.address, b"hello", 5) == b"HELLO"
