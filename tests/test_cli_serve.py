"""`pymux serve`, run as its users run it: in a process of its own."""

import contextlib
import os
import re
import signal
import socket
import sys
import threading

import pytest

from . import util
from .commands import ask, broken_pipe, finish, one_line, write_module
from .hosts import needs_ipv6

MIB = 1 << 20
ON_LINUX = sys.platform == "linux"


def test_serve_upper_cases_on_each_backend(serve, backend):
    server = serve("--backend", backend)
    assert server.backend == backend
    assert ask(server.address, b"hello") == b"HELLO"


def test_serve_listens_on_port_8093_by_default(pymux_command):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8093))
        except OSError:
            pytest.skip("port 8093 is taken on this machine")
    server = pymux_command("serve")
    assert server.stdout.readline().startswith(b"listening on 127.0.0.1:8093 (")
    assert ask(("127.0.0.1", 8093), b"hello") == b"HELLO"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serve_with_totals(serve, signum):
    server = serve()
    assert ask(server.address, b"hello") == b"HELLO"
    code, out, err = finish(server, signum)
    assert (code, err) == (0, "")
    assert out == (
        "1 connections, 1 messages in, 1 out, 5 bytes in, 5 out, "
        "0 reset, 0 bytes discarded\n"
    )


def test_a_signal_lets_answers_finish(serve):
    server = serve("--handler", "echo")
    data = bytes(8 * MIB)
    with util.connect(server.address) as sock:
        sock.settimeout(30)
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        received = len(util.recv_exactly(sock, MIB))
        received += len(util.recv_exactly(sock, len(data) - MIB))
        sender.join()
        server.send_signal(signal.SIGINT)
        assert util.recv_all(sock) == b""
    assert received == len(data)
    assert finish(server)[0] == 0


def test_discard_answers_nothing(serve):
    server = serve("--handler", "discard")
    with util.connect(server.address) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == b""


@pytest.mark.parametrize("name", ["function", "coroutine", "batch", "obj"])
def test_a_handler_comes_from_the_current_directory(serve, tmp_path, name):
    write_module(tmp_path)
    server = serve("--handler", f"handlers:{name}")
    assert ask(server.address, b"hello") == b"olleh"


def test_a_handler_may_be_an_attribute_of_an_attribute(serve, tmp_path):
    write_module(
        tmp_path,
        "class Space:\n    @staticmethod\n    def handler(conn, data):\n"
        "        return data * 2\n",
    )
    server = serve("--handler", "handlers:Space.handler")
    assert ask(server.address, b"hi", 4) == b"hihi"


@pytest.mark.parametrize(
    "framing, sent, answer",
    [
        ("lines", b"ab\ncd\n", b"ba\ndc\n"),
        ("length4", b"\0\0\0\2ab\0\0\0\1c", b"\0\0\0\2ba\0\0\0\1c"),
        ("fixed:3", b"abcdef", b"cbafed"),
    ],
)
def test_serve_frames(serve, tmp_path, framing, sent, answer):
    write_module(tmp_path)
    server = serve("--handler", "handlers:function", "--framing", framing)
    assert ask(server.address, sent) == answer


@pytest.mark.parametrize("framing", ["raw", "lines", "length4", "fixed:3"])
@pytest.mark.parametrize("handler", ["upper", "echo"])
def test_the_handlers_that_come_along_keep_frames(serve, framing, handler):
    server = serve("--handler", handler, "--framing", framing)
    sent = {"lines": b"abc\n\nd\n", "length4": b"\0\0\0\0\0\0\0\1d"}.get(
        framing, b"abcdef"
    )
    answer = sent.upper() if handler == "upper" else sent
    assert ask(server.address, sent) == answer


def test_serve_on_a_unix_path_and_leave_nothing_behind(serve, tmp_path):
    path = tmp_path / "socket"
    server = serve(address=f"unix:{path}")
    assert server.text == f"unix:{path}"
    assert ask(path, b"hello") == b"HELLO"
    assert finish(server, signal.SIGINT)[0] == 0
    assert not path.exists()


def test_serve_on_a_unix_path_relative_to_the_directory(serve, tmp_path):
    serve(address="unix:socket")
    assert ask(tmp_path / "socket", b"hello") == b"HELLO"


@pytest.mark.skipif(not ON_LINUX, reason="abstract names are Linux's")
def test_serve_on_an_abstract_name(serve):
    name = f"pymux-test-{os.getpid()}"
    server = serve(address=f"unix:@{name}")
    assert server.text == f"unix:@{name}"
    assert ask("\0" + name, b"hello") == b"HELLO"


@needs_ipv6
def test_serve_on_ipv6(serve):
    server = serve(address="[::1]:0")
    assert server.text.startswith("[::1]:")
    assert ask(server.address, b"hello") == b"HELLO"


def test_stats_prints_a_line_of_figures_again_and_again(serve):
    server = serve("--stats", "0.05")
    with util.connect(server.address) as sock:
        sock.sendall(b"hello")
        util.recv_exactly(sock, 5)
        lines = [server.stdout.readline().decode() for _ in range(3)]
    for line in lines:
        assert re.fullmatch(
            r"\d+ messages/s, \d+ connections, \d+ bytes/s in, \d+ bytes/s out, "
            r"\d+ bytes queued\n",
            line,
        )


def test_max_connections_makes_the_next_peer_wait(serve):
    server = serve("--max-connections", "1")
    with util.connect(server.address) as first:
        first.sendall(b"first")
        assert util.recv_exactly(first, 5) == b"FIRST"
        with util.connect(server.address) as second:
            second.sendall(b"second")
            second.settimeout(0.2)
            with pytest.raises(socket.timeout):
                second.recv(1)
            first.close()
            second.settimeout(10)
            assert util.recv_exactly(second, 6) == b"SECOND"


def test_idle_timeout_ends_a_silent_connection(serve):
    server = serve("--idle-timeout", "0.05")
    with util.connect(server.address) as sock, contextlib.suppress(ConnectionError):
        assert util.recv_all(sock) == b""


@pytest.mark.parametrize("spin", ["0", "0.00005", "auto"])
def test_serve_can_spin(serve, spin):
    server = serve("--spin", spin)
    assert ask(server.address, b"hello") == b"HELLO"


def test_a_handler_that_exits_ends_serve_with_its_message(serve, tmp_path):
    write_module(tmp_path)
    server = serve("--handler", "handlers:loud")
    with util.connect(server.address) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"x")
        util.recv_all(sock)
    assert finish(server) == (1, "", "enough\n")


def test_serve_whose_output_nobody_reads(pymux_command):
    with broken_pipe() as pipe:
        process = pymux_command("serve", "127.0.0.1:0", stdout=pipe)
    assert one_line(process) == (1, "cannot write to standard output: Broken pipe")


def test_figures_that_nobody_reads_do_not_end_the_service(serve):
    server = serve("--stats", "0.02")
    server.stdout.close()
    assert b"no more figures" in server.stderr.readline()
    assert ask(server.address, b"hello") == b"HELLO"
