"""nats-server and redis-server, started, killed and stopped; workers beside them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

import pymux

from . import util
from .processes import python

LINES = pymux.Lines(max_size=1 << 20)


class Broker:
    """A real broker at a port of its own.

    Attributes:
        options: what a worker's backplane is to be given.
    """

    def __init__(self, folder, *settings):
        if not shutil.which(self.program):
            pytest.skip(f"needs {self.program}")
        self.port = util.free_port()
        self.address = ["127.0.0.1", self.port]
        self.options = {}
        self._folder = folder
        self._settings = settings
        self._child = None

    def start(self):
        """Start it, and wait until it listens."""
        command = [self.program, *self.arguments(), *self._settings]
        self._child = subprocess.Popen(
            command,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        util.connect_when_up(("127.0.0.1", self.port)).close()

    def send_signal(self, number):
        """Stop it, or let it go on."""
        self._child.send_signal(number)
        if number == signal.SIGSTOP:
            # Until one thread has taken the signal, the others go on.
            _, status = os.waitpid(self._child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)

    def kill(self):
        """End it as a power cut does."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


class RealNats(Broker):
    kind = "nats"
    program = "nats-server"

    def arguments(self):
        return "-a", "127.0.0.1", "-p", str(self.port)

    def protected(self):
        """The settings with a user, and what a worker needs."""
        self._settings = "--user", "me", "--pass", "s3cret"
        self.options = {"user": "me", "password": "s3cret"}

    def impatient(self):
        """A reader that is 1 MiB behind, or for a second, is cut off."""
        (self._folder / "nats.conf").write_text(
            'max_pending: 1048576\nwrite_deadline: "1s"\n'
        )
        self._settings = "-c", "nats.conf"


class RealRedis(Broker):
    kind = "redis"
    program = "redis-server"

    def arguments(self):
        return "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""

    def protected(self):
        self._settings = (
            *("--user", "me", "on", ">s3cret", "&*", "+@all"),
            *("--user", "default", "off"),
        )
        self.options = {"user": "me", "password": "s3cret"}

    def secured(self, papers):
        """TLS at a port of its own, and a Unix socket."""
        certificate, folder = papers.certificate(), self._folder
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        papers.ca.cert_pem.write_to_path(folder / "ca.pem")
        self.address = ["127.0.0.1", util.free_port()]
        self.options = {"cafile": str(folder / "ca.pem")}
        self._settings = (
            *("--tls-port", str(self.address[1]), "--tls-auth-clients", "no"),
            *("--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"),
            *("--tls-ca-cert-file", "ca.pem", "--unixsocket", str(folder / "s")),
        )

    def impatient(self):
        limit = "pubsub", "65536", "0", "0"
        self._settings = "--client-output-buffer-limit", *limit


KINDS = {"nats": RealNats, "redis": RealRedis}


class Listener:
    """A member that notes what it gets, and whether all of it has its place.

    Each sender says `NAME NUMBER ...`, from 0 on. A line `gap N` stands for N of them.
    """

    def __init__(self, port):
        self.client = pymux.connect(("127.0.0.1", port), framing=LINES)
        self.numbers = {}  # name -> numbers, in order of arrival
        self.gaps = []  # (what was the last line, how many)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self):
        with contextlib.suppress(pymux.ConnectionClosed):
            for line in self.client:
                name, number, *_ = line.split()
                if name == b"gap":
                    self.gaps.append(int(number))
                else:
                    self.numbers.setdefault(name.decode(), []).append(int(number))

    @property
    def lost(self):
        return sum(self.gaps)

    def count(self, name):
        return len(self.numbers.get(name, ()))

    def is_in_order(self):
        """Whether each sender's messages came in order, none twice."""
        return all(one == sorted(set(one)) for one in self.numbers.values())

    def close(self):
        self.client.close()
        self._thread.join()


class Worker:
    """A process with a room, and a member that listens."""

    def __init__(self, stack, broker, **options):
        options = {**broker.options, **options}
        where = json.dumps(broker.address)
        self.child = stack.enter_context(
            python("-m", "tests.rooms", broker.kind, where, json.dumps(options))
        )
        self.port = int(self.child.stdout.readline())
        self.heard = Listener(self.port)
        stack.callback(self.heard.close)

    def figures(self):
        """What the worker tells of its group."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def is_connected(self):
        return self.figures()["connected"]

    def send_signal(self, name):
        """Stop the process, or let it go on."""
        os.kill(self.child.pid, getattr(signal, name))

    def say(self, name, numbers, size=0, pace=lambda: None):
        """Have a member of its own say numbered messages."""
        with pymux.connect(("127.0.0.1", self.port), framing=LINES) as client:
            sends = threading.Thread(target=lambda: [None for _ in client])
            for number in numbers:
                client.send(b"%s %d %s" % (name.encode(), number, b"x" * size))
                pace()
            client.send_eof()
            sends.start()
            sends.join()


@contextlib.contextmanager
def running(broker, count, **options):
    """A broker and so many workers that it has subscribed."""
    with contextlib.ExitStack() as stack:
        stack.callback(broker.kill)
        broker.start()
        workers = [Worker(stack, broker, **options) for _ in range(count)]
        for worker in workers:
            util.wait_until(worker.is_connected, timeout=30)
        yield workers
