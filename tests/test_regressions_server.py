"""What servers once got wrong, each with the test that it would fail."""

import contextlib
import errno
import threading

import pytest

import pymux
from tests import inside, util
from tests.processes import descriptors_allowed, in_child
from tests.util import Boom

LINES = pymux.Lines()
LARGE = 60 << 20  # bytes, more than the kernel takes from who is not read


def stop(server, drain_timeout):
    """Stop a server, and raise what `stop` raises; an AssertionError if it hangs."""
    raised = []

    def call():
        try:
            server.stop(drain_timeout)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "stop() does not return"
    if raised:
        raise raised[0]


@contextlib.contextmanager
def started(handler, backend, address=("127.0.0.1", 0), **options):
    """A started server, which the block has to stop."""
    server = pymux.Server(handler, address, backend=backend, **options)
    yield server.start()
    assert inside.has_ended(server)


# -- a batch that is cut short ---------------------------------------------------


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


# -- a stop that does not end ----------------------------------------------------


def test_stop_returns_where_a_paused_coroutine_is_reset(backend, tmp_path):
    ended = []

    async def handler(conn):
        conn.pause()
        try:
            await conn.recv()
        except pymux.ConnectionClosed as error:
            ended.append(error.errno)
            raise

    with (
        started(handler, backend, tmp_path / "s") as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        sock.sendall(b"not read")
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


def test_stop_returns_where_a_coroutine_is_reset_in_drain(backend):
    ended = []

    async def handler(conn):
        conn.send(bytes(LARGE))
        try:
            await conn.drain()
        except pymux.ConnectionClosed as error:
            ended.append(error.errno)
            raise

    with (
        started(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        util.recv_exactly(sock, 1)
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


@pytest.mark.parametrize("act", ["close", "send"])
def test_stop_returns_where_closed_reaches_for_its_connection(backend, act):
    ended = []

    class Handler:
        def received(self, conn, data):
            return bytes(LARGE)

        def closed(self, conn, error):
            ended.append(error.errno)
            conn.close() if act == "close" else conn.send(b"bye")

    with (
        started(Handler(), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.recv_exactly(sock, 1)
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


def test_a_system_exit_of_a_coroutine_closed_at_the_stop_leaves_stop(backend, logged):
    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            raise SystemExit("last words")

    with (
        started(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        with pytest.raises(SystemExit, match="last words"):
            stop(server, 0)
        util.until_end(sock)


def test_stop_without_time_resets_a_long_backlog(backend, tmp_path):
    count = 300

    async def handler(conn):
        await pymux.sleep(3600)

    with (
        descriptors_allowed(2 * count + 100),
        started(handler, backend, tmp_path / "s", backlog=count) as server,
        contextlib.ExitStack() as stack,
    ):
        with util.held(server, lambda: server.stop(0)):
            socks = [
                stack.enter_context(util.connect(server.address)) for _ in range(count)
            ]
        stop(server, 0)
        for sock in socks:
            assert util.until_end(sock)[0] == b""
    stats = server.stats()
    assert (stats.accepted, stats.connections, stats.listeners) == (count, 0, 0)


# -- coroutines ------------------------------------------------------------------


def test_a_coroutine_function_that_cannot_be_called_ends_its_connection_only(
    backend, logged
):
    async def handler(conn, too_much):
        """Never begun."""

    with util.serving(handler, backend) as server:
        for _ in range(2):
            assert util.everything(server.address, b"") == b""
        assert server.stats().accepted == 2
    assert [record.exc_info[0] for record in logged] == [TypeError, TypeError]


def test_a_second_recv_while_one_is_pending_is_a_runtime_error(backend):
    async def handler(conn):
        first = conn.recv()
        first.send(None)
        try:
            await conn.recv()
        except RuntimeError as error:
            conn.send(str(error).encode())

    with util.serving(handler, backend) as server:
        assert b"one at a time" in util.everything(server.address, b"go")


def test_to_thread_works_in_a_child_of_a_process_that_used_it(backend):
    async def handler(conn):
        async for data in conn:
            conn.send(await pymux.to_thread(bytes.upper, data))

    def once():
        with started(handler, backend) as server:
            try:
                with util.connect(server.address, 5) as sock:
                    sock.sendall(b"hi")
                    assert util.recv_exactly(sock, 2) == b"HI"
            finally:
                stop(server, 0)

    once()
    in_child(once)


# -- what is kept, and what is looked at -----------------------------------------


def causes(server):
    """How many exceptions the mux keeps for ends that it has not reported."""
    util.settle(server)
    return util.in_server(server, inside.kept_causes)


def test_a_closed_method_that_raises_leaves_nothing_behind(backend):
    errors = []

    class Handler:
        def received(self, conn, data):
            return data

        def closed(self, conn, error):
            raise Boom

    with util.serving(
        Handler(), backend, on_error=lambda *args: errors.append(args)
    ) as server:
        for _ in range(10):
            assert util.everything(server.address, b"hi") == b"hi"
        util.wait_until(lambda: len(errors) == 10)
        assert causes(server) == 0


def test_a_handler_that_raises_for_who_ended_meanwhile_leaves_nothing_behind(backend):
    errors = []

    def handler(conn, data):
        raise Boom

    with (
        util.serving(
            handler, backend, on_error=lambda *args: errors.append(args)
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        with util.held(server):
            for _ in range(10):
                sock = stack.enter_context(util.connect(server.address))
                sock.sendall(b"hi")
                util.reset(sock)
        util.wait_until(lambda: server.stats().accepted == 10)
        util.wait_until(lambda: server.stats().connections == 0)
        assert causes(server) == 0


def test_more_messages_than_can_be_counted_may_be_waited_for(backend):
    handler = pymux.batched(
        lambda batch: batch.reply(batch.messages), min_messages=2**32
    )
    with util.serving(handler, backend) as server:
        assert util.exchange(server.address, b"hi", 2) == b"hi"


def test_figures_can_be_asked_for_while_a_handler_closes_the_mux(backend):
    def handler(conn, data):
        conn.mux.close()

    def ask():
        while not over.is_set():
            seen.append(server.stats().backend)
            del seen[1:]

    for _ in range(5):
        over, seen = threading.Event(), []
        with started(handler, backend) as server:
            thread = threading.Thread(target=ask, daemon=True)
            thread.start()
            try:
                with util.connect(server.address) as sock:
                    sock.sendall(b"go")
                    util.until_end(sock)
                stop(server, 0)
            finally:
                over.set()
                thread.join(10)
        assert seen == [backend]
        assert server.stats().connections == 0
