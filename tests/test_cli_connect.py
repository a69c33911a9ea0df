"""`pymux connect` with its input and output in pipes and files."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import pymux

from . import inside, util
from .commands import broken_pipe, connected, finish, one_line

MIB = 1 << 20


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


def test_connect_to_nobody(pymux_command, refusing):
    code, out, err = talk(pymux_command, refusing, b"hello")
    assert (code, out) == (1, b"")
    assert err == f"connection refused: 127.0.0.1:{refusing[1]}\n"


def test_connect_prints_while_its_input_is_open(pymux_command):
    with connected(pymux_command) as (process, peer):
        peer.sendall(b"welcome\n")
        assert process.stdout.readline() == b"welcome\n"
        process.stdin.write(b"thanks")
        process.stdin.flush()
        assert util.recv_exactly(peer, 6) == b"thanks"


def test_connect_goes_on_sending_once_its_output_has_left(listener):
    """No answer, no further input and no time ends the wait for that."""
    got = []

    def read():
        peer, _ = listener.accept()
        with peer:
            got.append(len(util.recv_all(peer)))

    reader = threading.Thread(target=read)
    reader.start()
    address = inside.format_address(listener.getsockname())
    with inside.standard_input([bytes(65536)] * 300):
        assert inside.command(["connect", address]) == 0
    reader.join()
    assert got == [65536 * 300]


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
