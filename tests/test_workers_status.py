"""What a balancer and Prometheus ask of a server with workers."""

import os
import select
import signal
import socket
import sys
import time

import pytest

from .processes import resource
from .supervised import PATIENCE, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


def get(path, request=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
    """All that an address answers to a request, or to silence."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        sock.sendall(request)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer.decode()


@pytest.fixture
def health(tmp_path):
    return str(tmp_path / "health")


def test_health_answers_200_while_workers_serve_and_503_in_the_grace(tmp_path, health):
    workers = f"pymux.Workers(1, grace=3600, health={health!r})"
    with supervised(tmp_path, workers=workers) as server:
        answer = get(health)
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert answer.endswith("\r\n\r\nready\n")
        server.signal(signal.SIGTERM)
        wait_until(lambda: get(health).startswith("HTTP/1.1 503 "))
        assert server.ask(b"hello") == b"HELLO"  # the workers accept meanwhile


def test_health_says_haproxys_words_to_a_silent_peer(tmp_path, health):
    workers = f"pymux.Workers(1, grace=3600, health={health!r})"
    with supervised(tmp_path, workers=workers) as server:
        assert get(health, b"") == "up ready\n"
        server.signal(signal.SIGTERM)
        wait_until(lambda: get(health, b"") == "drain\n")


BLOCKS = """
import logging, os, sys, time

class Blocks(logging.Handler):
    def emit(self, record):
        if "slot by slot" in record.getMessage():
            print("blocked", file=sys.stderr, flush=True)
            while not os.path.exists("go"):
                time.sleep(0.01)

logging.getLogger("pymux").addHandler(Blocks())
"""


def test_health_takes_nobody_for_silent_while_the_supervisor_is_busy(tmp_path, health):
    workers = f"pymux.Workers(1, health={health!r})"
    with supervised(tmp_path, workers=workers, before=BLOCKS) as server:
        while True:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(health)
                since = len(server.log)
                server.signal(signal.SIGHUP)
                server.wait_for("blocked", since=since)
                has_spoken = not select.select([sock], [], [], 0.2)[0]
                if has_spoken:
                    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                (tmp_path / "go").touch()
                answer = sock.recv(100)
                server.wait_for("takes over from", since=since)
                (tmp_path / "go").unlink()
            if has_spoken:  # else the supervisor has heard SIGHUP too late
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                return


def test_health_says_503_while_no_worker_runs(tmp_path, health):
    workers = f"pymux.Workers(1, health={health!r})"
    with supervised(tmp_path, workers=workers) as server:
        (pid,) = server.workers().values()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: get(health).startswith("HTTP/1.1 503 "))
        assert get(health, b"") == "down\n"
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: get(health).startswith("HTTP/1.1 200 "))


def test_health_closes_what_asks_otherwise_or_too_slowly(tmp_path, health):
    workers = f"pymux.Workers(1, health={health!r})"
    with supervised(tmp_path, workers=workers):
        assert get(health, b"POST / HTTP/1.1\r\n\r\n") == ""
        assert get(health, b"GET /") == ""  # after two seconds


def test_health_serves_16_peers_at_once_and_the_others_later(tmp_path, health):
    workers = f"pymux.Workers(1, health={health!r})"
    with supervised(tmp_path, workers=workers):
        slow = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        try:
            for sock in slow:
                sock.connect(health)
                sock.sendall(b"G")
            assert get(health).startswith("HTTP/1.1 200 ")  # when they were dropped
        finally:
            for sock in slow:
                sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prlimit")
def test_a_supervisor_without_descriptors_sleeps_and_answers_later(tmp_path, health):
    workers = f"pymux.Workers(1, health={health!r})"
    with supervised(tmp_path, workers=workers) as server:

        def seconds():
            """Of the processor, that the supervisor has had."""
            with open(f"/proc/{server.pid}/stat") as file:
                words = file.read().rpartition(")")[2].split()
            return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")

        kind = resource.RLIMIT_NOFILE
        before = resource.prlimit(server.pid, kind)
        resource.prlimit(server.pid, kind, (0, before[1]))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(health)
            begin = seconds()
            time.sleep(2)
            assert seconds() - begin < 1
            resource.prlimit(server.pid, kind, before)
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_address_of_health_that_cannot_be_bound_ends_serve(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        name = other.getsockname()
        workers = f"pymux.Workers(1, health={name})"
        with (
            pytest.raises(AssertionError) as caught,
            supervised(tmp_path, workers=workers),
        ):
            pass
        assert f"Address already in use: '127.0.0.1:{name[1]}'" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_systemd_is_told_of_each_state_by_the_supervisor_alone(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)

        def told():
            words = dict(
                line.split("=", 1) for line in manager.recv(4096).decode().split("\n")
            )
            words.pop("STATUS")
            return words

        with supervised(tmp_path, workers="1", env={"NOTIFY_SOCKET": path}) as server:
            assert told() == {"READY": "1"}
            server.roll(1)
            assert sorted(told()) == ["MONOTONIC_USEC", "RELOADING"]
            assert told() == {"READY": "1"}
            server.finish(signal.SIGTERM)
            assert told() == {"STOPPING": "1"}
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(4096)


def test_systemds_watchdog_hears_that_the_supervisor_goes_round(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
        with supervised(tmp_path, workers="1", env=env):
            heard = 0
            while heard < 3:
                heard += manager.recv(4096) == b"WATCHDOG=1"
