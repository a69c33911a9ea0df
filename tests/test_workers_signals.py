"""Any signals in any order, while clients ask: none of them notices."""

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time

import pytest

from .supervised import PATIENCE, children_of, supervised, wait_until
from .util import recv_exactly

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

APP = """
import random


class Upper:
    def received(self, conn, data):
        return data.upper()

    def leaving(self, conn):  # often it has to be asked again
        return b"" if random.random() < 0.5 else None


upper = Upper()
"""
STEPS = 40


class Clients:
    """Threads that ask on connections of their own; each answer is checked."""

    def __init__(self, address):
        self.address = address
        self.over = threading.Event()
        self.failed = []
        self.answers = 0
        kinds = [self.keep, self.come_and_go] * 4
        self.threads = [threading.Thread(target=self.run, args=(one,)) for one in kinds]

    def run(self, work):
        try:
            while not self.over.is_set():
                with socket.create_connection(self.address, PATIENCE) as sock:
                    work(sock)
        except BaseException as error:
            self.failed.append((work.__name__, error))

    def ask(self, sock):
        text = b"ask %d" % self.answers
        sock.sendall(text)
        assert recv_exactly(sock, len(text)) == text.upper()
        self.answers += 1

    def keep(self, sock):
        while not self.over.wait(0.002):
            self.ask(sock)

    def come_and_go(self, sock):
        self.ask(sock)
        self.over.wait(0.002)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.failed == []


def strike(server, chance, good):
    """Send one signal, to the supervisor or to a worker."""
    kind = chance.choice(
        ("SIGHUP", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "bad", "TERM", "STOP")
    )
    if kind.startswith("SIG"):
        server.signal(getattr(signal, kind))
    elif kind == "bad":
        (server.folder / "app.py").write_text("nonsense(")
        server.signal(signal.SIGHUP)
        time.sleep(chance.uniform(0, 0.5))
        (server.folder / "app.py").write_text(good)
    else:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            pid = chance.choice(children_of(server.pid) or [0])
            if kind == "TERM" and pid:
                os.kill(pid, signal.SIGTERM)
            elif pid:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(chance.uniform(0, 0.5))
                os.kill(pid, signal.SIGCONT)
    time.sleep(chance.choice((0, 0.01, 0.1, 0.3)))


@pytest.mark.parametrize("seed", range(3))
def test_signals_at_random_fail_no_request_and_end_no_connection(tmp_path, seed):
    chance = random.Random(seed)
    with (
        supervised(tmp_path, app=APP, handler="'app:upper'", linger="5") as server,
        Clients(server.address) as clients,
    ):
        for _ in range(STEPS):
            strike(server, chance, APP)
            assert server.process.poll() is None
            assert clients.failed == []
        done = clients.answers
        wait_until(lambda: clients.answers > done + 100 or clients.failed)
        clients.over.set()
        for thread in clients.threads:
            thread.join(PATIENCE)
        assert server.finish(signal.SIGTERM)[0] == 0
