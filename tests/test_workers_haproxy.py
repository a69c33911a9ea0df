"""Workers behind a real HAProxy that asks `health` by its agent-check."""

import os
import signal
import sys
import threading

import pytest

import pymux

from . import util
from .balancers import haproxy
from .supervised import SCRIPT, Supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")

LINES = pymux.Lines()
APP = "import os\ndef handler(conn, line):\n    return b'%d ' % os.getppid() + line\n"
GRACE = 3  # seconds, in which HAProxy asks thirty times
BACKEND = """
frontend all
    bind {bind}
    default_backend to_all
backend to_all
    balance roundrobin
    option redispatch
    retries 3
    default-server weight 100 check inter 100ms agent-check agent-inter 100ms
    server a {a} agent-port {a_agent}
    server b {b} agent-port {b_agent}
"""


class Service:
    """A server with two workers, on ports that it has again when it is started anew."""

    def __init__(self, folder, form):
        self.folder = folder
        self.form = form
        self.address = "127.0.0.1", util.free_port()
        self.health = "127.0.0.1", util.free_port()
        folder.mkdir()
        (folder / "app.py").write_text(APP)
        self.start()

    def start(self):
        if self.form == "command":
            words = ["-m", "pymux", "serve", "{}:{}".format(*self.address)]
            words += ["--handler", "app:handler", "--framing", "lines"]
            words += ["--workers", "2", "--health", "{}:{}".format(*self.health)]
            words += ["--grace", GRACE, "--log-level", "info"]
        else:
            workers = f"pymux.Workers(2, grace={GRACE}, health={self.health})"
            text = SCRIPT.format(
                before="",
                handler="'app:handler'",
                address=self.address,
                options=f"framing=pymux.Lines(), workers={workers}",
            )
            (self.folder / "main.py").write_text(text)
            words = ["main.py"]
        self.server = Supervised(self.folder, *words).listen()


class Scene:
    """Two such servers and the balancer."""

    def __init__(self, folder, form, balancer):
        self.balancer = balancer
        self.a = Service(folder / "a", form)
        self.b = Service(folder / "b", form)
        front = self.front = "127.0.0.1", util.free_port()
        balancer.fronts["all"] = front
        balancer.text += BACKEND.format(
            bind="{}:{}".format(*front),
            a="{}:{}".format(*self.a.address),
            b="{}:{}".format(*self.b.address),
            a_agent=self.a.health[1],
            b_agent=self.b.health[1],
        )
        balancer.start()

    def wait_for(self, name, *states):
        def is_so():
            found = self.balancer.status("to_all", name)
            return any(found.startswith(state) for state in states)

        wait_until(is_so)

    def ask(self, client, text):
        """Ask on a connection; the process number of the server that has answered."""
        client.send(text)
        pid, _, rest = client.recv().partition(b" ")
        assert rest == text
        return int(pid)

    def ask_once(self, text=b"once"):
        with pymux.connect(self.front, framing=LINES, timeout=20) as client:
            return self.ask(client, text)


@pytest.fixture(params=["command", "script"])
def scene(request, tmp_path):
    with haproxy(tmp_path) as balancer:
        made = Scene(tmp_path, request.param, balancer)
        try:
            made.wait_for("a", "UP")
            made.wait_for("b", "UP")
            yield made
        finally:
            for service in (made.a, made.b):
                service.server.close()


class Load:
    """Short connections, and persistent ones; each answer is checked."""

    def __init__(self, scene):
        self.scene = scene
        self.failed = []
        self.answered = []  # by which server, in order
        self.over = threading.Event()
        self.threads = [
            threading.Thread(target=self.run, args=(work,))
            for work in (self.shorts, self.shorts, self.persistent)
        ]

    def run(self, work):
        try:
            work()
        except BaseException as error:
            self.failed.append(error)

    def shorts(self):
        while not self.over.is_set():
            self.answered.append(self.scene.ask_once(b"%d" % len(self.answered)))

    def persistent(self):
        k = 0
        with pymux.connect(self.scene.front, framing=LINES, timeout=20) as client:
            while not self.over.wait(0.01):
                k += 1
                self.scene.ask(client, b"%d" % k)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.failed == []

    def go_on(self, count=50):
        """Wait until that many more were answered; the servers that have answered."""
        begin = len(self.answered)
        wait_until(lambda: len(self.answered) >= begin + count or self.failed)
        return set(self.answered[begin:])


def test_new_code_is_nothing_that_haproxy_or_a_client_notices(scene):
    with Load(scene) as load:
        for service in (scene.a, scene.b):
            service.server.roll(2)
        assert load.go_on() == {scene.a.server.pid, scene.b.server.pid}
        assert scene.balancer.status("to_all", "a").startswith("UP")


def test_a_server_drains_goes_and_comes_and_no_client_notices(scene):
    with Load(scene) as load:
        pids = [load.go_on()]
        held = [pymux.connect(scene.front, framing=LINES, timeout=20) for _ in "four"]
        try:
            homes = [scene.ask(one, b"first") for one in held]
            assert set(homes) == pids[0] == {scene.a.server.pid, scene.b.server.pid}
            scene.a.server.signal(signal.SIGTERM)
            scene.wait_for("a", "DRAIN")
            load.go_on(4)  # those that were on their way to it
            assert load.go_on() == {scene.b.server.pid}
            assert [scene.ask(one, b"more") for one in held] == homes
        finally:
            for one in held:
                one.close()
        # HAProxy gives no new connection to it, and its own have all ended, but for
        # one of the load, perhaps: that one lingers.
        assert scene.a.server.process.poll() is None
        load.over.set()
        for thread in load.threads:
            thread.join(60)
        code, _ = scene.a.server.finish()
        assert code == 0
    scene.a.server.close()
    scene.a.start()
    scene.wait_for("a", "UP")
    with Load(scene) as load:
        wait_until(lambda: load.go_on() == {scene.a.server.pid, scene.b.server.pid})


def test_the_agents_word_ends_what_an_operator_has_set_unless_it_is_off(scene):
    """docs/howto/haproxy.md says so: `ready` cancels maint and drain."""
    ask = scene.balancer.ask
    for state, shown in ("maint", "MAINT"), ("drain", "DRAIN"):
        ask("disable agent to_all/a")
        ask(f"set server to_all/a state {state}")
        scene.wait_for("a", shown)
        with Load(scene) as load:
            load.go_on(4)
            assert load.go_on() == {scene.b.server.pid}
        assert scene.balancer.status("to_all", "a").startswith(shown)
        ask("enable agent to_all/a")
        scene.wait_for("a", "UP")


def test_a_server_whose_workers_are_stopped_is_down_for_haproxy(scene):
    """Though its sockets listen, and the supervisor answers."""
    pids = scene.a.server.workers().values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    scene.wait_for("a", "DOWN")
    with Load(scene) as load:
        assert load.go_on() == {scene.b.server.pid}
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    scene.wait_for("a", "UP")
