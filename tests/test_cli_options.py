"""`pymux serve`: its limits, its log, its descriptors, and words for the shell."""

import dataclasses
import os
import signal
import sys

import pytest

import pymux

from . import inside, util
from .commands import ask, finish, write_module

try:
    import resource
except ImportError:
    resource = None

# A value on the command line for each limit, and what it stands for.
VALUES = {
    "max_connections": ("7", 7),
    "max_per_peer": ("3", 3),
    "high_water": ("70000", 70000),
    "low_water": ("8192", 8192),
    "max_output": ("1048576", 1048576),
    "idle_timeout": ("2.5", 2.5),
    "message_timeout": ("10", 10),
    "close_timeout": ("none", None),
    "keepalive": ("60,10,5", (60, 10, 5)),
    "send_buffer": ("65536", 65536),
    "notsent_lowat": ("16384", 16384),
    "handshake_timeout": ("2.5", 2.5),
    "max_handshakes": ("none", None),
}

SHOW = """
import pymux


def handler(conn, data):
    conn.abort() if data == b"end" else None
    return data


def raises(conn, data):
    raise LookupError("of the handler")
"""


# --- limits -----------------------------------------------------------------------


def test_every_limit_can_be_given():
    assert [field.name for field in dataclasses.fields(pymux.Limits)] == list(VALUES)
    given = [inside.parse_limit(f"{name}={VALUES[name][0]}") for name in VALUES]
    wanted = {name: value for name, (_, value) in VALUES.items()}
    assert inside.limits_from(given) == pymux.Limits(**wanted)


def test_a_limit_is_obeyed(serve):
    server = serve("--limit", "idle_timeout=0.05", "--handler", "echo")
    with util.connect(server.address) as sock:
        assert util.until_end(sock)[0] == b""


def test_limits_go_together_in_any_order(serve):
    """One alone would be over the default of the other."""
    args = ("--limit", "low_water=100000", "--limit", "high_water=200000")
    server = serve(*args, "--max-connections", "9")
    assert ask(server.address, b"hello") == b"HELLO"


@pytest.mark.parametrize(
    "args, words",
    [
        (["speed=1"], ["'speed=1'", "max_output=BYTES", "idle_timeout=SECONDS|none"]),
        (["max_output"], ["max_output", "a number of bytes", "max_output=16777216"]),
        (["max_output=1k"], ["'1k'", "a number of bytes"]),
        (["high_water=none"], ["'none'", "a number of bytes"]),
        (["idle_timeout=-1"], ["'-1'", "seconds or none"]),
        (["keepalive=60"], ["'60'", "seconds", "keepalive=60,10,5"]),
        (["keepalive=0,1,1"], ["keepalive's idle", "1 to 32767"]),
        (["send_buffer=x"], ["'x'", "bytes or none", "send_buffer=65536"]),
        (["max_connections=0"], ["max_connections is 0", "from 1"]),
        (["low_water=70000"], ["low_water is 70000", "high_water, 65536"]),
        (["max_output=5", "max_output=6"], ["max_output is given twice"]),
    ],
    ids=" ".join,
)
def test_a_wrong_limit_exits_with_2_and_says_what_is_right(pymux_command, args, words):
    limits = [part for arg in args for part in ("--limit", arg)]
    code, out, err = finish(pymux_command("serve", "127.0.0.1:0", *limits))
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert [word for word in words if word not in last] == []


def test_an_option_and_a_limit_of_the_same_name_are_one_too_many(pymux_command):
    args = ("--idle-timeout", "5", "--limit", "idle_timeout=6")
    code, _, err = finish(pymux_command("serve", "127.0.0.1:0", *args))
    assert code == 2
    assert "idle_timeout is given twice" in err.splitlines()[-1]


# --- the log ----------------------------------------------------------------------


def test_a_level_of_the_log_writes_to_standard_error(serve):
    server = serve("--log-level", "INFO")
    assert ask(server.address, b"hello") == b"HELLO"
    code, out, err = finish(server, signal.SIGINT)
    assert code == 0
    assert "1 connections" in out
    lines = err.splitlines()
    assert [line.split()[2] for line in lines] == ["INFO"] * 4
    assert f"listening on {server.text}" in lines[0]


def test_without_a_level_only_warnings_are_written(serve, tmp_path):
    write_module(tmp_path, SHOW)
    server = serve("--handler", "handlers:raises")
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        util.until_end(sock)
    code, _, err = finish(server, signal.SIGINT)
    assert code == 0
    assert "the handler handlers.raises of " in err
    assert "LookupError: of the handler" in err
    assert "listening" not in err


