"""Workers that are stuck, old or large; and a supervisor that has nothing to do."""

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from .supervised import supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")
ON_LINUX = sys.platform == "linux"


def ask_other_than(server, pid):
    """Ask on new connections until another worker than this one has answered."""
    seen = set()

    def ask():
        with contextlib.suppress(OSError):
            seen.add(int(server.ask(b"pid")))
        return seen - {pid}

    wait_until(ask)


def stick(server):
    """Let a worker's handler run for ever: (its number, the client's socket)."""
    sock = socket.create_connection(server.address)
    sock.sendall(b"pid")
    pid = int(sock.recv(100))
    sock.sendall(b"hang")
    server.wait_for(f"{pid} hangs")
    return pid, sock


def test_a_neighbour_accepts_for_a_worker_whose_handler_does_not_return(tmp_path):
    with supervised(tmp_path) as server:
        pid, sock = stick(server)
        with sock:
            server.wait_for(r"accepts for slot \d too")
            seen = {int(server.ask(b"pid")) for _ in range(20)}
            assert len(seen) == 1
            assert pid not in seen


def test_the_watchdog_logs_the_stack_aborts_and_replaces(tmp_path):
    workers = "pymux.Workers(1, watchdog=1.5)"
    with supervised(tmp_path, workers=workers) as server:
        pid, sock = stick(server)
        with sock:
            server.wait_for(rf"pid {pid}\): its handler has run for .* it is aborted")
            server.wait_for(rf"pid {pid}\) has ended after .*: SIGABRT")
            server.wait_for(r'File ".*app.py", line \d+ in handler')
            assert sock.recv(100) == b""
        ask_other_than(server, pid)


def test_a_stopped_worker_in_a_handler_is_killed_in_the_end(tmp_path):
    workers = "pymux.Workers(1, watchdog=1.5)"
    with supervised(tmp_path, workers=workers) as server:
        pid, sock = stick(server)
        with sock:
            os.kill(pid, signal.SIGSTOP)
            server.wait_for(rf"pid {pid}\) has ended after .*: SIG(ABRT|KILL)")
        ask_other_than(server, pid)


def test_a_worker_is_replaced_when_it_is_old(tmp_path):
    workers = "pymux.Workers(1, max_age=0.5)"
    with supervised(tmp_path, workers=workers) as server:
        server.wait_for(r"worker 0 .* is replaced: it is 0.5 s old")
        server.wait_for("takes over from", 2)
        assert server.ask(b"hello") == b"HELLO"


ENDS = """
import os, sys, threading, time


def handler(conn, data):
    if data == b"pid":
        return b"%d" % os.getpid()
    threading.Thread(target=time.sleep, args=(60,)).start()
    sys.exit(3)
"""


def test_a_worker_whose_server_has_ended_is_replaced_and_killed(tmp_path):
    with supervised(tmp_path, app=ENDS, workers="1") as server:
        pid = int(server.ask(b"pid"))
        assert server.ask(b"exit") is None
        assert int(server.ask(b"pid")) != pid
        server.wait_for(rf"pid {pid}\) serves no more, but its process has not ended")
        server.wait_for(rf"pid {pid}\) has ended after .*: SIGKILL")


def test_old_age_counts_anew_when_the_new_worker_does_not_start(tmp_path):
    workers = "pymux.Workers(1, max_age=0.5)"
    with supervised(tmp_path, workers=workers) as server:
        good = (tmp_path / "app.py").read_text()
        (tmp_path / "app.py").write_text("nonsense(\n")
        server.wait_for("could not start: SyntaxError")
        (tmp_path / "app.py").write_text(good)
        server.wait_for("takes over from", since=len(server.log))


def test_a_roll_that_stops_lets_single_workers_be_replaced(tmp_path):
    app = "import time\n\ndef handler(conn, data):\n    return data.upper()\n"
    with supervised(tmp_path, app=app) as server:
        last = server.workers()[1]
        begins = (
            "import os, time\n"
            "open('begun', 'w').close()\n"
            "while not os.path.exists('go'): time.sleep(0.01)\n"
            "nonsense(1)\n"
        )
        (tmp_path / "app.py").write_text(begins)
        server.signal(signal.SIGHUP)
        wait_until((tmp_path / "begun").exists)
        os.kill(last, signal.SIGTERM)
        server.wait_for(rf"pid {last}\) is replaced: it was sent SIGTERM")
        (tmp_path / "app.py").write_text(app)
        (tmp_path / "go").touch()
        server.wait_for(r"worker 0 .* could not start: NameError")
        server.wait_for(rf"takes over from worker 1 \(pid {last}\)")


