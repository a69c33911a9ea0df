"""What the command line says when it cannot do what the user wants: one line, as
typed, with the documented exit code, whatever became of the streams."""

import contextlib
import importlib.metadata
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from . import inside, util
from .commands import connected, finish, one_line, write_module
from .processes import in_child, python

NINES = "9" * 5000  # int() of so many digits is an error of its own
# A locale that is not UTF-8: arguments reach Python as bytes that it cannot decode.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

unix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix")


# -- wrong usage ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["serve", "--max-connections", "9" * 20],
        ["serve", "--max-connections", str(2**31)],
        ["serve", "--max-connections", NINES],
        ["serve", "--max-connections", "\u0665"],  # a digit, but not of ours
        ["serve", "--max-connections", "1.5"],
        ["serve", "--max-connections", ""],
        ["serve", "--idle-timeout", "inf"],
        ["serve", "--idle-timeout", NINES],
        ["serve", "--idle-timeout", "0"],
        ["serve", "--stats", "1e999"],
        ["serve", "--stats", "nan"],
        ["serve", "--spin", "-0.1"],
        ["serve", "--spin", "inf"],
        ["serve", "--framing", f"fixed:{2**31}"],
        ["serve", "--framing", "fixed:" + NINES],
        ["serve", "--framing", "fixed:"],
        ["serve", f"127.0.0.1:{2**64}"],
        ["serve", "127.0.0.1:" + NINES],
        ["serve", "127.0.0.1:-1"],
        ["connect", "127.0.0.1:" + NINES],
        ["connect", "127.0.0.1:00"],
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_a_number_that_cannot_be_exits_with_2(pymux_command, args):
    code, out, err = finish(pymux_command(*args))
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert args[-1].rpartition(":")[2][:20] in last
    assert "parse_" not in last  # said in words, and not by the name of a function


@pytest.mark.parametrize(
    "args",
    [
        ["--max-connections", str(2**31 - 1)],
        ["--idle-timeout", "1e300"],
        ["--idle-timeout", "1e-300"],
        ["--spin", "0.0"],
        ["--spin", "1e-9"],
        ["--stats", "1e300"],
        ["--framing", f"fixed:{2**31 - 1}"],
    ],
    ids=" ".join,
)
def test_a_number_at_its_bound_is_taken(serve, args):
    assert finish(serve(*args), signal.SIGINT)[0] == 0


def test_figures_at_a_tiny_interval_are_numbers(serve):
    server = serve("--stats", "1e-320")
    lines = [server.stdout.readline() for _ in range(20)]
    assert all(b" messages/s, " in line for line in lines)
    assert not any(b"nan" in line or b"inf" in line for line in lines)
    server.stdout.close()  # before the pipe is full
    assert finish(server, signal.SIGINT)[0] in (0, 1)


# -- text as it was typed ------------------------------------------------------------


@unix_only
@pytest.mark.parametrize("env", [PLAIN, {"LC_ALL": "C.UTF-8"}], ids=["C", "UTF-8"])
@pytest.mark.parametrize("name", ["\u00f6".encode(), b"\xff\xfe"], ids=["UTF-8", "not"])
def test_a_path_is_shown_as_typed_on_both_streams(pymux_command, tmp_path, env, name):
    path = os.fsencode(tmp_path) + b"/" + name
    server = pymux_command("serve", b"unix:" + path, env=env)
    assert server.stdout.readline().startswith(b"listening on unix:" + path + b" (")
    second = pymux_command("serve", b"unix:" + path, env=env)
    out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (1, b"")
    assert err == b"address already in use: unix:" + path + b"\n"
    client = pymux_command("connect", b"unix:" + path + b"x", env=env)
    out, err = client.communicate(timeout=30)
    assert (client.returncode, out) == (1, b"")
    assert err == b"no such file or directory: unix:" + path + b"x\n"


