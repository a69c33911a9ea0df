"""Server: construction, one life, its thread, addresses, figures, calls."""

import os
import socket
import stat
import threading

import pytest

import pymux

from . import util
from .hosts import needs_ipv6
from .stops import started, stop

LINES = pymux.Lines()


def echo(conn, data):
    """What most servers here do."""
    return data


def test_construction_takes_no_descriptor_and_binds_nothing(backend, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pymux.Server(echo, taken.getsockname(), backend=backend)
    pymux.Server(echo, tmp_path / "s", backend=backend)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["start", "run", "with"])
def test_binding_raises_in_the_caller(backend, way):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = pymux.Server(echo, ("127.0.0.1", port), backend=backend)
        threads = threading.active_count()
        with pytest.raises(OSError, match=str(port)):
            if way == "with":
                with server:
                    pass
            else:
                getattr(server, way)()
        assert threading.active_count() == threads


def test_start_returns_the_server_and_accepts_at_once(backend):
    server = pymux.Server(echo, ("127.0.0.1", 0), backend=backend)
    assert server.start() is server
    assert util.everything(server.address, b"go") == b"go"
    server.stop()


def test_it_runs_in_a_daemon_thread_of_its_own(backend):
    threads = []

    def handler(conn, data):
        threads.append(threading.current_thread())
        return data

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"go")
    (thread,) = threads
    assert thread is not threading.main_thread()
    assert thread.daemon
    assert not thread.is_alive()


def test_with_starts_and_stops_it(backend):
    with pymux.Server(echo, ("127.0.0.1", 0), backend=backend) as server:
        address = server.address
        assert util.everything(address, b"go") == b"go"
    with pytest.raises(ConnectionRefusedError):
        util.connect(address)


def test_with_stops_it_when_its_block_raises(backend):
    with (
        pytest.raises(LookupError),
        pymux.Server(echo, ("127.0.0.1", 0), backend=backend) as server,
    ):
        raise LookupError
    with pytest.raises(ConnectionRefusedError):
        util.connect(server.address)


def test_run_serves_in_the_callers_thread_until_it_is_stopped(backend, tmp_path):
    seen = []

    def handler(conn, data):
        seen.append(threading.current_thread())
        server.stop()
        return data

    def client():
        with util.connect_when_up(tmp_path / "s") as sock:
            sock.sendall(b"go")
            seen.append(util.recv_all(sock))

    server = pymux.Server(handler, tmp_path / "s", backend=backend)
    thread = threading.Thread(target=client)
    thread.start()
    server.run()
    thread.join(10)
    assert seen == [threading.current_thread(), b"go"]


@pytest.mark.parametrize("first", ["start", "run"])
@pytest.mark.parametrize("second", ["start", "run", "with"])
def test_a_second_start_is_a_runtime_error(backend, first, second):
    server = pymux.Server(echo, ("127.0.0.1", 0), backend=backend)
    if first == "start":
        server.start()
    else:
        thread = threading.Thread(target=server.run)
        thread.start()
        util.wait_until(lambda: is_up(server))
    with pytest.raises(RuntimeError):
        if second == "with":
            server.__enter__()
        else:
            getattr(server, second)()
    assert util.everything(server.address, b"still") == b"still"
    server.stop()
    with pytest.raises(RuntimeError):
        server.start()
    if first == "run":
        thread.join(10)


def is_up(server):
    """Whether a server that another thread starts answers."""
    try:
        return util.everything(server.address, b"up?") == b"up?"
    except (OSError, RuntimeError):
        return False


def test_its_address_has_the_port_it_got_and_stays_readable(backend):
    with util.serving(echo, backend) as server:
        host, port = server.address
        assert host == "127.0.0.1"
        assert port > 0
    assert server.address == (host, port)


@needs_ipv6
def test_ipv6_is_served(backend):
    with util.serving(echo, backend, ("::1", 0)) as server:
        assert server.address[0] == "::1"
        assert util.everything(server.address, b"go") == b"go"


def test_a_unix_socket_is_served_and_its_file_removed(backend, tmp_path):
    path = tmp_path / "s"
    with util.serving(echo, backend, path) as server:
        assert server.address == str(path)
        assert util.everything(path, b"go") == b"go"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("option", "mode"), [({}, 0o600), ({"mode": 0o660}, 0o660)])
def test_the_file_of_a_unix_socket_gets_its_mode(backend, tmp_path, option, mode):
    with util.serving(echo, backend, tmp_path / "s", **option):
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == mode


def test_framing_and_limits_hold_for_its_connections(backend):
    limits = pymux.Limits(max_connections=1)
    with util.serving(
        echo, backend, framing=pymux.LengthPrefix(2), limits=limits
    ) as server:
        with util.connect(server.address) as first:
            first.sendall(b"\0\1a\0\0\0\2bc")
            assert util.recv_exactly(first, 9) == b"\0\1a\0\0\0\2bc"
            second = util.connect(server.address)
            second.sendall(b"\0\1z")
            util.settle(server)
            assert server.stats().connections == 1
        with second:
            assert util.recv_exactly(second, 3) == b"\0\1z"


