"""`serve(workers=)`: several processes behind one address, and their ends."""

import os
import re
import signal
import socket
import sys
import threading

import pytest

import pymux

from .supervised import APP, Supervised, figures, is_alive, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


def both_pids(server, count=2):
    """Ask until that many workers have answered; their process numbers."""
    seen = set()

    def ask():
        seen.add(int(server.ask(b"pid")))
        return len(seen) == count

    wait_until(ask)
    return seen


def test_workers_answer_behind_one_address(tmp_path):
    with supervised(tmp_path) as server:
        assert both_pids(server) == set(server.workers().values())
        assert server.ask(b"hello") == b"HELLO"


def test_serve_returns_the_figures_of_all_workers_after_sigterm(tmp_path):
    with supervised(tmp_path) as server:
        asked = 0
        seen = set()
        while len(seen) < 2:
            seen.add(server.ask(b"pid"))
            asked += 1
        code, out = server.finish(signal.SIGTERM)
        assert code == 0
        assert figures(out) == (asked, asked, asked)
        assert not any(map(is_alive, map(int, seen)))


def test_sighup_replaces_each_worker_by_one_with_the_new_code(tmp_path):
    with supervised(tmp_path) as server:
        before = both_pids(server)
        text = (tmp_path / "app.py").read_text()
        (tmp_path / "app.py").write_text(text.replace("VERSION = 1", "VERSION = 2"))
        server.roll(2)
        wait_until(lambda: not any(map(is_alive, before)))
        assert {server.ask(b"version") for _ in range(20)} == {b"2"}


def test_old_code_stays_when_new_code_does_not_start(tmp_path):
    with supervised(tmp_path) as server:
        before = both_pids(server)
        (tmp_path / "app.py").write_text("import nothing_of_that_name\n")
        server.signal(signal.SIGHUP)
        found = server.wait_for(r"could not start: (.*); worker 0 \(pid \d+\) stays")
        assert found[1] == (
            "ModuleNotFoundError: No module named 'nothing_of_that_name' "
            "(app.py, line 1)"
        )
        assert {int(server.ask(b"pid")) for _ in range(20)} <= before
        assert not any("takes over" in line for line in server.log)


def test_a_worker_that_ends_is_replaced_and_its_exit_code_logged(tmp_path):
    with supervised(tmp_path, workers="1") as server:
        (first,) = server.workers().values()
        assert server.ask(b"exit") is None
        server.wait_for(rf"worker 0 \(pid {first}\) has ended after .*: exit code 3")
        assert int(server.ask(b"pid")) != first


def test_the_stack_of_a_worker_that_aborts_is_logged(tmp_path):
    with supervised(tmp_path, workers="1") as server:
        assert server.ask(b"abort") is None
        server.wait_for("has ended after .*: SIGABRT")
        server.wait_for(r'File ".*app.py", line \d+ in handler')


def test_a_worker_that_keeps_dying_is_started_later_and_later(tmp_path):
    with supervised(tmp_path, workers="1") as server:
        (tmp_path / "app.py").write_text("raise SystemExit(7)\n")
        (pid,) = server.workers().values()
        os.kill(pid, signal.SIGKILL)
        server.wait_for("has ended after .*: SIGKILL; a new one starts$")
        text = "worker 0 .* could not start: SystemExit: 7 .*; a new one starts in "
        for delay in "0.1", "0.2", "0.4":
            server.wait_for(text + delay)


def test_a_first_start_that_fails_ends_serve_with_the_reason(tmp_path):
    (tmp_path / "app.py").write_text("1 / 0\n")
    (tmp_path / "main.py").write_text(
        "import pymux\n"
        "try:\n"
        "    pymux.serve('app:handler', ('127.0.0.1', 0), workers=2)\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )

    server = Supervised(tmp_path, "main.py")
    code, out = server.finish()
    server.close()
    assert code == 0
    assert (
        "could not start: ZeroDivisionError: division by zero (app.py, line 1)" in out
    )


def test_a_worker_that_is_not_ready_in_time_is_killed(tmp_path):
    options = "workers=pymux.Workers(1, start_timeout=0.5)"
    (tmp_path / "app.py").write_text("import time; time.sleep(3600)\n")
    (tmp_path / "main.py").write_text(
        f"import pymux\npymux.serve('app:handler', ('127.0.0.1', 0), {options})\n"
    )

    server = Supervised(tmp_path, "main.py")
    code, _ = server.finish()
    server.close()
    assert code == 1
    assert any(
        "worker 0 could not start: not ready within 0.5 s" in line
        for line in server.log
    )


def test_workers_drain_when_the_supervisor_is_killed(tmp_path):
    with supervised(tmp_path) as server:
        pids = both_pids(server)
        server.signal(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)))


def test_a_script_is_run_again_for_a_handler_of_its_own(tmp_path):
    handler = "def mine(conn, data):\n    return __name__.encode() + data\n"
    with supervised(tmp_path, before=handler, handler="mine") as server:
        assert server.ask(b"!") == b"__pymux_main__!"