@pytest.mark.skipif(not ON_LINUX, reason="needs /proc")
def test_a_worker_is_replaced_when_it_has_too_much_memory(tmp_path):
    grow = (
        "held = []\n"
        "def handler(conn, data):\n"
        "    held.append(bytes(300 << 20).replace(bytes(1), b'x'))\n"
        "    return data.upper()\n"
    )
    workers = "pymux.Workers(1, max_memory=200 << 20)"
    with supervised(tmp_path, app=grow, workers=workers) as server:
        (first,) = server.workers().values()
        assert server.ask(b"hello") == b"HELLO"
        server.wait_for(rf"pid {first}\) is replaced: it has \d+ bytes of memory")
        server.wait_for(rf"takes over from worker 0 \(pid {first}\)")


@pytest.mark.skipif(not ON_LINUX, reason="needs /proc")
def test_a_new_worker_with_too_much_memory_is_told_once_and_replaced_later(tmp_path):
    workers = "pymux.Workers(1, max_memory=1_000_000)"
    with supervised(tmp_path, workers=workers) as server:
        server.wait_for(r"has \d{7,} bytes of memory .* max_memory is 1000000;")
        time.sleep(5)  # after about 0.5, 1.4, 2.4, 3.8 and 6.0 s
        replaced = [line for line in server.log if "is replaced: it has" in line]
        assert 1 <= len(replaced) <= 5
        assert len([line for line in server.log if "max_memory is" in line]) == 1
        assert server.ask(b"hello") == b"HELLO"


def switches(pid):
    """How often a process has gone to sleep."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("voluntary_ctxt_switches:")[1].split()[0])


def wait_until_it_sleeps(server):
    """Wait until the supervisor does not wake for three seconds."""

    def sleeps():
        before = switches(server.pid)
        time.sleep(3)
        return switches(server.pid) == before

    wait_until(sleeps)


@pytest.mark.skipif(not ON_LINUX, reason="needs /proc")
@pytest.mark.parametrize("backend", ["epoll", "poll"])
def test_a_supervisor_of_idle_workers_never_wakes(tmp_path, backend):
    with supervised(tmp_path, backend=repr(backend)) as server:
        for _ in range(2):
            assert server.ask(b"hello") == b"HELLO"
            wait_until_it_sleeps(server)
        _, sock = stick(server)  # and still sees what needs it
        with sock:
            server.wait_for(r"accepts for slot \d too")


HANGS = """
import time


def handler(conn, data):
    open("hangs", "w").close()
    time.sleep(3600)
"""


@pytest.mark.skipif(not ON_LINUX, reason="needs /proc")
def test_a_handler_that_hangs_before_a_sleeping_supervisor_runs_is_seen(tmp_path):
    with supervised(tmp_path, app=HANGS) as server:
        wait_until_it_sleeps(server)
        server.signal(signal.SIGSTOP)  # as on a machine that is busy
        os.waitpid(server.pid, os.WUNTRACED)
        with socket.create_connection(server.address) as sock:
            sock.sendall(b"hello")
            wait_until((tmp_path / "hangs").exists)
            server.signal(signal.SIGCONT)
            server.wait_for(r"accepts for slot \d too")


@pytest.mark.skipif(not ON_LINUX, reason="needs /proc")
def test_a_worker_that_is_stopped_while_the_supervisor_sleeps_is_covered(tmp_path):
    with supervised(tmp_path) as server:
        wait_until_it_sleeps(server)
        (stopped, _) = server.workers().values()
        os.kill(stopped, signal.SIGSTOP)
        server.wait_for("accepts for slot 0 too")
        wait_until_it_sleeps(server)  # again
        os.kill(stopped, signal.SIGCONT)
        server.wait_for(rf"pid {stopped}\) goes on")