@unix_only
@pytest.mark.parametrize(
    "args, code",
    [
        (["serve", "--framing", "\u00f6"], 2),
        (["serve", "--handler", "\u00f6"], 2),
        (["serve", "--handler", "\u00f6:\u00f6"], 1),
        (["serve", "--backend", "\u00f6"], 2),
        (["serve", "--max-connections", "\u00f6"], 2),
        (["serve", "--idle-timeout", "\u00f6"], 2),
        (["serve", "\u00f6"], 2),
        (["serve", "unix:" + 120 * "\u00f6"], 1),
        (["connect", "\u00f6.invalid:80"], 1),
    ],
    ids=lambda value: value[-1][:12] if isinstance(value, list) else None,
)
def test_an_argument_is_shown_as_typed(pymux_command, args, code):
    process = pymux_command(*[arg.encode() for arg in args], env=PLAIN)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, b"")
    assert "\u00f6".encode() in err.splitlines()[-1]
    assert rb"\udc" not in err
    assert b"Traceback" not in err


@unix_only
def test_a_path_with_a_line_end_is_one_line(pymux_command, tmp_path):
    path = tmp_path / "two\nlines\x1b[2J"
    code, line = one_line(pymux_command("serve", f"unix:{path}/socket"))
    assert code == 1
    assert line.endswith(r"two\x0alines\x1b[2J/socket")
    server = pymux_command("serve", f"unix:{path}")
    line = server.stdout.readline().decode()
    assert r"two\x0alines\x1b[2J (" in line
    with util.connect(path) as sock:
        sock.sendall(b"hello")
        assert util.recv_exactly(sock, 5) == b"HELLO"


# -- what can be wrong with a handler's module ----------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("class Panic(BaseException): pass\nraise Panic('no')", "Panic: no"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def __getattr__(name): raise RuntimeError('lazy')", "RuntimeError: lazy"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_whatever_a_module_raises_is_one_line(pymux_command, tmp_path, text, words):
    write_module(tmp_path, text, "broken")
    process = pymux_command("serve", "127.0.0.1:0", "--handler", "broken:handler")
    code, line = one_line(process)
    assert code == 1
    assert line.startswith("cannot import 'broken': ")
    assert words in line


@pytest.mark.parametrize("module", ["..", ".handlers", "a..b", "__main__", "os.path.x"])
def test_a_name_of_a_module_that_cannot_be_is_one_line(pymux_command, module):
    process = pymux_command("serve", "127.0.0.1:0", "--handler", f"{module}:nothing")
    assert one_line(process)[0] == 1


@unix_only
def test_a_working_directory_that_is_gone_is_one_line(pymux_command, tmp_path):
    gone = str(tmp_path / "gone")
    code = (
        # before: CPython 3.13.0 imports no package from a directory that is gone
        "import os, sys; from tests import inside;"
        f" os.mkdir({gone!r}); os.chdir({gone!r}); os.rmdir({gone!r});"
        " sys.exit(inside.command(sys.argv[1:]))"
    )

    def start(*args):
        with python("-c", code, *args) as child:
            out, err = child.communicate(timeout=30)
            return child.returncode, out, err

    assert start("serve", "127.0.0.1:0", "--handler", "nowhere:handler") == (
        1,
        "",
        "no module named 'nowhere'\n",
    )
    assert start("serve", "unix:socket") == (
        1,
        "",
        "no such file or directory: unix:socket\n",
    )


# -- files that are something else ----------------------------------------------------


@unix_only
def test_a_directory_as_a_path_is_one_line(pymux_command, tmp_path):
    process = pymux_command("serve", f"unix:{tmp_path}")
    code, line = one_line(process)
    assert (code, line) == (
        1,
        f"address already in use: unix:{tmp_path} (something that is no socket)",
    )
    assert one_line(pymux_command("connect", f"unix:{tmp_path}")) == (
        1,
        f"connection refused: unix:{tmp_path}",
    )
    (tmp_path / "file").touch()
    process = pymux_command("serve", f"unix:{tmp_path}/file/socket")
    assert one_line(process) == (1, f"not a directory: unix:{tmp_path}/file/socket")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another"
)
@pytest.mark.parametrize("stale", [True, False])
def test_a_directory_that_may_not_be_written_is_one_line(tmp_path, stale):
    said = tmp_path / "stderr"
    with tempfile.TemporaryDirectory(prefix="pymux-") as directory:
        path = f"{directory}/socket"
        os.chmod(directory, 0o755)
        if stale:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(path)
            os.chmod(path, 0o777)

        def start():
            with open(said, "w") as sys.stderr:
                importlib.metadata.version("pymux-io")  # while imports may be read
                os.setuid(65534)
                assert inside.command(["serve", f"unix:{path}"]) == 1

        in_child(start)
        assert said.read_text() == f"permission denied: unix:{path}\n"


