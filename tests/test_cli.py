"""The command line, run as its users run it: in a process of its own."""

import contextlib
import errno
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import pymux

from . import inside, util

MIB = 1 << 20
ON_LINUX = sys.platform == "linux"

HANDLERS = """
import pymux


def function(conn, data):
    return data[::-1]


async def coroutine(conn):
    async for data in conn:
        conn.send(data[::-1])


@pymux.batched
def batch(batch):
    batch.reply([data[::-1] for data in batch.messages])


class Reverse:
    def received(self, conn, data):
        return data[::-1]


obj = Reverse()
number = 5


def loud(conn, data):
    raise SystemExit("enough")
"""


def finish(process, signum=None):
    """Wait for the end, after a signal; (exit code, stdout, stderr)."""
    if signum is not None:
        process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    return process.returncode, (out or b"").decode(), err.decode()


def ask(address, data, answer_size=None):
    """What a server answers to some bytes."""
    with util.connect(address) as sock:
        sock.sendall(data)
        return util.recv_exactly(sock, answer_size or len(data))


def write_module(directory, text=HANDLERS, name="handlers"):
    (directory / f"{name}.py").write_text(text, encoding="utf-8")


# pymux serve


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


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
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


# What the user gets wrong


def one_line(process):
    """Exit code and the one line of a command that failed."""
    code, out, err = finish(process)
    assert "Traceback" not in err
    assert out == ""
    assert err.count("\n") == 1, err
    return code, err.rstrip("\n")


