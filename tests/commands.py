"""The command line in tests: what a process prints, and how it ends."""

import contextlib
import os
import socket
import subprocess

from . import inside, util

HANDLERS = """
import pymux


def function(conn, data):
    return data[::-1]


async def coroutine(conn):
    async for data in conn:
        conn.send(data[::-1])


@pymux.batched
def batch(batch):
    batch.reply([data[::-1] for data in batch.messages])


class Reverse:
    def received(self, conn, data):
        return data[::-1]


obj = Reverse()
number = 5


def loud(conn, data):
    raise SystemExit("enough")
"""


def write_module(directory, text=HANDLERS, name="handlers"):
    (directory / f"{name}.py").write_text(text, encoding="utf-8")


def ask(address, data, answer_size=None):
    """What a server answers to some bytes."""
    with util.connect(address) as sock:
        sock.sendall(data)
        return util.recv_exactly(sock, answer_size or len(data))


def finish(process, signum=None):
    """Wait for the end, after a signal; (exit code, stdout, stderr)."""
    if signum is not None:
        process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    return process.returncode, (out or b"").decode(), err.decode()


def one_line(process):
    """Exit code and the one line of a command that failed."""
    code, out, err = finish(process)
    assert "Traceback" not in err
    assert out == ""
    assert err.count("\n") == 1, err
    return code, err.rstrip("\n")


@contextlib.contextmanager
def broken_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@contextlib.contextmanager
def connected(pymux_command, **options):
    """(process of `pymux connect`, plain socket at the other end)."""
    options.setdefault("stdin", subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = inside.format_address(listener.getsockname())
        process = pymux_command("connect", address, **options)
        listener.settimeout(30)
        peer, _ = listener.accept()
        peer.settimeout(30)
        with peer:
            yield process, peer