# -- streams that nobody reads ---------------------------------------------------------

COMMANDS = [["--help"], ["serve", "--help"], ["--version"], ["info"]]


@unix_only
@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_one_line(pymux_command, args):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        process = pymux_command(*args, stdout=full)
    assert one_line(process) == (
        1,
        "cannot write to standard output: No space left on device",
    )


@unix_only
@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_output_that_is_closed_is_no_error(pymux_command, args):
    process = pymux_command(*args, preexec_fn=lambda: os.close(1))
    assert finish(process) == (0, "", "")


@unix_only
@pytest.mark.parametrize("how", ["closed", "full"])
@pytest.mark.parametrize(
    "args, code",
    [
        (["serve", "--nope"], 2),
        (["serve", "--max-connections", "0"], 2),
        (["connect", ":80"], 2),
        (["serve", "--handler", "nowhere:handler"], 1),
        (["connect", "unix:/nowhere/at/all"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_that_nobody_reads_go_nowhere_else(pymux_command, args, code, how):
    if how == "closed":
        process = pymux_command(*args, preexec_fn=lambda: os.close(2))
    elif not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    else:

        def fill():
            os.dup2(os.open("/dev/full", os.O_WRONLY), 2)

        process = pymux_command(*args, preexec_fn=fill)
    assert finish(process) == (code, "", "")


# -- pymux connect, and a server that has ended ---------------------------------------


@pytest.mark.parametrize("framing", ["raw", "lines", "length4", "fixed:4"])
def test_connect_ends_with_its_server_though_its_input_is_open(pymux_command, framing):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = inside.format_address(listener.getsockname())
        process = pymux_command(
            "connect", address, "--framing", framing, stdin=subprocess.PIPE
        )
        listener.settimeout(30)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"\0\0\0\4bye\n" if framing == "length4" else b"bye\n")
    # its input stays open, and nothing is written to it
    assert process.wait(30) == 0
    assert process.stdout.read().startswith(b"bye\n")
    assert process.stderr.read() == b""


def test_connect_to_a_unix_server_ends_with_it(pymux_command, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        process = pymux_command("connect", "unix:socket", stdin=subprocess.PIPE)
        listener.settimeout(30)
        listener.accept()[0].close()
    assert process.wait(30) == 0


def test_connect_sends_what_still_comes_to_a_server_that_reads_on(pymux_command):
    """A server that ends its own direction first gets all of an input that flows."""
    with connected(pymux_command) as (process, peer):
        peer.shutdown(socket.SHUT_WR)
        for k in range(30):
            process.stdin.write(b"%d\n" % k)
            process.stdin.flush()
            assert util.recv_exactly(peer, len(b"%d\n" % k)) == b"%d\n" % k
            time.sleep(0.05)  # in all longer than a silent input is waited for
        process.stdin.close()
        assert util.recv_all(peer) == b""
        assert process.wait(30) == 0


def test_connect_waits_for_a_slow_server_that_has_ended_its_direction(pymux_command):
    """What was read from the input is the server's, however long it takes."""
    size = 16 << 20

    def write():
        process.stdin.write(bytes(size))
        process.stdin.flush()

    with connected(pymux_command) as (process, peer):
        writer = threading.Thread(target=write)
        writer.start()
        peer.shutdown(socket.SHUT_WR)
        got = len(util.recv_exactly(peer, 1 << 20))
        time.sleep(1.5)  # longer than a silent input is waited for
        got += len(util.recv_all(peer))
        writer.join()
        assert got == size
        assert process.wait(30) == 0  # and its input is open still


# -- called from a program ------------------------------------------------------------


def test_main_writes_to_streams_in_memory():
    """As a program may call it that has put something else in place of the streams."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert inside.command(["connect", "unix:/nowhere/at/all"]) == 1
        with pytest.raises(SystemExit) as raised:
            inside.command(["--version"])
        assert raised.value.code == 0
        with pytest.raises(SystemExit) as raised:
            inside.command(["serve", "--nope"])
        assert raised.value.code == 2
    assert out.getvalue().startswith("pymux ")
    first, *_, last = err.getvalue().splitlines()
    assert first == "no such file or directory: unix:/nowhere/at/all"
    assert "--nope" in last
