"""`max_connections` of a server with workers: the total of all."""

import contextlib
import json
import signal
import socket
import subprocess
import sys

import pytest

from .supervised import PATIENCE, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")

LIMITED = {"limits": "pymux.Limits(max_connections=6)", "framing": "pymux.Lines()"}


class Clients:
    """Clients that ask once, and wait for the answer.

    Attributes:
        waiting: those that have no answer yet.
        served: those that have one.
        pids: the answers, which are numbers of processes.
    """

    def __init__(self, stack, address, count):
        self.served = []
        self.pids = {}
        self.waiting = []
        for _ in range(count):
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            sock = socket.socket(family)
            stack.callback(sock.close)
            sock.settimeout(PATIENCE)
            sock.connect(address)
            sock.sendall(b"pid\n")
            sock.setblocking(False)
            self.waiting.append(sock)

    def look(self):
        """How many are served."""
        for sock in list(self.waiting):
            with contextlib.suppress(BlockingIOError):
                self.pids[sock] = int(sock.recv(100))
                self.waiting.remove(sock)
                self.served.append(sock)
        return len(self.served)


def those_that_are_full(server):
    """The numbers of workers at which peers wait in the backlog."""
    file = server.wait_for("the figures are in (.*)")[1]
    found = json.loads(pymux_says("stats", "--json", file))
    return [one["worker"] for one in found["workers"] if one["listeners_full"]]


def pymux_says(*words):
    command = [sys.executable, "-m", "pymux", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["tcp", "unix"])
def address(request, tmp_path):
    return ("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "s")


def test_more_and_fewer_workers_share_max_connections_anew(tmp_path, address):
    with supervised(tmp_path, workers="1", address=address, **LIMITED) as server:
        for count in (2, 3):
            server.signal(signal.SIGTTIN)
            wait_until(lambda count=count: len(server.workers()) == count)
        with contextlib.ExitStack() as stack:
            clients = Clients(stack, server.address, 60)
            server.wait_for("max_connections, 2, is reached", 3)
            wait_until(lambda: clients.look() >= 6)
            assert len(clients.served) == 6
        server.signal(signal.SIGTTOU)
        server.wait_for(r"worker 2 \(pid \d+\) gave")
        with contextlib.ExitStack() as stack:
            clients = Clients(stack, server.address, 60)
            wait_until(lambda: clients.look() == 6)


@pytest.mark.skipif(sys.platform != "linux", reason="given away on Linux")
def test_a_full_worker_accepts_for_one_that_has_places(tmp_path):
    limited = {**LIMITED, "limits": "pymux.Limits(max_connections=20)"}
    with supervised(tmp_path, **limited) as server, contextlib.ExitStack() as stack:
        pids = {}
        for _ in range(20):  # one by one, ten for each
            one = Clients(stack, server.address, 1)
            wait_until(one.look)
            pids |= one.pids
        waiting = Clients(stack, server.address, 10)
        full = wait_until(lambda: those_that_are_full(server))[0]
        for sock in waiting.waiting:
            sock.close()
        emptied = server.workers()[1 - full]
        for sock in [sock for sock, pid in pids.items() if pid == emptied][:8]:
            sock.close()
        more = Clients(stack, server.address, 8)
        wait_until(lambda: more.look() == 8)
        assert set(more.pids.values()) == {emptied}


def test_connections_over_a_smaller_share_stay(tmp_path):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(supervised(tmp_path, workers="1", **LIMITED))
        clients = Clients(stack, server.address, 6)
        wait_until(lambda: clients.look() == 6)
        server.signal(signal.SIGTTIN)
        wait_until(lambda: len(server.workers()) == 2)
        for sock in clients.served:
            sock.setblocking(True)
            sock.sendall(b"again\n")
            assert sock.recv(100) == b"AGAIN\n"
