"""A worker that says to its supervisor what no worker says."""

import os
import struct
import sys

import pytest

from .supervised import APP, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# The control socket is the first of the descriptors on the worker's command line.
SAYS = """
import socket

def says(frame):
    words = open("/proc/self/cmdline").read().split("\\0")
    control = int(words[words.index("-c") + 2])
    with socket.socket(fileno=os.dup(control)) as sock:
        socket.send_fds(sock, [frame], [0])
"""
CALL = """
    if data.startswith(b"say "):
        says(data[4:])
    return data.upper()
"""


def frame(body, count=1):
    """A message of the control socket, with one descriptor."""
    return struct.pack("!IB", len(body), count) + body


NONSENSE = {
    "no JSON": frame(b"ready"),
    "no list": frame(b'{"ready": 1}'),
    "no name": frame(b"[1, 2]"),
    "empty": frame(b"[]"),
    "no text": frame(b"\xff\xfe"),
    "words missing": frame(b'["gave", 1]'),
    "no numbers": frame(b'["gave", "x", 0, null]'),
    "endless": frame(b'["gave", Infinity, 0, null]'),
    "none": frame(b'["gave", NaN, 0, null]'),
    "a long number": frame(b'["gave", ' + b"9" * 5000 + b", 0, null]"),
    "deep": frame(b"[" * 20_000),  # in one piece of the stream, as all of these
    "ready twice": frame(b'["ready", "epoll"]'),
    "ends that are none": frame(b'["done", [[1, 2], 3]]'),
    "endless ends": frame(b'["done", [[1e999, 2]]]'),
    "too long": struct.pack("!IB", 2**32 - 1, 0),
}


@pytest.fixture
def server(tmp_path):
    app = APP.replace("    return data.upper()\n", CALL) + SAYS
    with supervised(tmp_path, app=app, workers="1") as server:
        yield server


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("said", NONSENSE)
def test_a_worker_that_talks_nonsense_is_killed_and_replaced(server, said):
    """And the supervisor has kept none of the descriptors that came along."""
    before = descriptors(server.pid)
    (pid,) = server.workers().values()
    server.ask(b"say " + NONSENSE[said])
    server.wait_for(rf"worker 0 \(pid {pid}\) says what no worker says: ")
    server.wait_for(rf"pid {pid}\) has ended after .*: SIGKILL")
    server.wait_for(r"worker 0 \(pid \d+\) serves", 2)
    assert server.ask(b"hello") == b"HELLO"
    wait_until(lambda: descriptors(server.pid) == before)