def test_a_port_in_use(pymux_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = pymux_command("serve", address)
        assert one_line(process) == (1, f"address already in use: {address}")


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["serve", "--loud"], "--loud"),
        (["serve", "8093"], "HOST:PORT"),
        (["serve", "localhost"], "HOST:PORT"),
        (["serve", "localhost:http"], "HOST:PORT"),
        (["serve", "localhost:65536"], "65536"),
        (["serve", "::1:8093"], "[::1]:8093"),
        (["serve", "unix:"], "unix:"),
        (["serve", "--backend", "iocp"], "epoll"),
        (["serve", "--framing", "json"], "length4"),
        (["serve", "--framing", "fixed:0"], "fixed:0"),
        (["serve", "--framing", "fixed:x"], "fixed:N"),
        (["serve", "--handler", "shout"], "MODULE:NAME"),
        (["serve", "--handler", "module:"], "MODULE:NAME"),
        (["serve", "--max-connections", "0"], "'0'"),
        (["serve", "--idle-timeout", "-1"], "'-1'"),
        (["serve", "--idle-timeout", "nan"], "'nan'"),
        (["serve", "--spin", "fast"], "'fast'"),
        (["serve", "--stats", "0"], "'0'"),
        (["connect"], "ADDRESS"),
        (["connect", ":8093"], "host"),
        (["connect", "127.0.0.1:0"], "port"),
        (["connect", "127.0.0.1:1", "--framing", "xml"], "length4"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(pymux_command, args, words):
    code, out, err = finish(pymux_command(*args))
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert words in err.splitlines()[-1]


def test_an_unknown_backend_in_the_environment_exits_with_2(pymux_command):
    process = pymux_command("serve", "127.0.0.1:0", env={"PYMUX_BACKEND": "iocp"})
    code, out, err = finish(process)
    assert (code, out) == (2, "")
    assert "PYMUX_BACKEND" in err
    assert "'iocp'" in err.splitlines()[-1]


def test_a_backend_that_this_machine_lacks(pymux_command):
    missing = {"epoll", "kqueue", "poll", "select"} - set(pymux.backends())
    if not missing:
        pytest.skip("this machine has every backend")
    process = pymux_command("serve", "127.0.0.1:0", "--backend", min(missing))
    code, line = one_line(process)
    assert code == 1
    assert min(missing) in line


@pytest.mark.parametrize(
    "handler, line",
    [
        ("nowhere:handler", "no module named 'nowhere'"),
        ("nowhere.inside:handler", "no module named 'nowhere.inside'"),
        ("handlers:missing", "module 'handlers' has no 'missing'"),
        ("handlers:obj.missing", "module 'handlers' has no 'obj.missing'"),
    ],
)
def test_a_handler_that_is_not_there(pymux_command, tmp_path, handler, line):
    write_module(tmp_path)
    process = pymux_command("serve", "127.0.0.1:0", "--handler", handler)
    assert one_line(process) == (1, line)


@pytest.mark.parametrize("name", ["Reverse", "number"])
def test_a_handler_of_the_wrong_shape(pymux_command, tmp_path, name):
    write_module(tmp_path)
    process = pymux_command("serve", "127.0.0.1:0", "--handler", f"handlers:{name}")
    code, line = one_line(process)
    assert code == 1
    assert line.startswith(f"bad handler handlers:{name}: ")


@pytest.mark.parametrize(
    "text, words",
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("\n1 / 0", "ZeroDivisionError: division by zero (broken.py, line 2)"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_module_that_cannot_be_imported(pymux_command, tmp_path, text, words):
    write_module(tmp_path, text, "broken")
    process = pymux_command("serve", "127.0.0.1:0", "--handler", "broken:handler")
    code, line = one_line(process)
    assert code == 1
    assert line.startswith("cannot import 'broken': ")
    assert words in line


def test_a_unix_path_that_is_too_long(pymux_command, tmp_path):
    path = tmp_path / ("x" * 200)
    code, line = one_line(pymux_command("serve", f"unix:{path}"))
    assert code == 1
    assert "x" * 200 in line
    assert not path.exists()


def test_a_unix_path_that_is_no_socket(pymux_command, tmp_path):
    path = tmp_path / "precious"
    path.write_text("keep me")
    code, line = one_line(pymux_command("serve", f"unix:{path}"))
    assert code == 1
    assert line.startswith(f"address already in use: unix:{path}")
    assert path.read_text() == "keep me"


def test_a_unix_path_that_is_in_use(pymux_command, serve, tmp_path):
    path = tmp_path / "socket"
    serve(address=f"unix:{path}")
    process = pymux_command("serve", f"unix:{path}")
    assert one_line(process) == (1, f"address already in use: unix:{path}")
    assert ask(path, b"hello") == b"HELLO"


def test_a_unix_path_in_a_directory_that_is_not_there(pymux_command, tmp_path):
    process = pymux_command("serve", f"unix:{tmp_path}/no/socket")
    code, line = one_line(process)
    assert (code, line) == (1, f"no such file or directory: unix:{tmp_path}/no/socket")


def test_an_address_that_is_not_ours(pymux_command):
    code, line = one_line(pymux_command("serve", "192.0.2.1:0"))
    assert code == 1
    assert line.endswith(": 192.0.2.1:0")


@pytest.mark.parametrize("command", ["serve", "connect"])
def test_a_host_that_does_not_resolve(pymux_command, command):
    code, line = one_line(pymux_command(command, "no-such-host.invalid:80"))
    assert code == 1
    assert "'no-such-host.invalid' does not resolve" in line


def test_a_privileged_port(pymux_command):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 81))
        except PermissionError:
            pass
        else:
            pytest.skip("every port is open to this user")
    code, line = one_line(pymux_command("serve", "127.0.0.1:81"))
    assert code == 1
    assert line == (
        "permission denied: 127.0.0.1:81 (ports below 1024 need a privilege)"
    )


def test_the_line_for_a_privileged_port():
    error = PermissionError(errno.EACCES, "Permission denied")
    assert inside.describe(error, inside.parse_address("127.0.0.1:80")) == (
        "permission denied: 127.0.0.1:80 (ports below 1024 need a privilege)"
    )


@contextlib.contextmanager
def broken_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def test_serve_whose_output_nobody_reads(pymux_command):
    with broken_pipe() as pipe:
        process = pymux_command("serve", "127.0.0.1:0", stdout=pipe)
    assert one_line(process) == (1, "cannot write to standard output: Broken pipe")


def test_figures_that_nobody_reads_do_not_end_the_service(serve):
    server = serve("--stats", "0.02")
    server.stdout.close()
    assert b"no more figures" in server.stderr.readline()
    assert ask(server.address, b"hello") == b"HELLO"


# pymux connect


def talk(pymux_command, address, data, *args):
    """Run `pymux connect` with some input: (exit code, stdout, stderr)."""
    text = inside.format_address(address)
    process = pymux_command("connect", text, *args, stdin=subprocess.PIPE)
    out, err = process.communicate(data, timeout=50)
    return process.returncode, out, err.decode()


def test_connect_prints_what_comes_back(pymux_command, backend):
    with util.serving(lambda conn, data: data.upper(), backend) as server:
        answer = talk(pymux_command, server.address, b"hello\n")
    assert answer == (0, b"HELLO\n", "")


def test_connect_to_a_unix_path(pymux_command, tmp_path):
    path = str(tmp_path / "socket")
    with util.serving(lambda conn, data: data.upper(), address=path) as server:
        assert talk(pymux_command, server.address, b"hi") == (0, b"HI", "")


@pytest.mark.parametrize("framing", ["raw", "lines", "length4"])
def test_connect_sends_empty_input(pymux_command, framing):
    parsed = inside.parse_framing(framing)
    with util.serving(lambda conn, data: data, framing=parsed) as server:
        answer = talk(pymux_command, server.address, b"", "--framing", framing)
    assert answer == (0, b"", "")


def test_connect_sends_all_of_a_large_input_and_prints_all(pymux_command, backend):
    data = os.urandom(1 * MIB) * 16
    with util.serving(lambda conn, data: data, backend) as server:
        code, out, err = talk(pymux_command, server.address, data)
    assert (code, err) == (0, "")
    assert out == data


@pytest.mark.parametrize(
    "framing, payloads, answer",
    [
        ("lines", b"ab\n\ncde", b"ba\n\nedc\n"),
        ("length4", b"ab\n\ncde", b"ba\n\nedc\n"),
        ("fixed:2", b"ab\ncd\n", b"ba\ndc\n"),
    ],
)
def test_connect_takes_payloads_as_lines(pymux_command, framing, payloads, answer):
    parsed = inside.parse_framing(framing)
    with util.serving(lambda conn, data: data[::-1], framing=parsed) as server:
        found = talk(pymux_command, server.address, payloads, "--framing", framing)
    assert found == (0, answer, "")


def test_connect_sends_many_payloads(pymux_command):
    data = b"".join(b"%d\n" % k for k in range(100_000))
    with util.serving(lambda conn, data: data, framing=pymux.LengthPrefix()) as server:
        found = talk(pymux_command, server.address, data, "--framing", "length4")
    assert found == (0, data, "")


@pytest.mark.parametrize(
    "framing, data",
    [("fixed:2", b"abc\n"), ("fixed:2", b"a\n"), ("lines", b"x" * 100_000)],
    ids=["longer", "shorter", "endless"],
)
def test_connect_refuses_a_payload_that_does_not_fit(pymux_command, framing, data):
    parsed = inside.parse_framing(framing)
    with util.serving(lambda conn, data: data, framing=parsed) as server:
        code, out, err = talk(pymux_command, server.address, data, "--framing", framing)
    assert (code, out) == (1, b"")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_connect_to_nobody(pymux_command):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    code, out, err = talk(pymux_command, address, b"hello")
    assert (code, out) == (1, b"")
    assert err == f"connection refused: 127.0.0.1:{address[1]}\n"


@contextlib.contextmanager
def connected(pymux_command, **options):
    """(process of `pymux connect`, plain socket at the other end)."""
    options.setdefault("stdin", subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = inside.format_address(listener.getsockname())
        process = pymux_command("connect", address, **options)
        listener.settimeout(30)
        peer, _ = listener.accept()
        peer.settimeout(30)
        with peer:
            yield process, peer


def test_connect_prints_while_its_input_is_open(pymux_command):
    with connected(pymux_command) as (process, peer):
        peer.sendall(b"welcome\n")
        assert process.stdout.readline() == b"welcome\n"
        process.stdin.write(b"thanks")
        process.stdin.flush()
        assert util.recv_exactly(peer, 6) == b"thanks"


def test_connect_half_closes_and_prints_until_the_peer_ends(pymux_command):
    with connected(pymux_command) as (process, peer):
        process.stdin.close()
        assert util.recv_all(peer) == b""
        peer.sendall(b"late answer")
        peer.shutdown(socket.SHUT_WR)
        assert process.stdout.read() == b"late answer"
        assert process.wait(30) == 0


def test_connect_goes_on_sending_to_a_peer_that_ended_its_stream(pymux_command):
    with connected(pymux_command) as (process, peer):
        peer.sendall(b"go on\n")
        peer.shutdown(socket.SHUT_WR)
        assert process.stdout.readline() == b"go on\n"
        process.stdin.write(b"all of it")
        process.stdin.close()
        assert util.recv_all(peer) == b"all of it"
        assert process.wait(30) == 0


def test_connect_tells_of_a_reset(pymux_command):
    with connected(pymux_command) as (process, peer):
        port = peer.getsockname()[1]
        util.reset(peer)
        code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert err == f"connection reset by peer: 127.0.0.1:{port}\n"


def test_ctrl_c_ends_connect_without_a_traceback(pymux_command):
    with connected(pymux_command) as (process, peer):
        peer.sendall(b"x")
        assert process.stdout.read(1) == b"x"  # past the imports
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1
        assert process.stderr.read() == b"interrupted\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="needs /proc")
def test_connect_reads_no_more_input_than_it_can_send(pymux_command, tmp_path):
    size = 64 * MIB
    with open(tmp_path / "large", "wb") as file:
        file.truncate(size)
    with (
        open(tmp_path / "large", "rb") as file,
        connected(pymux_command, stdin=file) as (process, peer),
    ):
        position = settled(lambda: input_position(process))
        assert 0 < position < 24 * MIB  # mostly in the kernel's buffers
        assert sum(map(len, pieces(peer))) == size
        peer.shutdown(socket.SHUT_WR)
        assert finish(process) == (0, "", "")


def input_position(process):
    text = pathlib.Path(f"/proc/{process.pid}/fdinfo/0").read_text()
    return int(re.search(r"pos:\s*(\d+)", text)[1])


def settled(function, period=0.3):
    """What function() returns once that is not 0 and has not changed for a while."""
    deadline = time.monotonic() + 30
    value, since = function(), time.monotonic()
    while not value or time.monotonic() - since < period:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        now = function()
        if now != value:
            value, since = now, time.monotonic()
    return value


def pieces(sock):
    return iter(lambda: sock.recv(MIB), b"")


def test_connect_whose_output_nobody_reads(pymux_command):
    with broken_pipe() as pipe, util.serving(lambda conn, data: data) as server:
        process = pymux_command(
            "connect",
            inside.format_address(server.address),
            stdin=subprocess.PIPE,
            stdout=pipe,
        )
        process.stdin.write(b"hello")
        process.stdin.close()
        code = process.wait(30)
    assert code == 1
    assert process.stderr.read() == b"cannot write to standard output: Broken pipe\n"


def test_connect_whose_input_cannot_be_read(pymux_command, tmp_path):
    with util.serving(lambda conn, data: data) as server:
        with open(tmp_path / "output", "wb") as file:
            process = pymux_command(
                "connect", inside.format_address(server.address), stdin=file
            )
        assert one_line(process) == (
            1,
            "cannot read standard input: Bad file descriptor",
        )


def test_connect_whose_input_is_closed(pymux_command):
    process = pymux_command("connect", "127.0.0.1:1", preexec_fn=lambda: os.close(0))
    assert one_line(process) == (1, "cannot read standard input: it is closed")


# pymux connect on a terminal


class Terminal:
    """The other side of a pseudo-terminal."""

    def __init__(self):
        pty = pytest.importorskip("pty")
        self.master, self.slave = pty.openpty()
        self.seen = ""

    def type(self, text):
        os.write(self.master, text.encode())

    # PyPy edits lines by itself and draws much for it; what it draws is not ours.
    DRAWN = re.compile(r"\x1b\[1A\n|\x1b\[[0-9;?]*[A-JL-Za-z@]|\x1b[=>]")

    def shown(self):
        """What was printed since `wait_for` has matched."""
        if platform.python_implementation() == "PyPy":
            return self.DRAWN.sub("", self.seen)
        return self.seen

    def wait_for(self, pattern):
        """Read until what was printed since the last call matches."""
        while not re.search(pattern, self.shown()):
            try:
                self.seen += os.read(self.master, 4096).decode()
            except OSError as error:  # Linux's way to say that it is over
                raise AssertionError(self.seen) from error
        shown, self.seen = self.shown(), ""
        return shown

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def typing(terminal, pymux_command):
    """Starts `pymux connect` on the terminal."""

    def start(address, *args):
        process = pymux_command(
            "connect",
            inside.format_address(address),
            *args,
            stdin=terminal.slave,
            stdout=terminal.slave,
            env={"TERM": "xterm"},
        )
        terminal.wait_for(">>: $")
        return process

    return start


@pytest.fixture
def upper_server(backend):
    with util.serving(lambda conn, data: data.upper(), backend) as server:
        yield server


def test_the_prompt_sends_lines_and_prints_answers(terminal, typing, upper_server):
    process = typing(upper_server.address)
    terminal.type("hello\n")
    assert "HELLO\r\n" in terminal.wait_for("HELLO\r\n.*>>: $")
    terminal.type("again\n")
    assert "AGAIN\r\n" in terminal.wait_for("AGAIN\r\n.*>>: $")
    terminal.type("\x04")
    assert process.wait(30) == 0
    assert process.stderr.read() == b""


def test_the_prompt_skips_empty_lines(terminal, typing):
    got = []

    def handler(conn, data):
        got.append(data)
        return data.upper()

    with util.serving(handler) as server:
        typing(server.address)
        terminal.type("\n")
        terminal.wait_for(">>: $")
        terminal.type("something\n")
        terminal.wait_for("SOMETHING")
    assert got == [b"something\n"]


def test_the_prompt_edits_lines(terminal, typing, upper_server):
    pytest.importorskip("readline")
    typing(upper_server.address)
    terminal.type("ello\x01h\n")  # Ctrl-A goes to the beginning
    terminal.wait_for("HELLO")


def test_the_prompt_sends_payloads_under_a_framing(terminal, typing):
    with util.serving(
        lambda conn, data: data[::-1], framing=pymux.LengthPrefix()
    ) as server:
        typing(server.address, "--framing", "length4")
        terminal.type("stressed\n")
        terminal.wait_for("desserts\r\n.*>>: $")


def test_an_answer_that_comes_late_is_printed_above_the_prompt(terminal, typing):
    conns = []
    with util.serving(lambda conn, data: conns.append(conn)) as server:
        typing(server.address)
        terminal.type("x\n")
        terminal.wait_for(">>: $")
        server.call_threadsafe(lambda mux: mux.send_many(conns, b"news\n"))
        terminal.wait_for("news\r\n>>: $")


def test_ctrl_c_leaves_the_prompt(terminal, typing, upper_server):
    process = typing(upper_server.address)
    process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "", "")


def test_the_prompt_ends_when_the_server_does(terminal, typing):
    with util.serving(lambda conn, data: conn.close()) as server:
        process = typing(server.address)
        terminal.type("bye\n")
        terminal.wait_for("connection closed by the server")
        assert process.wait(30) == 0


def test_the_terminal_is_left_as_it_was(terminal, typing, upper_server):
    termios = pytest.importorskip("termios")
    before = termios.tcgetattr(terminal.slave)
    process = typing(upper_server.address)
    process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "", "")
    assert termios.tcgetattr(terminal.slave) == before


