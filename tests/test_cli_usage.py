"""What users of the command line get wrong: one clear line, and an exit code."""

import errno
import socket

import pytest

import pymux

from . import inside
from .commands import ask, finish, one_line, write_module


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
