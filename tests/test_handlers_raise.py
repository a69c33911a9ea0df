"""Handlers that raise, and handlers that reach back into the mux that called them."""

import asyncio
import contextlib
import logging
import socket
import threading

import pytest

import pymux

from . import inside, util
from .util import Boom, Panic

LINES = pymux.Lines()


def boom(conn, data):
    """A handler that raises for `boom` and answers anything else."""
    if data == b"boom":
        conn.send(b"last")
        raise Boom("of the handler")
    return data


def test_a_handler_that_raises_flushes_its_answers_and_drops_the_rest(backend):
    errors = []
    with util.serving(
        boom, backend, framing=LINES, on_error=lambda *args: errors.append(args)
    ) as server:
        assert util.everything(server.address, b"a\nboom\nb\n") == b"a\nlast\n"
        util.wait_until(lambda: server.stats().connections == 0)
    ((conn, error),) = errors
    assert isinstance(conn, pymux.Connection)
    assert isinstance(error, Boom)


def test_a_handler_that_raises_harms_no_other_connection(backend, tmp_path):
    with (
        util.serving(
            boom, backend, tmp_path / "s", framing=LINES, on_error=lambda *args: None
        ) as server,
        util.connect(server.address) as a,
        util.connect(server.address) as b,
        util.connect(server.address) as c,
    ):
        socks = [a, b, c]
        for sock in socks:
            sock.sendall(b"1\n")
            assert util.recv_exactly(sock, 2) == b"1\n"
        with util.held(server):
            a.sendall(b"2\n")
            b.sendall(b"boom\n")
            c.sendall(b"2\n")
        assert util.recv_exactly(a, 2) == b"2\n"
        assert util.recv_exactly(c, 2) == b"2\n"
        assert util.recv_all(b) == b"last\n"
        a.sendall(b"3\n")
        assert util.recv_exactly(a, 2) == b"3\n"


def test_a_handler_that_raises_is_logged_once_with_its_traceback(backend, logged):
    with util.serving(boom, backend, framing=LINES) as server:
        util.everything(server.address, b"boom\nboom\n")
    (record,) = logged
    assert record.name == "pymux"
    assert record.levelname == "ERROR"
    assert record.exc_info[0] is Boom
    assert record.exc_info[2] is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_leave_run(backend, tmp_path, error):
    def handler(conn, data):
        raise error

    def client():
        sock = util.connect_when_up(tmp_path / "s")
        with sock:
            sock.sendall(b"go")
            util.until_end(sock)

    thread = threading.Thread(target=client)
    thread.start()
    server = pymux.Server(handler, tmp_path / "s", backend=backend)
    with pytest.raises(error):
        server.run()
    thread.join(10)
    assert not thread.is_alive()
    assert not (tmp_path / "s").exists()


def test_harvest_inside_a_handler_is_a_runtime_error(backend):
    caught = []

    def handler(conn, data):
        with pytest.raises(RuntimeError, match="harvest") as info:
            conn.mux.harvest(0)
        caught.append(info.value)
        return b"ok"

    with util.serving(handler, backend) as server:
        assert util.exchange(server.address, b"go", 2) == b"ok"
    assert caught


def test_harvest_inside_a_timer_is_a_runtime_error(backend):
    caught = []

    def later(conn):
        with pytest.raises(RuntimeError, match="harvest") as info:
            conn.mux.harvest(0)
        caught.append(info.value)
        conn.send(b"ok")

    def handler(conn, data):
        conn.mux.call_later(0, later, conn)

    with util.serving(handler, backend) as server:
        assert util.exchange(server.address, b"go", 2) == b"ok"
    assert caught


