"""Object handlers: their methods are called as connections live."""

import contextlib
import errno
import socket

import pytest

import pymux

from . import util
from .util import Boom

LINES = pymux.Lines()
FEW = pymux.Limits(high_water=20_000, low_water=5_000)


class Log:
    """An echo that keeps what it was told: (harvest, what, connection, argument)."""

    def __init__(self):
        self.rows = []

    def keep(self, what, conn, argument=None):
        self.rows.append((conn.mux.stats().harvests, what, conn, argument))

    def opened(self, conn):
        self.keep("opened", conn)

    def received(self, conn, data):
        self.keep("received", conn, data)
        return data

    def blocked(self, conn):
        self.keep("blocked", conn)

    def drained(self, conn):
        self.keep("drained", conn)

    def closed(self, conn, error):
        self.keep("closed", conn, error)

    def of(self, what):
        """[(connection, argument)] of one method."""
        return [row[2:] for row in self.rows if row[1] == what]

    def errors(self):
        """What the one connection's `closed` was given."""
        ((_conn, error),) = self.of("closed")
        return error


def test_a_connection_is_told_of_from_opened_to_closed(backend):
    log = Log()
    with util.serving(log, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\nb\n") == b"a\nb\n"
        util.wait_until(lambda: log.of("closed"))
    assert [(what, argument) for _, what, _, argument in log.rows] == [
        ("opened", None),
        ("received", b"a"),
        ("received", b"b"),
        ("closed", None),
    ]
    assert len({conn for _, _, conn, _ in log.rows}) == 1


def test_within_a_harvest_the_order_is_opened_messages_blocked_drained_closed(
    backend, tmp_path
):
    class Sender(Log):
        def received(self, conn, data):
            super().received(conn, data)
            return b"x" * (1 << 20) if data == b"long" else data

    log = Sender()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            util.serving(log, backend, tmp_path / "s", framing=LINES, limits=FEW)
        )
        drains, leaves, speaks = (
            stack.enter_context(util.connect(server.address)) for _ in range(3)
        )
        drains.sendall(b"long\n")
        util.wait_until(lambda: server.stats().queued > FEW.high_water)
        util.wait_until(lambda: server.stats().connections == 3)
        # All of it happens while the server looks away, several times over, since
        # the last of the output takes the kernel more than one turn.
        left = (1 << 20) + 1
        while left:
            with util.held(server):
                late = stack.enter_context(util.connect(server.address))
                late.sendall(b"late\n")
                speaks.sendall(b"speaks\n")
                leaves.close()
                left -= len(drains.recv(100_000))
            util.settle(server)
            leaves = late
        util.wait_until(lambda: log.of("drained"))
    order = ["opened", "received", "blocked", "drained", "closed"]
    harvests = {}
    for harvest, what, _, _ in log.rows:
        harvests.setdefault(harvest, []).append(order.index(what))
    assert all(rows == sorted(rows) for rows in harvests.values())
    together = {tuple(sorted(set(rows))) for rows in harvests.values()}
    assert any({0, 1} <= set(rows) for rows in together), together
    assert any({1, 4} <= set(rows) for rows in together), together


