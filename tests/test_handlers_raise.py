"""Handlers that raise, and handlers that reach back into the mux that called them."""

import threading

import pytest

import pymux
from tests import util

LINES = pymux.Lines()


class Boom(Exception):
    """What a handler of these tests raises."""


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
