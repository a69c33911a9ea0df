"""A server in another process that takes connections: the heir of tests.

Run as a program it serves one of FORMS with one of FRAMINGS and takes what comes by the
channel. What it says goes to stdout, a line each; it ends with its stdin.
"""

import contextlib
import os
import select
import signal
import socket
import sys

import pymux

from . import inside, processes
from .util import wait_until

LARGE = 32 << 20
FRAMINGS = {
    "raw": None,
    "lines": pymux.Lines(max_size=1 << 20),
    "prefix": pymux.LengthPrefix(4, max_size=LARGE),
}
LIMITS = pymux.Limits(max_output=1 << 28)


def upper(conn, data):
    return data.upper()


class Counts:
    """Answers with the number of the message, which moves along."""

    def opened(self, conn):
        conn.state = 0

    def received(self, conn, data):
        conn.state += 1
        return b"%d" % conn.state

    def leaving(self, conn):
        return b"%d" % conn.state

    def taken(self, conn, state):
        conn.state = int(state)


@pymux.batched
def batch(batch):
    batch.reply([data.upper() for data in batch.messages])


FORMS = {"function": upper, "batch": batch, "object": Counts()}


def server(form, framing):
    """A started server."""
    where = ("127.0.0.1", 0)
    made = pymux.Server(FORMS[form], where, framing=FRAMINGS[framing], limits=LIMITS)
    return made.start()


class Heir:
    """A process that takes the connections of a server of this one.

    Attributes:
        sock: the giver's end of the channel.
    """

    def __init__(self, child, sock):
        self.child = child
        self.sock = sock

    def says(self):
        """The next line that it says."""
        return self.child.stdout.readline().strip()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        """Let it stand still until `go_on`; it has said hello."""
        assert select.select([self.sock], [], [], 30)[0]
        self.child.send_signal(signal.SIGSTOP)
        # Until one thread has taken the signal, the others go on.
        _, status = os.waitpid(self.child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self):
        self.child.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def heir(form="function", framing="lines", descriptors=0):
    """An `Heir`, which serves and waits for its giver.

    Args:
        descriptors: how many it may open beyond what it needs itself; 0: as many as
            this process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    words = "-m", "tests.heirs", theirs.fileno(), form, framing, descriptors
    with ours, processes.python(*words, pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        assert child.stdout.readline() == "serving\n", child.stderr.read()
        yield Heir(child, ours)


def limit_descriptors(more):
    """Let this process open only so many more."""
    import resource

    used = len(os.listdir("/proc/self/fd")) - 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))


def main(channel, form, framing, descriptors):
    made = server(form, framing)
    sock = socket.socket(fileno=int(channel))
    if int(descriptors):
        limit_descriptors(int(descriptors))
    print("serving", flush=True)
    taker = inside.Taker(made, sock)
    taker.wait()
    print(taker.taken, taker.refused, taker.complete, flush=True)
    sys.stdin.read()
    wait_until(lambda: not made.stats().connections, 20)
    made.stop(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