def test_workers_serve_a_unix_socket_whose_file_goes_at_the_end(tmp_path):
    path = str(tmp_path / "s")
    with supervised(tmp_path, address=path) as server:
        assert server.ask(b"hello") == b"HELLO"
        assert os.stat(path).st_mode & 0o777 == 0o600
        server.finish(signal.SIGTERM)
        assert not os.path.exists(path)


def test_several_hups_during_a_roll_are_one_more_roll(tmp_path):
    with supervised(tmp_path) as server:
        wait = 'import os, time\nwhile not os.path.exists("go"): time.sleep(0.01)\n'
        (tmp_path / "app.py").write_text(wait + APP)
        server.signal(signal.SIGHUP)
        server.wait_for("slot by slot")
        for _ in range(5):
            server.signal(signal.SIGHUP)
        server.signal(signal.SIGUSR1)  # heard after SIGHUP
        server.wait_for("in _serve")
        (tmp_path / "go").touch()
        server.wait_for("takes over from", 4)
        code, _ = server.finish(signal.SIGTERM)
        assert code == 0
        assert sum("takes over from" in line for line in server.log) == 4


def test_ttin_and_ttou_add_and_remove_a_worker(tmp_path):
    with supervised(tmp_path, workers="1") as server:
        server.signal(signal.SIGTTIN)
        server.wait_for(r"worker 1 \(pid \d+\) serves")
        both_pids(server)
        gone = server.workers()[1]
        server.signal(signal.SIGTTOU)
        server.wait_for(r"accepts for slot 1 too")
        wait_until(lambda: not is_alive(gone))
        assert {int(server.ask(b"pid")) for _ in range(20)} == {server.workers()[0]}


def test_a_second_sigterm_kills(tmp_path):
    with (
        supervised(tmp_path, workers="1", drain_timeout="None") as server,
        socket.create_connection(server.address) as sock,
    ):
        sock.sendall(b"hang")
        wait_until(lambda: busy(server.workers()[0]))
        server.signal(signal.SIGTERM)
        server.wait_for("stops")
        code, _ = server.finish(signal.SIGTERM)
        assert code == 0
        assert not is_alive(server.workers()[0])


def busy(pid):
    """Whether a worker sleeps elsewhere than in its poller."""
    with open(f"/proc/{pid}/wchan") as file:
        return "nanosleep" in file.read()


def test_usr1_prints_the_stack_of_every_worker(tmp_path):
    with supervised(tmp_path) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for(r"line \d+ in _serve", 2)
        assert server.ask(b"hello") == b"HELLO"


ENDS_AND_IS_ASKED = """
import atexit, os, signal

atexit.register(lambda: os.kill(os.getpid(), signal.SIGUSR1))


def handler(conn, data):
    return data
"""


def test_usr1_does_nothing_to_a_worker_that_is_ending(tmp_path):
    with supervised(tmp_path, app=ENDS_AND_IS_ASKED) as server:
        server.roll(2)
        old = re.findall(r"\(pid (\d+)\) serves", "\n".join(server.log))[:2]
        wait_until(lambda: not any(is_alive(int(pid)) for pid in old))
        assert server.ask(b"hello") == b"hello"
        assert server.finish(signal.SIGTERM)[0] == 0
    assert not [line for line in server.log if "thread" in line or "USR1" in line]


def test_nobody_is_refused_while_a_neighbour_covers_a_stopped_worker(tmp_path):
    with supervised(tmp_path) as server:
        stopped = server.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        server.wait_for("was stopped by a signal")
        server.wait_for("accepts for slot 0 too")
        seen = {int(server.ask(b"pid")) for _ in range(20)}
        assert seen == {server.workers()[1]}
        os.kill(stopped, signal.SIGCONT)
        server.wait_for("goes on")
        both_pids(server)


def test_a_port_that_another_program_has_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "main.py").write_text(
            "import pymux\n"
            f"pymux.serve('app:handler', ('127.0.0.1', {port}), workers=2)\n"
        )

        server = Supervised(tmp_path, "main.py")
        code, _ = server.finish()
        server.close()
        assert code == 1
        assert server.log[-1] == (
            f"OSError: [Errno 98] Address already in use: '127.0.0.1:{port}'"
        )


def test_a_worker_cannot_have_workers_of_its_own(tmp_path):
    (tmp_path / "main.py").write_text(
        "import pymux\n"
        "def mine(conn, data): return data\n"
        "pymux.serve(mine, ('127.0.0.1', 0), workers=1)\n"
    )

    server = Supervised(tmp_path, "main.py")
    code, _ = server.finish()
    server.close()
    assert code == 1
    assert any("put that call under: if __name__" in line for line in server.log)


def test_outside_the_main_thread_workers_are_a_runtime_error():
    raised = []

    def call():
        try:
            pymux.serve("app:handler", ("127.0.0.1", 0), workers=1)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=call, name="side")
    thread.start()
    thread.join()
    assert raised == [
        "workers= needs the main thread, which gets the signals; this is 'side'"
    ]
