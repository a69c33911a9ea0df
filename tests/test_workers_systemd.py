"""What systemd is told of a server with workers, from READY to STOPPING."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import pymux

from . import util
from .managers import Watcher
from .supervised import APP, SCRIPT, Supervised, children_of, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

ACTIVATE = shutil.which("systemd-socket-activate")
LINES = pymux.Lines()
HOLD = """
import os, time
while os.path.exists("hold"):
    time.sleep(0.01)
"""


@pytest.fixture
def manager(tmp_path):
    made = Watcher(str(tmp_path / "notify"))
    yield made
    made.sock.close()


@pytest.fixture
def env(tmp_path, manager):
    """What tells a service of the manager."""
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}


def now():
    """The clock of systemd, in µs."""
    return time.monotonic_ns() // 1000


def answer(client, data):
    client.send(data)
    return client.recv()


@pytest.mark.skipif(ACTIVATE is None, reason="needs systemd-socket-activate")
def test_an_activated_service_tells_each_state_and_keeps_its_clients(
    tmp_path, manager, env
):
    (tmp_path / "app.py").write_text(APP)
    address = "127.0.0.1", util.free_port()
    names = "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", *env
    listen = f"--listen={address[0]}:{address[1]}", "--fdname=main"
    before = [ACTIVATE, *listen, *(f"--setenv={name}" for name in names)]
    words = ["-m", "pymux", "serve", "systemd:main", "--handler", "app:handler"]
    words += ["--framing", "lines", "--workers", "2", "--linger", "0"]
    server = Supervised(tmp_path, *words, "--log-level", "info", before=before, env=env)
    try:
        util.connect_when_up(address).close()  # this starts the service
        assert manager.state() == "READY"
        server.listen()
        with pymux.connect(address, framing=LINES, timeout=20) as client:
            for version in b"2", b"3":
                assert answer(client, b"begun") == b"BEGUN"
                (tmp_path / "app.py").write_text(
                    APP.replace("VERSION = 1", f"VERSION = {version.decode()}")
                )
                sent = now()
                server.signal(signal.SIGHUP)
                assert manager.state() == "RELOADING"
                assert sent <= int(manager.since) <= now()
                assert manager.state() == "READY"
                wait_until(lambda v=version: answer(client, b"version") == v)
            for _ in range(3):
                manager.beat()
        code, _ = server.finish(signal.SIGTERM)
        assert code == 0
        assert manager.state() == "STOPPING"
        assert manager.silent()
        assert manager.speakers == {server.pid}  # NotifyAccess=main
    finally:
        server.close()


def test_each_sighup_is_a_reload_of_its_own(tmp_path, manager, env):
    """systemd (Type=notify-reload) waits for a word that is later than its signal."""
    with supervised(tmp_path, app=HOLD + APP, workers="1", env=env) as server:
        assert manager.state() == "READY"
        (tmp_path / "hold").touch()
        times = []
        for _ in range(3):
            times.append(now())
            server.signal(signal.SIGHUP)
            assert manager.state() == "RELOADING"
            times.append(int(manager.since))
        assert times == sorted(times)
        (tmp_path / "hold").unlink()
        assert manager.state() == "READY"
        server.finish(signal.SIGTERM)
        assert manager.state() == "STOPPING"
        assert manager.silent()


def test_a_reload_that_fails_ends_with_ready(tmp_path, manager, env):
    with supervised(tmp_path, workers="2", env=env) as server:
        assert manager.state() == "READY"
        (tmp_path / "app.py").write_text("this is no Python")
        server.signal(signal.SIGHUP)
        assert manager.states(2) == ["RELOADING", "READY"]
        assert server.ask(b"version") == b"1"


def test_a_reload_that_is_asked_for_at_the_start_comes_behind_ready(
    tmp_path, manager, env
):
    (tmp_path / "hold").touch()
    (tmp_path / "app.py").write_text(HOLD + APP)
    (tmp_path / "main.py").write_text(
        SCRIPT.format(
            before="",
            handler="'app:handler'",
            address=("127.0.0.1", 0),
            options="workers=1, linger=0",
        )
    )
    server = Supervised(tmp_path, "main.py", env=env)
    try:
        wait_until(lambda: children_of(server.pid))
        server.signal(signal.SIGHUP)
        (tmp_path / "hold").unlink()
        server.listen()
        assert manager.states(3) == ["READY", "RELOADING", "READY"]
        server.finish(signal.SIGTERM)
        assert manager.state() == "STOPPING"
    finally:
        server.close()


def test_a_service_that_is_stopped_at_its_start_tells_no_ready(tmp_path, manager, env):
    (tmp_path / "hold").touch()
    (tmp_path / "app.py").write_text(HOLD + APP)
    words = ["-m", "pymux", "serve", "127.0.0.1:0", "--handler", "app:handler"]
    server = Supervised(tmp_path, *words, "--workers", "1", env=env)
    try:
        wait_until(lambda: children_of(server.pid))
        server.finish(signal.SIGTERM)
        assert manager.state() == "STOPPING"
        assert manager.silent()
    finally:
        (tmp_path / "hold").unlink()
        server.close()


@pytest.mark.skipif(ACTIVATE is None, reason="needs systemd-socket-activate")
def test_clients_that_wait_at_the_managers_socket_are_served_by_the_next_service(
    tmp_path,
):
    """The socket is systemd's: a service that ends closes nobody who waits there."""
    (tmp_path / "app.py").write_text(APP)
    code = (
        "import os, signal, socket, subprocess, sys\n"
        "sock = socket.create_server(('127.0.0.1', 0))\n"
        "print(sock.getsockname()[1], flush=True)\n"
        "os.dup2(sock.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        "    sys.stdin.readline()\n"
        "    os.kill(pid, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    words = ["-m", "pymux", "serve", "systemd", "--handler", "app:handler"]
    path = os.pathsep.join(filter(None, sys.path))
    manager = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--workers", "2", "--linger", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def line():
        while (found := manager.stdout.readline().strip()) and not found.isdigit():
            pass
        return int(found)

    with manager:
        try:
            address = "127.0.0.1", line()
            with pymux.connect(address, timeout=20) as client:
                client.send(b"first")
                assert client.recv() == b"FIRST"
            manager.stdin.write("stop\n")
            manager.stdin.flush()
            assert line() == 0
            with pymux.connect(address, timeout=40) as client:  # nobody accepts
                client.send(b"waits")
                manager.stdin.write("start\n")
                manager.stdin.flush()
                assert client.recv() == b"WAITS"
            manager.stdin.write("stop\n\n")
            manager.stdin.flush()
            assert line() == 0
        finally:
            manager.kill()