# pymux info


def test_info_tells_what_a_report_should_say(pymux_command):
    code, out, err = finish(pymux_command("info"))
    assert (code, err) == (0, "")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())
    assert re.match(r"\d+\.\d+", rows["pymux"])
    assert rows["python"].endswith(platform.python_version())
    assert rows["kernel"].startswith(platform.system())
    assert re.match(r"\d+|unlimited", rows["descriptors"])
    assert rows["compiler"]
    for name in ("epoll", "kqueue", "poll", "select"):
        works = rows[f"backend {name}"] == "works"
        assert works == (name in pymux.backends())
        assert works or rows[f"backend {name}"].startswith("missing: ")


def test_the_version_is_printed(pymux_command):
    code, out, _ = finish(pymux_command("--version"))
    assert code == 0
    assert re.fullmatch(r"pymux \d+\.\d+\.\d+\S*\n", out)


def test_the_command_is_installed_under_its_name():
    from importlib.metadata import distribution

    (entry,) = [
        point
        for point in distribution("pymux-io").entry_points
        if point.group == "console_scripts"
    ]
    assert (entry.name, entry.load()) == ("pymux", inside.command)


@pytest.mark.parametrize(
    "text, value",
    [
        ("127.0.0.1:8093", ("127.0.0.1", 8093)),
        ("[::1]:8093", ("::1", 8093)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        (":80", ("", 80)),
        ("localhost:0", ("localhost", 0)),
        ("unix:/tmp/x", "/tmp/x"),
        ("unix:a:b", "./a:b"),
    ],
)
def test_addresses_are_read(text, value):
    assert inside.parse_address(text).value == value