def test_close_of_the_mux_inside_a_handler_waits_for_the_dispatch(backend, tmp_path):
    seen = []

    def handler(conn, data):
        seen.append(data)
        if data in (b"a", b"b"):
            conn.mux.close()
        return data

    server = pymux.Server(handler, tmp_path / "s", backend=backend, framing=LINES)
    server.start()
    with util.connect(server.address) as a, util.connect(server.address) as b:
        for sock in (a, b):
            sock.sendall(b"1\n")
            assert util.recv_exactly(sock, 2) == b"1\n"
        with util.held(server):
            a.sendall(b"a\n")
            b.sendall(b"b\n")
        for sock in (a, b):
            util.until_end(sock)
    server.stop()
    assert sorted(seen) == [b"1", b"1", b"a", b"b"]


def test_an_error_in_a_timer_goes_to_on_error_without_a_connection(backend):
    errors = []

    def later():
        raise Boom("of the timer")

    def handler(conn, data):
        conn.mux.call_later(0, later)
        return data

    with util.serving(
        handler, backend, on_error=lambda *args: errors.append(args)
    ) as server:
        assert util.exchange(server.address, b"go", 2) == b"go"
        util.wait_until(lambda: errors)
        assert util.exchange(server.address, b"on", 2) == b"on"
    assert errors[0][0] is None
    assert isinstance(errors[0][1], Boom)


def test_an_error_in_a_timer_is_logged_once(backend, logged):
    def later():
        raise Boom("of the timer")

    with util.serving(lambda conn, data: data, backend) as server:
        util.in_server(server, lambda mux: mux.call_later(0, later))
        util.wait_until(lambda: logged)
        assert util.exchange(server.address, b"on", 2) == b"on"
    (record,) = logged
    assert record.exc_info[0] is Boom


def test_an_on_error_that_raises_is_logged_and_the_server_goes_on(backend, logged):
    def on_error(conn, error):
        raise RuntimeError("of on_error")

    with util.serving(boom, backend, on_error=on_error) as server:
        assert util.everything(server.address, b"boom") == b"last"
        assert util.exchange(server.address, b"on", 2) == b"on"
    assert logged


# --- what is no Exception ---------------------------------------------------
ODD = [Panic, asyncio.CancelledError, GeneratorExit]


def failing(form, error):
    """A handler of the named form that raises for `boom`, and answers otherwise."""

    def answer(data):
        if data == b"boom":
            raise error("of the handler")
        return data

    return util.in_form(form, answer)


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("form", util.FORMS)
def test_whatever_a_handler_raises_ends_its_own_connection(backend, form, error):
    told = []
    with (
        util.serving(
            failing(form, error),
            backend,
            framing=LINES,
            on_error=lambda conn, error: told.append(type(error)),
        ) as server,
        util.connect(server.address) as other,
    ):
        other.sendall(b"before\n")
        assert util.recv_exactly(other, 7) == b"before\n"
        assert util.everything(server.address, b"boom\n") == b""
        other.sendall(b"after\n")
        assert util.recv_exactly(other, 6) == b"after\n"
    assert told == [error]


@pytest.mark.parametrize("method", ["opened", "blocked", "drained", "closed"])
def test_whatever_an_objects_method_raises_ends_its_own_connection(backend, method):
    told = []

    class Handler:
        def received(self, conn, data):
            return data if data != b"much" else bytes(4 << 20)

    def raising(self, conn, *args):
        if conn.peer[1] == bad.getsockname()[1]:
            raise Panic

    setattr(Handler, method, raising)
    bad = socket.socket()
    with (
        bad,
        util.serving(
            Handler(), backend, on_error=lambda conn, error: told.append(error)
        ) as server,
        util.connect(server.address) as other,
    ):
        bad.settimeout(10)
        bad.bind(("127.0.0.1", 0))
        bad.connect(server.address)
        if method in ("blocked", "drained"):
            bad.sendall(b"much")
        elif method == "closed":
            bad.shutdown(socket.SHUT_WR)
        util.until_end(bad)
        util.wait_until(lambda: told)
        other.sendall(b"on")
        assert util.recv_exactly(other, 2) == b"on"
    (error,) = told
    assert type(error) is Panic


