"""Addresses on the command line: URLs, and several for `pymux serve`."""

import re
import signal
import socket
import subprocess

import pytest

from . import util

unix_only = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)


def finish(process, data=None):
    """(exit code, stdout, stderr) of a command, once it has ended."""
    out, err = process.communicate(data, timeout=30)
    return process.returncode, out, err.decode()


def listening(process, count):
    """The addresses that `pymux serve` says it listens on."""
    lines = [process.stdout.readline().decode() for _ in range(count)]
    found = [re.fullmatch(r"listening on (\S+) \(\w+\)\n", line) for line in lines]
    assert all(found), lines
    return [match[1] for match in found]


def answer(pymux_command, address, data):
    """What `pymux connect` prints of a server's answer."""
    process = pymux_command("connect", address, stdin=subprocess.PIPE)
    code, out, err = finish(process, data)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://:0"])
def test_serve_and_connect_take_a_url(pymux_command, url):
    process = pymux_command("serve", url)
    (address,) = listening(process, 1)
    host, _, port = address.rpartition(":")
    assert host == ("0.0.0.0" if url == "tcp://:0" else "127.0.0.1")
    assert answer(pymux_command, f"tcp://127.0.0.1:{port}", b"hello") == b"HELLO"


@unix_only
def test_serve_and_connect_take_the_url_of_a_path(pymux_command, tmp_path):
    path = tmp_path / "a b"
    url = f"unix://{tmp_path}/a%20b"
    process = pymux_command("serve", url)
    line = process.stdout.readline().decode()
    assert line.startswith(f"listening on unix:{path} (")
    assert answer(pymux_command, url, b"hello") == b"HELLO"


@unix_only
def test_serve_says_a_line_for_each_address(pymux_command, tmp_path):
    given = ["127.0.0.1:0", f"unix:{tmp_path}/socket", "tcp://127.0.0.1:0"]
    process = pymux_command("serve", *given)
    addresses = listening(process, 3)
    assert addresses[1] == given[1]
    for address in addresses:
        assert answer(pymux_command, address, b"hello") == b"HELLO"
    process.send_signal(signal.SIGINT)
    code, out, _ = finish(process)
    assert code == 0
    assert b"3 connections, " in out


def test_serve_names_the_address_that_it_cannot_have(pymux_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        process = pymux_command("serve", f"127.0.0.1:{util.free_port()}", url)
        assert finish(process) == (1, b"", f"address already in use: {url}\n")


def test_connect_names_the_url_that_nobody_answers_at(pymux_command):
    url = f"tcp://127.0.0.1:{util.free_port()}"
    assert finish(pymux_command("connect", url)) == (
        1,
        b"",
        f"connection refused: {url}\n",
    )


@pytest.mark.parametrize(
    ("command", "url", "fault"),
    [
        ("serve", "http://127.0.0.1:80", "unknown scheme 'http'"),
        ("serve", "tcp://127.0.0.1", "tcp://HOST:PORT is needed"),
        ("serve", "unix://socket", "unix:///PATH or unix://@NAME is needed"),
        ("serve", "udp://127.0.0.1:80", "does not serve udp:// yet"),
        ("connect", "wss://127.0.0.1/chat", "does not serve wss:// yet"),
        ("connect", "tcp://:80", "a host and a port are needed"),
        ("connect", "tcp://127.0.0.1:0", "a host and a port are needed"),
    ],
)
def test_a_url_that_cannot_be_is_wrong_usage(pymux_command, command, url, fault):
    code, out, err = finish(pymux_command(command, url))
    assert (code, out) == (2, b"")
    assert fault in err.splitlines()[-1]
    assert repr(url) in err.splitlines()[-1]


def test_connect_takes_one_address(pymux_command):
    code, _, err = finish(pymux_command("connect", "127.0.0.1:1", "127.0.0.1:2"))
    assert code == 2
    assert "unrecognized arguments" in err