def test_opened_may_greet_before_anything_came(backend):
    class Greeter:
        def opened(self, conn):
            conn.send(b"welcome")
            conn.close()

    with (
        util.serving(Greeter(), backend) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b"welcome"


def test_what_opened_returns_is_not_sent(backend):
    class Quiet:
        def opened(self, conn):
            return b"not sent"

    with util.serving(Quiet(), backend) as server:
        assert util.everything(server.address, b"go") == b""


def test_state_is_the_handlers_own(backend):
    class Counter:
        def opened(self, conn):
            conn.state = 0

        def received(self, conn, data):
            conn.state += 1
            return b"%d" % conn.state

    with util.serving(Counter(), backend, framing=LINES) as server:
        for _ in range(2):
            assert util.everything(server.address, b"a\nb\n") == b"1\n2\n"


def test_without_received_messages_are_dropped_and_the_connection_lives(backend):
    class Clock:
        def opened(self, conn):
            conn.mux.call_later(0.01, conn.send, b"tick")

    with (
        util.serving(Clock(), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ignored")
        assert util.recv_exactly(sock, 4) == b"tick"
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b""


def test_drained_is_called_when_output_fell_to_low_water(backend, tmp_path):
    class Pusher(Log):
        def received(self, conn, data):
            self.keep("received", conn, conn.queued)
            return b"x" * (1 << 20)

        def drained(self, conn):
            self.keep("drained", conn, conn.queued)

    log = Pusher()
    with (
        util.serving(log, backend, tmp_path / "s", limits=FEW) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().bytes_out > 0)
        util.settle(server)
        assert log.of("drained") == []
        util.recv_exactly(sock, 1 << 20)
        util.wait_until(lambda: log.of("drained"))
    ((_conn, queued),) = log.of("drained")
    assert queued <= FEW.low_water


def test_blocked_is_called_when_output_went_over_high_water(backend, tmp_path):
    class Pusher(Log):
        def received(self, conn, data):
            return b"x" * (1 << 20)

        def blocked(self, conn):
            self.keep("blocked", conn, conn.queued)

    log = Pusher()
    with (
        util.serving(log, backend, tmp_path / "s", limits=FEW) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: log.of("blocked"))
        util.settle(server)
        assert log.of("drained") == []
        util.recv_exactly(sock, 1 << 20)
        util.wait_until(lambda: log.of("drained"))
    ((_conn, queued),) = log.of("blocked")
    assert queued > FEW.high_water


def test_what_is_taken_at_once_is_blocked_and_then_drained(backend):
    log = Log()
    with util.serving(log, backend, limits=FEW) as server:
        sent = b"x" * (FEW.high_water + 1)
        sent = util.everything(server.address, sent)
        util.wait_until(lambda: log.of("closed"))
    what = [name for _, name, _, _ in log.rows if name in ("blocked", "drained")]
    assert what[:2] in ([], ["blocked", "drained"])
    assert what[::2] == ["blocked"] * (len(what) // 2)


def test_output_under_high_water_drains_without_a_word(backend):
    log = Log()
    with util.serving(log, backend, limits=FEW) as server:
        sent = b"x" * 5000
        assert util.everything(server.address, sent) == sent
        util.wait_until(lambda: log.of("closed"))
    assert log.of("blocked") == log.of("drained") == []


def test_closed_gets_none_at_an_ordinary_end(backend):
    log = Log()
    with util.serving(log, backend) as server:
        util.everything(server.address, b"go")
    assert log.errors() is None


@pytest.mark.parametrize("end", ["close", "abort"])
def test_closed_gets_none_for_its_own_end(backend, end):
    class Ender(Log):
        def received(self, conn, data):
            getattr(conn, end)()

    log = Ender()
    with (
        util.serving(log, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
        sock.close()
        util.wait_until(lambda: log.of("closed"))
    assert log.errors() is None


def test_closed_gets_the_error_of_a_reset(backend):
    log = Log()
    with util.serving(log, backend) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: log.of("opened"))
        util.reset(sock)
        util.wait_until(lambda: log.of("closed"))
    assert isinstance(log.errors(), OSError)
    assert log.errors().errno == errno.ECONNRESET


def test_closed_may_still_send_to_what_it_is_told_of(backend):
    class Late(Log):
        def closed(self, conn, error):
            conn.send(b"discarded")
            super().closed(conn, error)
            conn.mux.call_later(0, self.after, conn)

        def after(self, conn):
            with pytest.raises(pymux.ConnectionClosed):
                conn.send(b"too late")
            self.keep("after", conn)

    log = Late()
    with util.serving(log, backend) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: log.of("opened"))
        util.reset(sock)
        util.wait_until(lambda: log.of("after"))
        assert server.stats().discarded > 0


def test_addresses_and_closed_are_readable_in_closed(backend):
    class Reader(Log):
        def opened(self, conn):
            self.keep("opened", conn, (conn.peer, conn.local, conn.closed))

        def closed(self, conn, error):
            self.keep("closed", conn, (conn.peer, conn.local, conn.closed))

    log = Reader()
    with (
        util.serving(log, backend) as server,
        util.connect(server.address) as sock,
    ):
        peer, local = sock.getsockname(), sock.getpeername()
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b""
    assert [names for _, names in log.of("opened")] == [(peer, local, False)]
    assert [names for _, names in log.of("closed")] == [(peer, local, True)]


def test_closed_gets_econnaborted_and_the_cause_when_received_raised(backend):
    class Raiser(Log):
        def received(self, conn, data):
            conn.send(b"last")
            raise Boom("of received")

    log, told = Raiser(), []
    with util.serving(
        log, backend, framing=LINES, on_error=lambda *args: told.append(args)
    ) as server:
        assert util.everything(server.address, b"a\nb\n") == b"last\n"
        util.wait_until(lambda: log.of("closed"))
    assert isinstance(log.errors(), OSError)
    assert log.errors().errno == errno.ECONNABORTED
    ((conn, error),) = told
    assert conn is log.rows[0][2]
    assert log.errors().__cause__ is error
    assert isinstance(error, Boom)


def test_opened_that_raises_ends_its_connection_alone(backend):
    class Raiser(Log):
        def opened(self, conn):
            super().opened(conn)
            if len(self.of("opened")) == 1:
                conn.send(b"last")
                raise Boom("of opened")

    log, told = Raiser(), []
    with util.serving(log, backend, on_error=lambda *args: told.append(args)) as server:
        assert util.everything(server.address, b"") == b"last"
        assert util.everything(server.address, b"next") == b"next"
        util.wait_until(lambda: len(log.of("closed")) == 2)
    (_, first), (_, second) = log.of("closed")
    assert first.errno == errno.ECONNABORTED
    assert isinstance(first.__cause__, Boom)
    assert second is None
    assert len(told) == 1


@pytest.mark.parametrize("method", ["blocked", "drained"])
def test_news_of_output_that_raises_ends_its_connection_alone(
    backend, tmp_path, method
):
    class Raiser(Log):
        def received(self, conn, data):
            return b"x" * (1 << 20) if data == b"long" else data

    def raising(self, conn):
        raise Boom

    setattr(Raiser, method, raising)
    log, told = Raiser(), []
    with util.serving(
        log, backend, tmp_path / "s", on_error=lambda *args: told.append(args)
    ) as server:
        with util.connect(server.address) as sock:
            sock.sendall(b"long")
            assert len(util.recv_all(sock)) == 1 << 20
        assert util.everything(server.address, b"next") == b"next"
        util.wait_until(lambda: len(log.of("closed")) == 2)
    (_, first), (_, second) = log.of("closed")
    assert first.errno == errno.ECONNABORTED
    assert second is None
    assert len(told) == 1


def test_closed_that_raises_is_logged_and_harms_nobody(backend, logged):
    class Raiser(Log):
        def closed(self, conn, error):
            super().closed(conn, error)
            raise (Boom, LookupError)[len(self.of("closed")) - 1]

    log = Raiser()
    with util.serving(log, backend) as server:
        for _ in range(2):
            assert util.everything(server.address, b"go") == b"go"
        util.wait_until(lambda: len(log.of("closed")) == 2)
    assert [record.exc_info[0] for record in logged] == [Boom, LookupError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_end_the_server(backend, error, logged):
    class Raiser:
        def opened(self, conn):
            raise error

    server = pymux.Server(Raiser(), ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as sock:
        util.until_end(sock)
    with pytest.raises(error):
        server.stop()


def test_closed_is_called_once_for_each_connection(backend):
    log = Log()
    with util.serving(log, backend) as server:
        for k in range(20):
            sock = util.connect(server.address)
            sock.sendall(b"go")
            (util.reset if k % 2 else socket.socket.close)(sock)
    opened = [conn for conn, _ in log.of("opened")]
    closed = [conn for conn, _ in log.of("closed")]
    assert len(opened) == len(set(opened)) == server.stats().accepted >= 10
    assert sorted(conn.id for conn in opened) == sorted(conn.id for conn in closed)


def test_received_may_be_batched(backend, tmp_path):
    class Batched(Log):
        @pymux.batched
        def received(self, batch):
            self.batches.append(batch.messages)
            batch.reply([data.upper() for data in batch.messages])

        def __init__(self):
            super().__init__()
            self.batches = []

    log = Batched()
    with util.serving(log, backend, tmp_path / "s", framing=LINES) as server:
        assert util.everything(server.address, b"a\nb\n") == b"A\nB\n"
    assert log.batches == [[b"a", b"b"]]
    assert [row[1] for row in log.rows] == ["opened", "closed"]


def test_a_batched_received_waits_for_min_messages(backend):
    class Batched(Log):
        @pymux.batched(min_messages=2, max_delay=30)
        def received(self, batch):
            for conn, data in batch:
                self.keep("received", conn, data)
            batch.reply(batch.messages)

    log = Batched()
    with (
        util.serving(log, backend, framing=LINES) as server,
        util.connect(server.address) as a,
        util.connect(server.address) as b,
        util.connect(server.address),
    ):
        util.wait_until(lambda: len(log.of("opened")) == 3)
        a.sendall(b"a\n")
        b.sendall(b"b\n")
        assert util.recv_exactly(a, 2) == b"a\n"
        assert util.recv_exactly(b, 2) == b"b\n"
    assert len({harvest for harvest, what, _, _ in log.rows if what == "received"}) == 1


def test_a_batched_received_that_raises_ends_every_connection_with_a_row(backend):
    class Raiser(Log):
        @pymux.batched
        def received(self, batch):
            raise Boom("of the batch")

    log, told = Raiser(), []
    with util.serving(log, backend, on_error=lambda *args: told.append(args)) as server:
        assert util.everything(server.address, b"go") == b""
        util.wait_until(lambda: log.of("closed"))
    assert log.errors().errno == errno.ECONNABORTED
    assert log.errors().__cause__ is told[0][1]
    assert told[0][0] is None


def test_output_is_in_program_order_over_all_its_methods(backend):
    class Order:
        def opened(self, conn):
            conn.send(b"1")

        def received(self, conn, data):
            conn.send(b"2")
            conn.mux.send_many([conn], b"3")
            return b"4"

    with util.serving(Order(), backend) as server:
        assert util.everything(server.address, b"go") == b"1234"
