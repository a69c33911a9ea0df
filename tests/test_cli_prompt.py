"""`pymux connect` on a terminal: the prompt."""

import os
import platform
import re
import signal

import pytest

import pymux

from . import inside, util
from .commands import finish


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
