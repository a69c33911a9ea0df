"""A stop in each state of a slot: what clients see, and what is left behind."""

import contextlib
import os
import signal
import socket
import sys

import pytest

from .supervised import PATIENCE, Supervised, is_alive, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")

# Its import takes for ever while there is a file; and what it serves moves only if
# another one is there.
APP = """
import os
import time

with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
if os.path.exists("slow"):
    open("begun", "w").close()
    time.sleep(3600)


class Upper:
    def received(self, conn, data):
        return data.upper()

    def leaving(self, conn):
        return b"" if os.path.exists("go") else None


upper = Upper()
"""
WARNS = {"PYTHONWARNINGS": "always::ResourceWarning"}


@contextlib.contextmanager
def serving(folder, **options):
    """A server, and ten sockets whose connections it has."""
    with (
        supervised(
            folder, app=APP, handler="'app:upper'", env=WARNS, **options
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [
            stack.enter_context(socket.create_connection(server.address, PATIENCE))
            for _ in range(10)
        ]
        for sock in socks:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"HELLO"
        yield server, socks


def stop_orderly(folder, server, socks, number):
    """Stop the server: each client gets its answer, and no process is left."""
    for sock in socks:
        sock.sendall(b"last")
    code, _ = server.finish(number)
    for sock in socks:
        assert sock.recv(100) == b"LAST"
        assert sock.recv(100) == b""
    assert code == 0
    nothing_is_left(folder, server)


def nothing_is_left(folder, server):
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    wait_until(lambda: not any(map(is_alive, pids)))
    assert [line for line in server.log if "Warning" in line or "rror" in line] == []
    assert [line for line in server.log if "killed" in line] == []


both = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@both
def test_a_stop_while_the_first_workers_start(tmp_path, number):
    (tmp_path / "slow").touch()
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "main.py").write_text(
        "import pymux\n"
        "if __name__ == '__main__':\n"
        "    pymux.serve('app:upper', ('127.0.0.1', 0), workers=2)\n"
    )
    server = Supervised(tmp_path, "main.py", env=WARNS)
    try:
        wait_until((tmp_path / "begun").exists)
        code, _ = server.finish(number)
        assert code == 0
        nothing_is_left(tmp_path, server)
    finally:
        server.close()


@both
def test_a_stop_while_a_new_worker_starts_in_an_empty_slot(tmp_path, number):
    with serving(tmp_path) as (server, socks):
        (tmp_path / "slow").touch()
        dead = server.workers()[0]
        os.kill(dead, signal.SIGKILL)
        wait_until((tmp_path / "begun").exists)
        living = []
        for sock in socks:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"hello")
                if sock.recv(100):
                    living.append(sock)
        assert living
        stop_orderly(tmp_path, server, living, number)


@both
def test_a_stop_while_a_worker_is_replaced_and_the_new_one_starts(tmp_path, number):
    with serving(tmp_path) as (server, socks):
        (tmp_path / "slow").touch()
        server.signal(signal.SIGHUP)
        wait_until((tmp_path / "begun").exists)
        stop_orderly(tmp_path, server, socks, number)


@both
def test_a_stop_while_connections_move(tmp_path, number):
    with serving(tmp_path) as (server, socks):
        server.signal(signal.SIGHUP)
        server.wait_for("takes over from", 2)
        stop_orderly(tmp_path, server, socks, number)


@both
def test_a_stop_just_when_the_new_worker_is_ready(tmp_path, number):
    with serving(tmp_path, workers="1") as (server, socks):
        (tmp_path / "go").touch()
        server.signal(signal.SIGHUP)
        server.wait_for("takes over from")
        stop_orderly(tmp_path, server, socks, number)


@both
def test_a_stop_while_a_neighbour_covers_a_stopped_worker(tmp_path, number):
    with serving(tmp_path) as (server, socks):
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.wait_for("accepts for slot 0 too")
        stop_orderly(tmp_path, server, socks, number)
