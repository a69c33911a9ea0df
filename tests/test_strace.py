"""How many system calls a message costs, as `strace -c` counts them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from . import util

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on PATH"),
    pytest.mark.skipif(
        "asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan makes calls of its own"
    ),
]

CLIENTS = 100
SERVER = """
import dataclasses, json, os, sys
import pymux

print(os.getpid())
address = ("127.0.0.1", int(sys.argv[1]))
stats = pymux.serve(lambda conn, data: data.upper(), address, backend=sys.argv[2])
print(json.dumps(dataclasses.asdict(stats)))
"""


def ping_pong(backend, counts, rounds):
    """({system call: how often}, figures) of a server that answered all those rounds.

    In each round every client sends a message, and then every client gets its answer.
    """
    address = ("127.0.0.1", util.free_port())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-u", "-c", SERVER, str(address[1]), backend]
    with (
        subprocess.Popen(
            ["strace", "-c", "-f", "-o", counts, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            env=env,
        ) as strace,
        contextlib.ExitStack() as stack,
    ):
        line = strace.stdout.readline()
        if not line:
            pytest.skip("strace may not trace here: " + strace.stderr.read())
        try:
            first = stack.enter_context(util.connect_when_up(address))
            socks = [first] + [
                stack.enter_context(util.connect(address)) for _ in range(CLIENTS - 1)
            ]
            for _ in range(rounds):
                for sock in socks:
                    sock.sendall(b"hello")
                for sock in socks:
                    assert util.recv_exactly(sock, 5) == b"HELLO"
        finally:
            os.kill(int(line), signal.SIGINT)
        out, err = strace.communicate(timeout=20)
    assert err == ""
    return read_counts(counts), json.loads(out)


def read_counts(path):
    """{system call: how often} from the table that strace wrote."""
    with open(path) as file:
        rows = [line.split() for line in file]
    # Columns: % time, seconds, usecs/call, calls, perhaps errors, name.
    calls = {row[-1]: int(row[3]) for row in rows if row and row[0][0].isdigit()}
    calls.pop("total", None)
    return calls


def test_a_message_costs_two_system_calls_and_a_turn_a_few(backend, tmp_path):
    """More rounds over the same connections: what they add is what messages cost."""
    few, few_stats = ping_pong(backend, tmp_path / "few", 2)
    many, many_stats = ping_pong(backend, tmp_path / "many", 22)
    added = {name: many[name] - few.get(name, 0) for name in many}
    added.pop("ioctl", None)  # the stop asks whether peers have acknowledged its end
    messages = many_stats["messages_in"] - few_stats["messages_in"]
    turns = many_stats["harvests"] - few_stats["harvests"]
    assert messages == 20 * CLIENTS
    assert sum(added.values()) <= 2 * messages + 3 * max(turns, 0) + 50, added
    # A partial send or a pause may need one; a message never does.
    assert added.get("epoll_ctl", 0) <= CLIENTS / 10, added