def test_a_module_that_has_set_the_log_up_keeps_its_way(serve, tmp_path):
    text = "import logging\nlogging.basicConfig(format='mine: %(event)s')\n" + SHOW
    write_module(tmp_path, text)
    server = serve("--handler", "handlers:handler", "--log-level", "info")
    assert finish(server, signal.SIGINT)[2].splitlines() == [
        "mine: listening",
        "mine: figures",
        "mine: stopping",
        "mine: stopped",
    ]


def test_a_slow_handler_is_told_of(serve, tmp_path):
    text = (
        "import time\ndef handler(conn, data):\n    time.sleep(0.1)\n    return data\n"
    )
    write_module(tmp_path, text)
    server = serve("--handler", "handlers:handler", "--slow-handler", "0.01")
    assert ask(server.address, b"x") == b"x"
    err = finish(server, signal.SIGINT)[2]
    assert "handlers.handler took " in err


@pytest.mark.parametrize(
    "args, words",
    [
        (["--log-level", "loud"], ["'loud'", "debug, info, warning"]),
        (["--slow-handler", "0"], ["'0'", "seconds"]),
        (["--proxy", "10.0.0.1/8"], ["'10.0.0.1/8'", "'10.0.0.0/8'"]),
        (["--proxy", "10.0.0.0/8,balancer"], ["'balancer'", "a network like"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option_exits_with_2(pymux_command, args, words):
    code, _, err = finish(pymux_command("serve", *args))
    assert code == 2
    assert [word for word in words if word not in err.splitlines()[-1]] == []


# --- descriptors ------------------------------------------------------------------

limited = pytest.mark.skipif(resource is None, reason="no limit of descriptors here")

LIMITS = """
import resource


def handler(conn, data):
    return b"%d %d" % resource.getrlimit(resource.RLIMIT_NOFILE)
"""


@limited
def test_serve_raises_the_limit_of_descriptors_and_says_so(serve, tmp_path):
    write_module(tmp_path, LIMITS)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = serve("--handler", "handlers:handler", descriptors=200)
    wanted = b"%d %d" % (hard, hard)
    assert ask(server.address, b"?", len(wanted)) == wanted
    code, _, err = finish(server, signal.SIGINT)
    assert code == 0
    assert err == f"descriptor limit: raised from 200 to {hard}\n"


@limited
def test_a_limit_that_is_raised_already_is_no_line(serve):
    assert finish(serve(), signal.SIGINT)[2] == ""


@limited
def test_a_limit_that_the_system_does_not_raise_stays(monkeypatch):
    hard = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, hard))

    def refuse(what, limits):
        raise ValueError("not allowed to raise the limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert inside.raise_limit() == "descriptor limit: 256, which could not be raised"


# --- the shell --------------------------------------------------------------------


def offered(pymux_command, tmp_path, line):
    """What the shell is offered behind a line that is typed."""
    output = tmp_path / "offered"
    process = pymux_command(
        env={
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "PYTHONWARNINGS": "default",
        }
    )
    assert finish(process)[0] == 0
    return {word.strip() for word in output.read_text().split("\n")}


@pytest.mark.parametrize(
    "line, words",
    [
        ("pymux s", {"serve", "stats"}),
        ("pymux serve --lo", {"--log-level"}),
        ("pymux serve --log-level w", {"warning"}),
        ("pymux serve --handler ", {"upper", "echo", "discard"}),
        ("pymux serve --limit idle", {"idle_timeout="}),
        ("pymux connect --framing l", {"lines", "length4"}),
    ],
)
def test_the_shell_completes(pymux_command, tmp_path, line, words):
    pytest.importorskip("argcomplete")
    assert offered(pymux_command, tmp_path, line) == words


def test_without_the_package_the_shell_completes_nothing(pymux_command, tmp_path):
    (tmp_path / "argcomplete.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    env = {"_ARGCOMPLETE": "1", "PYTHONPATH": path}
    code, _, err = finish(pymux_command(env=env))
    assert code == 2
    assert "COMMAND" in err


def test_proxy_names_the_balancers(serve):
    server = serve("--proxy", "192.0.2.0/24,127.0.0.1")
    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n"
    assert ask(server.address, header + b"hello", 5) == b"HELLO"
    with util.connect(server.address) as sock, pytest.raises(ConnectionResetError):
        sock.sendall(b"hello, who listens?")
        util.recv_exactly(sock, 1)
    finish(server, signal.SIGINT)
