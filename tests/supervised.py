"""Servers with workers in tests: the supervisor's process, its log, its workers."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pymux

PATIENCE = 40  # seconds, for a machine that is busy

# Answers in capitals; some messages do something else first.
APP = """
import os, signal, sys, time

VERSION = 1


def handler(conn, data):
    if data == b"pid":
        return b"%d" % os.getpid()
    if data == b"version":
        return b"%d" % VERSION
    if data == b"exit":
        os._exit(3)
    if data == b"abort":
        os.abort()
    if data == b"hang":
        print(os.getpid(), "hangs", file=sys.stderr, flush=True)
        time.sleep(3600)
    return data.upper()
"""


class Supervised:
    """A server with workers in a process of its own.

    Attributes:
        address: where it listens.
        pid: of the supervisor.
        log: its lines so far, on standard error.
    """

    def __init__(self, folder, *arguments, env=None, before=()):
        here = Path(__file__).parent.parent
        paths = os.pathsep.join([str(here), *filter(None, sys.path)])
        self.folder = folder
        self.log = []
        self.more = threading.Condition()
        self.process = subprocess.Popen(
            [*before, sys.executable, *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A module that is written anew within a second has the same time, and may
            # have the same size: its old bytecode would be taken.
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "PYTHONDONTWRITEBYTECODE": "1",
                **(env or {}),
            },
        )
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self.more:
                self.log.append(line.rstrip("\n"))
                self.more.notify_all()
        with self.more:
            self.more.notify_all()

    def wait_for(self, pattern, count=1, since=0):
        """Wait until the log has that many lines with a pattern; the last match."""
        by = time.monotonic() + PATIENCE
        with self.more:
            while True:
                found = [re.search(pattern, line) for line in self.log[since:]]
                found = [match for match in found if match]
                if len(found) >= count:
                    return found[count - 1]
                left = by - time.monotonic()
                assert left > 0, (pattern, self.log)
                assert self.reader.is_alive(), (pattern, self.log)
                self.more.wait(left)

    def listen(self):
        """Wait until the server listens; returns self."""
        found = self.wait_for(r"listening on (\S+) with (\d+) workers")
        where = found[1].split(",")[0]
        if where.startswith("unix:"):
            self.address = where.removeprefix("unix:")
        else:
            host, _, port = where.rpartition(":")
            self.address = host, int(port)
        return self

    def signal(self, number):
        self.process.send_signal(number)

    def roll(self, count):
        """SIGHUP; wait until that many workers have been replaced."""
        since = len(self.log)
        self.signal(signal.SIGHUP)
        self.wait_for("takes over from", count, since)

    def ask(self, data, timeout=PATIENCE):
        """The answer to one message on a connection of its own; None: it ended."""
        with pymux.connect(self.address, timeout=timeout) as client:
            client.send(data)
            return client.recv()

    def workers(self):
        """The process numbers of the workers, as the log tells."""
        serving = {}
        for line in self.log:
            if found := re.search(r"worker (\d+) \(pid (\d+)\) serves", line):
                serving[int(found[1])] = int(found[2])
        return serving

    def finish(self, number=None):
        """Wait for the end, perhaps after a signal: (exit code, standard output)."""
        if number is not None:
            self.signal(number)
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        out = self.process.stdout.read()
        self.reader.join(PATIENCE)
        return code, out

    def close(self):
        self.process.kill()  # its workers drain by themselves, unless they are stuck
        for pid in self.workers().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()


SCRIPT = """
import json
import logging

import pymux
{before}

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    stats = pymux.serve({handler}, {address!r}, {options})
    print(json.dumps([stats.accepted, stats.messages_in, stats.closed]))
"""


@contextlib.contextmanager
def supervised(
    folder,
    *,
    app=APP,
    handler="'app:handler'",
    address=("127.0.0.1", 0),
    before="",
    env=None,
    **options,
):
    """A script that serves with workers, which has begun to listen.

    Args:
        app: the text of the module `app`.
        handler, options: what `serve` is called with, as text.
        before: what the script does first.
        env: more environment.
    """
    (folder / "app.py").write_text(app)
    options.setdefault("workers", "2")
    text = ", ".join(f"{name}={value}" for name, value in options.items())
    script = SCRIPT.format(
        before=before, handler=handler, address=address, options=text
    )
    (folder / "main.py").write_text(script)
    server = Supervised(folder, "main.py", env=env)
    try:
        yield server.listen()
    finally:
        server.close()


def figures(out):
    """(accepted, messages in, closed) that the script printed."""
    return tuple(json.loads(out))


def is_alive(pid):
    """Whether a process runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return state != "Z"


def children_of(pid):
    """The numbers of a process's children, also of those that have ended (Linux)."""
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path) as file:
        return [int(one) for one in file.read().split()]


def wait_until(condition):
    """Wait until a condition holds."""
    by = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < by
        time.sleep(0.02)
    return found