def test_two_servers_share_a_port_by_reuse_port(backend):
    if not hasattr(socket, "SO_REUSEPORT"):
        pytest.skip("no SO_REUSEPORT here")
    with (
        util.serving(echo, backend, reuse_port=True) as one,
        util.serving(echo, backend, one.address, reuse_port=True) as two,
    ):
        assert one.address == two.address


@pytest.mark.parametrize("spin", [0, 0.0005, "auto"])
def test_it_serves_whether_it_spins_or_not(backend, spin):
    with (
        util.serving(echo, backend, spin=spin) as server,
        util.connect(server.address) as sock,
    ):
        for _ in range(20):
            sock.sendall(b"ping")
            assert util.recv_exactly(sock, 4) == b"ping"


def test_the_backend_is_the_one_asked_for(backend):
    with util.serving(echo, backend) as server:
        assert server.stats().backend == backend


def test_the_environment_chooses_where_the_caller_does_not(backend, monkeypatch):
    monkeypatch.setenv("PYMUX_BACKEND", backend)
    with util.serving(echo) as server:
        assert server.stats().backend == backend


def test_stats_count_what_was_served(backend):
    with util.serving(lambda conn, data: b"12345", backend, framing=LINES) as server:
        util.everything(server.address, b"a\nbc\n")
        util.wait_until(lambda: server.stats().closed == 1)
        stats = server.stats()
    assert isinstance(stats, pymux.Stats)
    assert (stats.accepted, stats.connections, stats.listeners) == (1, 0, 1)
    assert (stats.messages_in, stats.messages_out) == (2, 2)
    assert (stats.bytes_in, stats.bytes_out) == (5, 12)
    assert (stats.queued, stats.discarded, stats.reset) == (0, 0, 0)


def test_stats_count_what_waits_for_the_kernel_once(backend, tmp_path):
    size = 1 << 20
    with (
        util.serving(lambda conn, data: b"x" * size, backend, tmp_path / "s") as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().bytes_out > 0)
        util.wait_until(
            lambda: server.stats().queued + server.stats().bytes_out == size
        )
        assert len(util.recv_exactly(sock, size)) == size
        util.wait_until(lambda: server.stats().queued == 0)


def test_stats_may_be_asked_before_and_after_its_life(backend):
    server = pymux.Server(echo, ("127.0.0.1", 0), backend=backend)
    before = server.stats()
    assert (before.accepted, before.listeners, before.connections) == (0, 0, 0)
    with server:
        util.everything(server.address, b"go")
    after = server.stats()
    assert (after.accepted, after.closed, after.messages_in) == (1, 1, 1)
    assert (after.listeners, after.connections) == (0, 0)
    assert after.backend == backend


@pytest.mark.parametrize(
    "ask",
    [lambda server: server.address, lambda server: server.call_threadsafe(print)],
    ids=["address", "call_threadsafe"],
)
def test_before_it_is_started_there_is_nothing_to_ask_it_for(backend, ask):
    server = pymux.Server(echo, ("127.0.0.1", 0), backend=backend)
    with pytest.raises(RuntimeError, match="not started"):
        ask(server)
    with server:
        assert util.everything(server.address, b"go") == b"go"


def test_call_threadsafe_gives_the_mux_first_in_the_servers_thread(backend):
    calls, done = [], threading.Event()

    def call(*args):
        calls.append((args, threading.current_thread()))
        done.set()

    with util.serving(echo, backend) as server:
        server.call_threadsafe(call, 1, "two")
        assert done.wait(10)
    (((mux, *rest), thread),) = calls
    assert isinstance(mux, pymux.Mux)
    assert rest == [1, "two"]
    assert thread is not threading.current_thread()


def test_calls_of_a_thread_are_run_in_order(backend):
    calls = []
    with util.serving(echo, backend) as server:
        for k in range(1000):
            server.call_threadsafe(lambda mux, k: calls.append(k), k)
        util.settle(server)
    assert calls == list(range(1000))


def test_calls_of_many_threads_all_run(backend):
    calls = []

    def caller(name):
        for k in range(200):
            server.call_threadsafe(lambda mux, *args: calls.append(args), name, k)

    with util.serving(echo, backend) as server:
        threads = [threading.Thread(target=caller, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        util.settle(server)
    for name in range(4):
        assert [k for n, k in calls if n == name] == list(range(200))


def test_a_call_may_send_connect_and_listen(backend):
    """The mux of a server is a whole mux."""
    with util.serving(echo, backend) as server:
        listener = util.in_server(server, pymux.Mux.listen, ("127.0.0.1", 0))
        assert util.everything(listener.address, b"second port") == b"second port"


def test_call_threadsafe_after_its_end_is_a_runtime_error(backend):
    with util.serving(echo, backend) as server:
        pass
    with pytest.raises(RuntimeError):
        server.call_threadsafe(print)


def test_a_call_that_raises_is_told_of_and_the_server_goes_on(backend):
    told = []

    def call(mux):
        raise LookupError("of the call")

    with util.serving(
        echo, backend, on_error=lambda *args: told.append(args)
    ) as server:
        server.call_threadsafe(call)
        assert util.everything(server.address, b"go") == b"go"
    ((conn, error),) = told
    assert conn is None
    assert isinstance(error, LookupError)


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