@pytest.mark.parametrize("form", util.FORMS)
def test_whatever_on_error_raises_is_logged_once(backend, form, logged):
    def on_error(conn, error):
        raise Panic("of on_error")

    with util.serving(
        failing(form, Boom), backend, framing=LINES, on_error=on_error
    ) as server:
        assert util.everything(server.address, b"boom\n") == b""
        assert util.exchange(server.address, b"on\n", 3) == b"on\n"
    (record,) = logged
    assert record.exc_info[0] is Panic


@pytest.mark.parametrize("how", ["timer", "threadsafe"])
def test_whatever_a_call_of_the_mux_raises_is_its_own_error(backend, how):
    told = []

    def fail(*args):
        raise Panic

    with util.serving(
        lambda conn, data: data,
        backend,
        on_error=lambda conn, error: told.append((conn, type(error))),
    ) as server:
        if how == "timer":
            util.in_server(server, lambda mux: mux.call_later(0, fail))
        else:
            server.call_threadsafe(fail)
        util.wait_until(lambda: told)
        assert util.exchange(server.address, b"on", 2) == b"on"
    assert told == [(None, Panic)]


def test_what_a_coroutines_cleanup_raises_is_its_own_error(backend):
    told = []

    async def handler(conn):
        try:
            async for data in conn:
                if data == b"bad":
                    return
                conn.send(data)
        finally:
            if conn.state != "good":
                raise Panic

    async def good(conn):
        conn.state = "good"
        await handler(conn)

    async def either(conn):
        await (good if await conn.recv() == b"good" else handler)(conn)

    with (
        util.serving(
            either,
            backend,
            framing=LINES,
            on_error=lambda conn, error: told.append(type(error)),
        ) as server,
        util.connect(server.address) as other,
    ):
        other.sendall(b"good\n1\n")
        assert util.recv_exactly(other, 2) == b"1\n"
        assert util.everything(server.address, b"x\nbad\n") == b""
        other.sendall(b"2\n")
        assert util.recv_exactly(other, 2) == b"2\n"
    assert told == [Panic]


def test_a_coroutine_handler_that_cannot_be_called_is_its_own_error(backend, logged):
    class Handler:
        __signature__ = "not told"  # else the server refuses the handler

        async def __call__(self):  # takes no connection
            pass

    with util.serving(Handler(), backend) as server:
        assert util.everything(server.address, b"") == b""
        assert util.everything(server.address, b"") == b""
        assert server.stats().accepted == 2
    assert logged[0].exc_info[0] is TypeError


def test_a_log_handler_that_raises_ends_nobodys_connection(backend, capfd, logged):
    class Broken(logging.Handler):
        def emit(self, record):
            raise Panic("of the log")

    broken = Broken()
    logging.getLogger("pymux").addHandler(broken)
    try:
        with util.serving(failing("function", Boom), backend, framing=LINES) as server:
            assert util.everything(server.address, b"boom\n") == b""
            assert util.exchange(server.address, b"on\n", 3) == b"on\n"
    finally:
        logging.getLogger("pymux").removeHandler(broken)
    assert "of the log" in capfd.readouterr().err


def test_nobody_in_the_same_turn_loses_a_byte(backend, tmp_path):
    """The rows behind the one that raises, and the answers before it."""
    with util.serving(
        failing("function", Panic),
        backend,
        tmp_path / "s",
        framing=LINES,
        on_error=lambda *args: None,
    ) as server:
        socks = [util.connect(server.address) for _ in range(9)]
        for sock in socks:
            sock.sendall(b"first\n")
            assert util.recv_exactly(sock, 6) == b"first\n"
        with util.held(server):
            for k, sock in enumerate(socks):
                sock.sendall(b"1\nboom\n2\n" if k % 3 == 1 else b"1\n2\n")
        for k, sock in enumerate(socks):
            with sock:
                if k % 3 == 1:
                    assert util.recv_all(sock) == b"1\n"
                else:
                    assert util.recv_exactly(sock, 4) == b"1\n2\n"


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
