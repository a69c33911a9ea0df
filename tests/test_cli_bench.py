"""`pymux bench`: right answers are measured, and no wrong one passes."""

import argparse
import contextlib
import os
import re
import socket
import sys
import threading

import pytest

import pymux

from . import inside, util
from .commands import finish, one_line

SHORT = ("--duration", "0.05")
FRAMINGS = {
    "raw": pymux.Raw(),
    "lines": pymux.Lines(),
    "length4": pymux.LengthPrefix(),
    "fixed:10": pymux.Fixed(10),
}


def where(server):
    return inside.format_address(server.address)


def bench(pymux_command, server, *args):
    """(exit code, standard output, standard error) of a short bench."""
    return finish(pymux_command("bench", where(server), *SHORT, *args))


@pytest.mark.parametrize("answer", [bytes, bytes.upper], ids=["echo", "upper"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_server_that_answers_rightly_is_measured(pymux_command, framing, answer):
    with util.serving(
        lambda conn, data: answer(data), framing=FRAMINGS[framing]
    ) as server:
        args = ("--framing", framing, "--connections", "7", "--depth", "3")
        code, out, err = bench(pymux_command, server, *args)
        stats = server.stats()
    assert (code, err) == (0, "")
    size = 10 if framing == "fixed:10" else 64
    first, rate, latency, last = out.splitlines()
    assert first == (
        f"{where(server)}: 7 connections, 3 messages of {size} bytes in flight on each"
    )
    assert float(re.fullmatch(r"(\d+) messages/s for [\d.]+ s", rate)[1]) > 0
    one = r"[\d.]+ (us|ms|s)"
    assert re.fullmatch(
        f"latency p50 {one}, p99 {one}, p99.9 {one}, max {one}", latency
    )
    assert last == "every answer was right"
    assert stats.accepted == 8  # one asked first
    assert stats.reset == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_load_runs_on_each_backend(pymux_command, backend, tmp_path, kind):
    address = ("127.0.0.1", 0) if kind == "tcp" else str(tmp_path / "s")
    with util.serving(lambda conn, data: data, None, address) as server:
        text = where(server) if kind == "tcp" else f"unix:{server.address}"
        args = ("--backend", backend, "--answer", "echo", *SHORT)
        assert finish(pymux_command("bench", text, *args))[0] == 0


def test_much_in_flight_comes_back_whole(pymux_command):
    """More than both systems hold, so both sides have to read while they write."""
    with util.serving(lambda conn, data: data) as server:
        args = ("--size", "1000000", "--depth", "24", "--connections", "1")
        assert bench(pymux_command, server, *args)[0] == 0


# --- what is wrong ------------------------------------------------------------------


class Wrong:
    """An echo that goes wrong in some way, after some right answers."""

    def __init__(self, way):
        self.way = way
        self.last = b""
        self.count = 0

    def received(self, conn, data):
        self.count += 1
        before, self.last = self.last, data
        return data if self.count < 20 else self.way(conn, data, before)


def another_byte(conn, data, before):
    return data[:-1] + b"!"


def what_was_asked_before(conn, data, before):
    return before


def twice(conn, data, before):
    conn.send(data)
    return data


def cut_short(conn, data, before):
    return data[:-1]


def ended(conn, data, before):
    conn.close()


WRONG = "got a wrong answer"


@pytest.mark.parametrize(
    "framing, way, words",
    [
        ("raw", another_byte, WRONG),
        ("raw", what_was_asked_before, WRONG),
        ("raw", twice, WRONG),
        ("raw", ended, "the server has ended "),
        ("lines", another_byte, WRONG),
        ("lines", what_was_asked_before, WRONG),
        ("lines", twice, WRONG),
        ("lines", cut_short, WRONG),
        ("lines", ended, "the server has ended "),
    ],
)
def test_a_wrong_answer_exits_with_1(pymux_command, framing, way, words):
    with util.serving(Wrong(way), framing=FRAMINGS[framing]) as server:
        args = ("--framing", framing, "--connections", "2", *SHORT)
        code, line = one_line(pymux_command("bench", where(server), *args))
    assert code == 1
    assert words in line


def test_an_answer_that_does_not_come_exits_with_1(monkeypatch, capfd):
    def never(conn, data, before):
        return None

    with util.serving(Wrong(never)) as server, inside.bench_patience(0.3):
        args = ["bench", where(server), *SHORT, "--connections", "2"]
        assert inside.command(args) == 1
    assert "2 messages had no answer within 0.3 s" in capfd.readouterr().err


@pytest.mark.parametrize("args", [(), ("--answer", "echo")], ids=["asked", "told"])
def test_a_server_of_another_framing_is_no_long_wait(monkeypatch, capfd, args):
    monkeypatch.setattr(inside.bench, "AT_LEAST", 0.3)
    with util.serving(lambda conn, data: data, framing=pymux.Lines()) as server:
        assert inside.command(["bench", where(server), *SHORT, *args]) == 1
    err = capfd.readouterr().err
    assert "no answer within 0.3 s" in err
    assert "another framing, which --framing names" in err


@pytest.mark.parametrize(
    "duration, seconds", [("0.05", 2), ("1", 2), ("5", 5), ("60", 10)]
)
def test_an_answer_has_as_long_as_the_bench_within_bounds(duration, seconds):
    args = argparse.Namespace(duration=float(duration))
    assert inside.bench.patience(args) == seconds


def test_a_server_that_answers_something_else_is_named(pymux_command):
    with util.serving(lambda conn, data: b"hello\n") as server:
        code, line = one_line(pymux_command("bench", where(server), "--size", "6"))
    assert code == 1
    assert "neither the same bytes nor their upper case" in line
    assert where(server) in line


def test_a_server_that_ends_at_once_is_named(pymux_command):
    with util.serving(lambda conn, data: conn.close()) as server:
        code, line = one_line(pymux_command("bench", where(server)))
    assert code == 1
    assert where(server) in line


def test_nobody_there(pymux_command):
    port = util.free_port()
    for args in ((), ("--answer", "echo")):
        code, line = one_line(pymux_command("bench", f"127.0.0.1:{port}", *args))
        assert code == 1
        assert "onnection refused" in line
        assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    "args, words",
    [
        (["--framing", "fixed:5", "--size", "6"], "5 bytes"),
        (["--framing", "lines", "--size", "70000"], "65536"),
        (["--depth", "1000000", "--connections", "1000"], "16777216"),
        (["--depth", "1000", "--size", "1000000"], "--size times --depth"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_sent_is_one_line(pymux_command, args, words):
    code, line = one_line(pymux_command("bench", "127.0.0.1:1", *args))
    assert code == 1
    assert words in line


@pytest.mark.parametrize(
    "args", [["--size", "0"], ["--duration", "x"], ["--answer", "lower"], ["--depth"]]
)
def test_wrong_usage_exits_with_2(pymux_command, args):
    code, _, err = finish(pymux_command("bench", "127.0.0.1:1", *args))
    assert code == 2
    assert args[0] in err.splitlines()[-1]


# --- the bar ----------------------------------------------------------------------


@contextlib.contextmanager
def terminal():
    """(what a process may write to, what it has written when the block is over)."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    written = []

    def read():
        with contextlib.suppress(OSError):  # EIO: nobody has the other side
            while block := os.read(ours, 4096):
                written.append(block)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, written
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind")
def test_a_terminal_shows_a_bar_and_is_left_clean(capfd):
    with (
        util.serving(lambda conn, data: data) as server,
        terminal() as (tty, written),
        inside.standard_error(tty),
    ):
        args = ["bench", where(server), "--duration", "0.3", "--connections", "2"]
        assert inside.command(args) == 0
    text = b"".join(written).decode()
    assert re.search(r"\r\[[#.]{24}\] 0\.\d of 0\.3 s, \d+ messages/s", text)
    assert text.endswith("\r\x1b[K")
    assert "every answer was right" in capfd.readouterr().out


def test_what_is_no_terminal_gets_no_bar(pymux_command):
    with util.serving(lambda conn, data: data) as server:
        assert bench(pymux_command, server)[2] == ""


def test_a_listener_that_nobody_serves_is_no_wait_without_end(capfd):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        inside.bench_patience(0.3),
    ):
        address = inside.format_address(listener.getsockname())
        assert inside.command(["bench", address]) == 1
    assert "no answer within 0.3 s" in capfd.readouterr().err
