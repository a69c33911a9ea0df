"""How a server's thread ends, and what the program learns of it."""

import contextlib
import logging
import threading
import time

import pytest

import pymux

from . import inside, util

HERE = ("127.0.0.1", 0)


def echo(conn, data):
    return data


def exits(data):
    raise SystemExit("of the handler")


def died(form, backend):
    """A server whose thread has ended by what its handler raised."""
    handler = util.in_form(form, exits)
    server = pymux.Server(handler, HERE, backend=backend).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        util.until_end(sock)
    return server


# --- a fatal error --------------------------------------------------------------


@pytest.mark.parametrize("form", util.FORMS)
def test_a_fatal_error_is_logged_at_once_with_its_traceback(backend, form, logged):
    server = died(form, backend)
    util.wait_until(lambda: logged)
    (record,) = logged
    assert record.name == "pymux"
    assert record.levelno == logging.CRITICAL
    assert record.exc_info[0] is SystemExit
    assert str(server.address) in record.getMessage()
    with pytest.raises(SystemExit):
        server.stop()
    assert len(logged) == 1


@pytest.mark.parametrize("form", util.FORMS)
def test_a_fatal_error_is_raised_by_wait_and_by_stop(backend, form, logged):
    server = died(form, backend)
    for _ in range(2):
        with pytest.raises(SystemExit, match="of the handler"):
            server.wait()
    with pytest.raises(SystemExit, match="of the handler"):
        server.stop()


def test_a_fatal_error_wakes_who_waits(backend, logged):
    raised = []
    server = pymux.Server(util.in_form("function", exits), HERE, backend=backend)
    server.start()

    def wait():
        try:
            server.wait()
        except SystemExit as error:
            raised.append(error)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        util.until_end(sock)
    for thread in threads:
        thread.join(10)
    assert len(raised) == 5
    with pytest.raises(SystemExit):
        server.stop()


def test_wait_in_a_block_leaves_it_by_the_fatal_error(backend, logged):
    handler = util.in_form("function", exits)
    with (
        pytest.raises(SystemExit, match="of the handler"),
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x")
        server.wait()


def test_a_log_that_fails_does_not_keep_the_end_from_those_who_wait(backend, logged):
    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("no room for a line")

    broken = Broken()
    logging.getLogger("pymux").addHandler(broken)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda args: None)
            server = died("function", backend)
            for call in (server.wait, server.stop):
                with pytest.raises(SystemExit):
                    call()
    finally:
        logging.getLogger("pymux").removeHandler(broken)


# --- wait -----------------------------------------------------------------------


def test_wait_returns_when_the_server_was_stopped(backend):
    with util.serving(echo, backend) as server:
        waits = threading.Thread(target=server.wait)
        waits.start()
        assert util.everything(server.address, b"x") == b"x"
        assert waits.is_alive()
        server.stop()
        waits.join(10)
        assert not waits.is_alive()
        server.wait()
    server.wait()


def test_wait_for_a_server_that_a_handler_stops(backend):
    def handler(conn, data):
        server.stop()
        return data

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
        server.wait()


def test_wait_for_a_server_that_runs_in_another_thread(backend, tmp_path):
    server = pymux.Server(echo, tmp_path / "s", backend=backend)
    thread = threading.Thread(target=server.run)
    thread.start()
    util.connect_when_up(tmp_path / "s").close()
    timer = threading.Timer(0.01, server.stop)
    timer.start()
    server.wait()
    thread.join(10)
    timer.join(10)
    assert not (tmp_path / "s").exists()


def test_wait_before_the_start_says_so(backend):
    server = pymux.Server(echo, HERE, backend=backend)
    with pytest.raises(RuntimeError, match="not started"):
        server.wait()


def test_wait_in_the_servers_own_thread_is_an_error(backend):
    raised = []

    def handler(conn, data):
        with pytest.raises(RuntimeError, match="own thread") as info:
            server.wait()
        raised.append(info.value)
        return data

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"x") == b"x"
    assert raised


def test_run_may_be_waited_for_in_its_own_thread_once_it_is_over(backend):
    server = pymux.Server(echo, HERE, backend=backend)
    thread = threading.Timer(0.01, lambda: stop_when_up(server))
    thread.start()
    server.run()
    server.wait()
    server.stop()
    thread.join(10)


def stop_when_up(server):
    util.wait_until(lambda: inside.engine_of(server) is not None)
    server.stop()


# --- a handler that does not return ---------------------------------------------


@contextlib.contextmanager
def stuck(form, backend):
    """A server in whose handler a thread is until the block ends."""
    entered, release = threading.Event(), threading.Event()

    def block(data):
        entered.set()
        release.wait(30)
        return data

    server = pymux.Server(util.in_form(form, block), HERE, backend=backend).start()
    try:
        with util.connect(server.address) as sock:
            sock.sendall(b"x")
            assert entered.wait(10)
            with inside.patience(0.1):
                yield server
    finally:
        release.set()
        server.wait()
        server.stop()


@pytest.mark.parametrize("form", util.FORMS)
def test_stop_is_a_timeout_where_a_handler_does_not_return(backend, form):
    with stuck(form, backend) as server:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="does not return"):
            server.stop(0.1)
        assert 0.2 <= time.monotonic() - start < 20


def test_leaving_the_block_is_a_timeout_too(backend):
    with (
        stuck("function", backend) as server,
        pytest.raises(TimeoutError, match="does not return"),
    ):
        inside.allow_no_time(server)
        server.__exit__(None, None, None)


def test_the_server_ends_once_the_handler_returns_after_all(backend):
    with stuck("function", backend) as server, pytest.raises(TimeoutError):
        server.stop(0)
    with pytest.raises(ConnectionRefusedError):
        util.connect(server.address)


def test_a_handler_that_is_late_and_returns_is_no_timeout(backend):
    """It had its answer to give; the time was over meanwhile."""
    entered = threading.Event()

    def handler(conn, data):
        entered.set()
        time.sleep(0.5)
        return data

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert entered.wait(10)
        with inside.patience(20):
            server.stop(0)
