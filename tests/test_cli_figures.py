"""`pymux stats` and `pymux top`, about servers that run beside them."""

import json
import os
import re
import signal
import sys
import threading

import pytest

from . import util
from .commands import ask, finish, one_line, write_module

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")

STUCK = """
import time
import threading

def handler(conn, data):
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of this test's files: no other server is found."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "pymux"


@pytest.fixture
def stats(pymux_command):
    """What `pymux stats --json` prints."""

    def read(*args):
        code, out, err = finish(pymux_command("stats", "--json", *args))
        assert (code, err) == (0, "")
        return json.loads(out)

    return read


def test_stats_tell_what_a_server_has_counted(serve, stats, folder):
    server = serve("--framing", "lines")
    assert ask(server.address, b"one\ntwo\n") == b"ONE\nTWO\n"
    found = stats()
    assert found["file"] == str(folder / f"{server.pid}.stats")
    assert found["live"] is True and found["pid"] == server.pid
    (worker,) = found["workers"]
    assert [one["pid"] for one in worker["processes"]] == [server.pid]
    assert worker["processes"][0]["backend"] == server.backend
    total = found["total"]
    assert (total["accepted"], total["messages_in"]) == (1, 2)
    assert sum(total["turn_ns"]) == total["harvests"] - 1  # the last one waits
    finish(server, signal.SIGTERM)
    assert list(folder.iterdir()) == []


def test_stats_without_json_are_lines_of_name_and_value(serve, pymux_command):
    server = serve()
    assert ask(server.address, b"hello") == b"HELLO"
    code, out, err = finish(pymux_command("stats"))
    assert (code, err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (found["live"], found["workers"], found["accepted"]) == ("True", "1", "1")


def test_the_server_that_has_started_last_is_taken(serve, stats):
    first, second = serve(), serve()
    assert ask(first.address, b"later") == b"LATER"  # it has written last
    assert stats()["pid"] == second.pid
    finish(second, signal.SIGTERM)
    assert stats()["pid"] == first.pid


def test_figures_are_told_while_the_handler_is_stuck(
    serve, stats, pymux_command, tmp_path
):
    write_module(tmp_path, STUCK)
    server = serve("--handler", "handlers:handler")
    with util.connect(server.address) as sock:
        sock.sendall(b"go")
        util.wait_until(lambda: stats()["total"]["messages_in"] == 1, timeout=60)
        util.wait_until(
            lambda: stats()["workers"][0]["processes"][0]["in_handler"] > 1, timeout=60
        )
        code, out, err = finish(pymux_command("top", "--once", "--interval", "0.1"))
        assert (code, err) == (0, "")
        assert "in handler" in out
        server.kill()


def test_a_file_whose_server_was_killed_is_read_by_name_alone(
    serve, stats, pymux_command, folder
):
    server = serve()
    assert ask(server.address, b"hello") == b"HELLO"
    server.kill()
    server.wait()
    (left,) = folder.iterdir()
    assert one_line(pymux_command("stats"))[0] == 1
    found = stats(str(left))
    assert (found["live"], found["total"]["accepted"]) == (False, 1)
    assert one_line(pymux_command("top", str(left))) == (
        1,
        f"{left}: the server has ended",
    )


@pytest.mark.parametrize("command", ["stats", "top"])
def test_nothing_to_read_is_one_clear_line(pymux_command, tmp_path, command):
    nobody = "no server of this user shows its figures here; name its file"
    assert one_line(pymux_command(command)) == (1, nobody)
    missing = tmp_path / "missing"
    assert one_line(pymux_command(command, str(missing))) == (
        1,
        f"{missing}: No such file or directory",
    )
    other = tmp_path / "other"
    other.write_bytes(bytes(10000))
    assert one_line(pymux_command(command, str(other))) == (
        1,
        f"{other}: no file of figures",
    )


def test_top_once_is_one_table(serve, pymux_command):
    server = serve("--framing", "lines")
    with util.connect(server.address) as sock:
        sock.sendall(b"hello\n")
        assert util.recv_exactly(sock, 6) == b"HELLO\n"
        code, out, err = finish(pymux_command("top", "--once", "--interval", "0.1"))
    assert (code, err) == (0, "")
    head, names, row = out.splitlines()
    assert head.startswith(f"pymux server {server.pid}, up ")
    assert "1 accepted, 1 messages in, 1 out" in head
    found = dict(zip(re.split(" {2,}", names.strip()), row.split()))
    assert (found["worker"], found["pid"]) == ("0", str(server.pid))
    assert found["conns"] == "1"


def test_top_ends_with_its_server(serve, pymux_command):
    server = serve()
    top = pymux_command("top", "--interval", "0.1")
    assert top.stdout.readline().startswith(b"pymux server")
    finish(server, signal.SIGTERM)
    code, out, err = finish(top)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "the server has ended"


def test_ctrl_c_ends_top(serve, pymux_command):
    serve()
    top = pymux_command("top", "--interval", "0.1")
    assert top.stdout.readline().startswith(b"pymux server")
    code, _, err = finish(top, signal.SIGINT)
    assert (code, err) == (0, "")


def test_on_a_terminal_top_writes_over_the_last_table(serve, pymux_command):
    pty = pytest.importorskip("pty")
    serve()
    master, slave = pty.openpty()
    drained = threading.Thread(target=_drain, args=(master,))
    try:
        args = ("top", "--interval", "0.1")
        top = pymux_command(*args, stdout=slave, env={"TERM": "xterm"})
        seen = b""
        while seen.count(b"pymux server") < 2:
            seen += os.read(master, 4096)
        drained.start()
        code, _, err = finish(top, signal.SIGINT)
        assert (code, err) == (0, "")
    finally:
        os.close(slave)
        if drained.ident is not None:
            drained.join()
        os.close(master)
    assert seen.startswith(b"\x1b[H") and seen.count(b"\x1b[H") >= 2
    assert b"\x1b[J" in seen


def _drain(fd):
    try:
        while os.read(fd, 4096):
            pass
    except OSError:  # nobody writes any more
        pass
