"""`pymux serve` on sockets that others made, and how it leaves its connections."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from . import util
from .commands import finish, write_module

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix")


@contextlib.contextmanager
def from_three_on(socks):
    """What has a child get sockets as its descriptors 3, 4, ...: (fn, close_fds)."""
    own = [os.dup(sock.fileno()) for sock in socks]

    def place():
        for k, number in enumerate(own):
            os.dup2(number, 100 + k)
        for k in range(len(own)):
            os.dup2(100 + k, 3 + k)
            os.close(100 + k)

    try:
        yield {"preexec_fn": place, "close_fds": False}
    finally:
        for number in own:
            os.close(number)


def starting(pymux_command, *args, socks):
    """Start `pymux` with sockets from descriptor 3 on."""
    with from_three_on(socks) as options:
        return pymux_command(*args, **options)


def activated(*args, socks, names):
    """The same as systemd does. The shell's number is the one that Python then has."""
    line = 'LISTEN_PID=$$ exec "$0" -m pymux "$@"'
    environment = {"LISTEN_FDS": str(len(socks)), "LISTEN_FDNAMES": names}
    with from_three_on(socks) as options:
        return subprocess.Popen(
            ["/bin/sh", "-c", line, sys.executable, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            **options,
        )


def ends(process):
    """(exit code, what it has said on standard error)."""
    code, out, err = finish(process)
    assert out == ""
    return code, err


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_serve_listens_on_an_inherited_descriptor(pymux_command, workers):
    with util.listening() as given:
        process = starting(pymux_command, "serve", "fd:3", *workers, socks=[given])
        line = process.stdout.readline().decode()
        port = given.getsockname()[1]
        assert re.match(rf"listening on 127\.0\.0\.1:{port} \(", line)
        assert util.exchange(given.getsockname(), b"one", 3) == b"ONE"
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0
        with util.connect(given.getsockname()), given.accept()[0]:
            pass  # it still listens


@pytest.mark.parametrize(
    ("address", "names", "expected"),
    [
        ("systemd", "web:admin", [0, 1]),
        ("systemd:admin", "web:admin", [1]),
    ],
)
def test_serve_listens_on_what_systemd_has_passed(address, names, expected):
    with util.listening() as one, util.listening() as two:
        socks = [one, two]
        process = activated("serve", address, socks=socks, names=names)
        with process:
            for k in expected:
                port = socks[k].getsockname()[1]
                line = process.stdout.readline().decode()
                assert line.startswith(f"listening on 127.0.0.1:{port} (")
            for k in expected:
                assert util.exchange(socks[k].getsockname(), b"one", 3) == b"ONE"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_a_name_that_did_not_come_is_one_line():
    with util.listening() as one:
        process = activated("serve", "systemd:mail", socks=[one], names="web")
        with process:
            code, err = ends(process)
    assert code == 1
    assert err == "no socket 'mail' has come from systemd; what came: 'web'\n"


def test_what_is_no_listening_socket_is_one_line(pymux_command):
    plain = socket.socket()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    with plain, datagrams, open(os.devnull) as no_socket:
        for sock, text in (
            (plain, "fd:3: not a listening stream socket\n"),
            (datagrams, "fd:3: not a listening stream socket\n"),
            (no_socket, "fd:3: socket operation on non-socket\n"),
        ):
            process = starting(pymux_command, "serve", "fd:3", socks=[sock])
            assert ends(process) == (1, text)
    process = pymux_command("serve", "fd:999")
    assert ends(process) == (1, "fd:999: bad file descriptor\n")
    process = pymux_command("serve", "systemd")
    assert ends(process) == (
        1,
        "no socket has come from systemd: LISTEN_FDS and LISTEN_PID name none\n",
    )


def test_reuse_port_beside_a_socket_alone_is_one_line(pymux_command):
    with util.listening() as given:
        process = starting(
            pymux_command, "serve", "fd:3", "--reuse-port", socks=[given]
        )
        code, err = ends(process)
    assert code == 1
    assert "reuse_port is True, which cannot apply here" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        (["serve", "fd:x"], "fd:3"),
        (["serve", "fd:-1"], "fd:3"),
        (["serve", "systemd:"], "systemd:web"),
        (["serve", "--linger", "-1"], "'-1'"),
        (["serve", "--linger", "soon"], "'soon'"),
        (["connect", "fd:3"], "only serve"),
        (["connect", "systemd"], "only serve"),
        (["bench", "systemd:web"], "only serve"),
    ],
)
def test_wrong_usage_is_told(pymux_command, args, fault):
    code, _, err = finish(pymux_command(*args))
    assert code == 2
    assert fault in err.splitlines()[-1]


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_two_servers_share_a_port(pymux_command):
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        for _ in range(2):
            process = pymux_command("serve", address, "--reuse-port")
            assert process.stdout.readline().decode().startswith("listening on ")


POLITE = """
class Polite:
    def opened(self, conn):
        conn.send(b"welcome ")

    def draining(self, conn):
        conn.send(b"goodbye")
        conn.close()

handler = Polite()
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, b"goodbye"), (signal.SIGINT, b"")]
)
def test_sigterm_lets_connections_linger_and_sigint_does_not(
    pymux_command, tmp_path, number, said
):
    write_module(tmp_path, POLITE, "polite")
    process = pymux_command(
        "serve", "127.0.0.1:0", "--handler", "polite:handler", "--linger", "600"
    )
    line = process.stdout.readline().decode()
    port = int(re.match(r"listening on 127\.0\.0\.1:(\d+) ", line)[1])
    with util.connect(("127.0.0.1", port)) as sock:
        assert util.recv_exactly(sock, 8) == b"welcome "
        process.send_signal(number)
        assert util.recv_all(sock) == said
    assert finish(process)[0] == 0
