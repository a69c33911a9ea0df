"""examples/haproxy: a server leaves, and HAProxy is replaced, and no client notices."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading

import pytest

import pymux

from . import util
from .balancers import Haproxy

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "haproxy"
PAGE = ROOT / "docs" / "howto" / "haproxy.md"
LINES = pymux.Lines()
PORTS = "8093", "8094", "8095", "8194", "8195"

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="workers need POSIX"),
]


class Scene:
    """The servers and the balancer of the page, on ports of their own."""

    def __init__(self, folder):
        self.balancer = Haproxy(folder)
        self.ports = {port: str(util.free_port()) for port in PORTS}
        self.front = "127.0.0.1", int(self.ports["8093"])
        text = self._moved((EXAMPLE / "haproxy.cfg").read_text())
        text = text.replace("/run/haproxy/admin.sock", str(folder / "admin"))
        self.balancer.text = text.replace("inter 1s", "inter 100ms")
        self.balancer.fronts = {"clients": self.front}
        found = re.findall(r"^\$ (pymux serve(?:.|\\\n)*?) &$", PAGE.read_text(), re.M)
        self.commands = [self._moved(one.replace("\\\n", "")) for one in found]
        assert len(self.commands) == 2
        self.servers = [None, None]

    def _moved(self, text):
        return re.sub("|".join(PORTS), lambda found: self.ports[found[0]], text)

    def serve(self, k):
        """Start a server, and wait until it listens."""
        path = os.pathsep.join(filter(None, sys.path))
        self.servers[k] = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(self.commands[k])],
            cwd=EXAMPLE,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.servers[k].stdout.readline().startswith("listening on ")

    def ask(self, line):
        """The answer to a line on a connection of its own."""
        with pymux.connect(self.front, framing=LINES, timeout=20) as client:
            client.send(line)
            return client.recv()

    def is_in(self, k, *states):
        state = self.balancer.status("workers", f"w{k}")
        return any(state.startswith(one) for one in states)

    def end(self):
        self.balancer.end()
        for server in filter(None, self.servers):
            server.kill()
            server.communicate()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    try:
        for k in range(2):
            made.serve(k)
        made.balancer.start()
        util.wait_until(lambda: made.is_in(0, "UP") and made.is_in(1, "UP"))
        yield made
    finally:
        made.end()


class Clients:
    """A thread that asks on one connection after another; each answer is checked."""

    def __init__(self, scene):
        self.answers = 0
        self.failed = []
        self._scene = scene
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ends.is_set():
            try:
                answer = self._scene.ask(b"hello")
            except OSError as error:
                answer = error
            if answer == b"HELLO":
                self.answers += 1
            else:
                self.failed.append(answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._ends.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.failed == []
        assert self.answers > 0

    def go_on(self):
        """Wait until some more have got their answers."""
        wanted = self.answers + 20
        util.wait_until(lambda: self.answers >= wanted or self.failed, timeout=30)


def test_a_server_sees_the_client_behind_the_balancer(scene):
    with pymux.connect(scene.front, framing=LINES, timeout=20) as client:
        client.send(b"who")
        host, port = client.local
        assert client.recv() == f"{host}:{port}".encode()


def test_a_server_leaves_and_no_client_notices(scene):
    with Clients(scene) as clients:
        held = [pymux.connect(scene.front, framing=LINES, timeout=20) for _ in "four"]
        for client in held:
            client.send(b"hello")
            assert client.recv() == b"HELLO"
        scene.servers[0].send_signal(signal.SIGTERM)
        util.wait_until(lambda: scene.is_in(0, "DRAIN"), timeout=20)
        clients.go_on()
        left = 0
        for client in held:  # those of the server that leaves are served to their end
            client.send(b"more")
            answer = client.recv()
            if answer == b"the server leaves: finish, and send quit":
                left += 1
                answer = client.recv()
            assert answer == b"MORE"
            client.send(b"quit")
            assert client.recv() in (
                b"goodbye",
                b"the server leaves: finish, and send quit",
            )
            client.close()
        scene.servers[0].communicate(timeout=60)
        assert scene.servers[0].returncode == 0
        clients.go_on()
        scene.serve(0)
        util.wait_until(lambda: scene.is_in(0, "UP"), timeout=20)
        clients.go_on()


def test_haproxy_is_replaced_and_no_client_notices(scene):
    with (
        Clients(scene) as clients,
        pymux.connect(scene.front, framing=LINES, timeout=20) as held,
    ):
        (old,) = scene.balancer.children
        admin = str(scene.balancer.folder / "admin")
        scene.balancer.start("-x", admin, "-sf", str(old.pid))
        clients.go_on()
        held.send(b"still here")
        assert held.recv() == b"STILL HERE"
        assert old.poll() is None
        held.close()
        assert old.wait(60) == 0
        clients.go_on()
