"""Handshakes without end: full and resumed ones, and such as fail.

    python -m tests.handshakes [--count 100000] [--engine NAME] [--backend NAME]

The server is a process of its own, on the loopback; so many clients shake hands with
it, in turns of the kinds below, and then a tenth as many that a mux of this process
makes. It ends with figures and 0, or with 1 where

- the server counted other handshakes, resumed ones or failures than there were;
- the memory or the descriptors of either process grew behind the first fifth;
- a connection, a byte queued or a buffer was left at the end.
"""

import argparse
import contextlib
import os
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

import pymux

from . import flooding, inside, util
from .flood_server import descriptors, resident
from .tls import NAME, Papers, ends, secure

KIB, MIB = 1 << 10, 1 << 20
GROWTH = 2 * MIB  # bytes that an allocator may still take behind the first fifth
THREADS = 4  # of clients
TOGETHER = 20  # outgoing connections at once
ENGINES = {"adopted": "adopt", "portable": "portable"}
LINE = b"hello\n"

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@contextlib.contextmanager
def engine(name):
    """For a block: this engine, in this process and in its children."""
    before = os.environ.get("PYMUX_TLS")
    os.environ["PYMUX_TLS"] = ENGINES[name]
    inside.choose_tls_again()
    try:
        inside.tls_engine()
        yield
    finally:
        del os.environ["PYMUX_TLS"]
        if before is not None:
            os.environ["PYMUX_TLS"] = before
        inside.choose_tls_again()


class Clients:
    """The clients of one thread: a method each kind."""

    KINDS: ClassVar = {  # (handshakes, resumed, failed) of each
        "full": (1, 0, 0),
        "resumed": (2, 1, 0),
        "full_of_1_2": (1, 0, 0),
        "resumed_of_1_2": (2, 1, 0),
        "resets": (1, 0, 0),
        "cuts": (1, 0, 0),
        "distrusts": (0, 0, 1),
        "talks_plainly": (0, 0, 1),
        "leaves_at_once": (0, 0, 1),
        "leaves_in_its_hello": (0, 0, 1),
        "leaves_behind_its_hello": (0, 0, 1),
    }
    A_ROUND = tuple(map(sum, zip(*KINDS.values())))

    def __init__(self, address, papers):
        self.address = address
        self.latest, self.older = (
            papers.client(minimum_version=version, maximum_version=version)
            for version in (V13, V12)
        )
        self.stranger = Papers().client()
        self.hello = hello(papers)

    def round(self):
        """One of each kind."""
        for kind in self.KINDS:
            getattr(self, kind)()

    def talk(self, context, session=None):
        """A socket that has been answered."""
        sock = secure(self.address, context, session=session)
        sock.sendall(LINE)
        assert util.recv_exactly(sock, len(LINE)) == LINE
        assert sock.session_reused is (session is not None)
        return sock

    def twice(self, context):
        """A full handshake, and one that resumes its session."""
        first = self.talk(context)
        session = first.session
        ends(first)
        ends(self.talk(context, session))

    def full(self):
        ends(self.talk(self.latest))

    def resumed(self):
        self.twice(self.latest)

    def full_of_1_2(self):
        ends(self.talk(self.older))

    def resumed_of_1_2(self):
        self.twice(self.older)

    def resets(self):
        util.reset(self.talk(self.latest))

    def cuts(self):
        self.talk(self.latest).close()

    def distrusts(self):
        with contextlib.suppress(ssl.SSLCertVerificationError):
            secure(self.address, self.stranger)
            raise AssertionError("it has trusted a stranger")

    def talks_plainly(self):
        self.says(b"GET / HTTP/1.1\r\n\r\n")

    def leaves_at_once(self):
        self.says(b"", 0)

    def leaves_in_its_hello(self):
        self.says(self.hello[:100], 0)

    def leaves_behind_its_hello(self):
        self.says(self.hello, 0)

    def says(self, data, answers=1):
        """Send bytes, and leave; behind the end of what comes, if anything is to."""
        with util.connect(self.address) as sock:
            sock.sendall(data)
            if answers:
                util.until_end(sock)


def hello(papers):
    """What a client says first."""
    outgoing = ssl.MemoryBIO()
    made = papers.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    return outgoing.read()


class Outgoing:
    """The clients of a mux of this process; each third finds a stranger."""

    A_ROUND = (2, 0, 1)  # for each three

    def __init__(self, address, papers, backend):
        self.address = address
        self.mux = pymux.Mux(backend)
        self.context = papers.client()
        self.stranger = Papers().client()

    def rounds(self, count):
        """Three connections a round, several rounds together."""
        while count > 0:
            part = min(count, TOGETHER)
            self.together(part)
            count -= part

    def together(self, rounds):
        contexts = [self.context, self.context, self.stranger] * rounds
        conns = []
        for context in contexts:
            conn = self.mux.connect(
                self.address,
                framing=pymux.Lines(),
                ssl=context,
                server_hostname=NAME,
            )
            conn.send(LINE[:-1])
            conns.append((conn, context))
        acc = util.harvest_until(
            self.mux, lambda acc: len(acc.messages) + len(acc.closed) == len(conns), 60
        )
        assert acc.payloads == [LINE[:-1]] * 2 * rounds
        for conn, context in conns:
            if context is self.stranger:
                assert isinstance(acc.error(conn), ssl.SSLCertVerificationError)
            else:
                conn.close()
        util.harvest_until(
            self.mux, lambda acc: len(acc.closed) == len(conns), 60, into=acc
        )


def of_threads(server, papers, rounds):
    """Rounds of every kind, by threads."""
    left = iter(range(rounds))
    wrong = []

    def work():
        clients = Clients(server.address, papers)
        try:
            for _ in left:  # the GIL makes a step of it one
                clients.round()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(THREADS, rounds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


class Growth:
    """What a process has at the end of each part beyond what it had before it."""

    def __init__(self, name):
        self.name = name
        self.points = []  # (bytes resident, descriptors)

    def note(self, *point):
        self.points.append(point)

    def check(self):
        """The growth behind the first part in bytes; an AssertionError if it is
        one."""
        (first, before), (last, after) = self.points[0], self.points[-1]
        shown = ", ".join(f"{point[0] / MIB:.1f}" for point in self.points)
        assert before == after, f"{self.name}: {after - before} more descriptors"
        # PyPy gives back what it likes, as sanitizers do.
        exact = sys.implementation.name == "cpython"
        if exact and "asan" not in os.environ.get("LD_PRELOAD", ""):
            assert last - first <= GROWTH, f"{self.name} grew: {shown} MiB"
        return f"{self.name} MiB", shown


@contextlib.contextmanager
def tls_server(papers, backend, **options):
    """A `flooding.Server` of lines over TLS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.pem"
        made = papers.certificate()
        made.private_key_and_cert_chain_pem.write_to_path(path)
        options.setdefault("tls", {})["certificate"] = str(path)
        with flooding.server(backend, **options) as server:
            yield server


def handshakes(count, backend=None):
    """Shake hands about so often; figures, or an AssertionError."""
    papers = Papers()
    full, resumed, failed = Clients.A_ROUND
    rounds = max(5, round(count / (full + failed)) // 5 * 5)
    outgoing = max(5, rounds * (full + failed) // 30 // 5 * 5)
    theirs, ours = Growth("the server"), Growth("this process")
    begun = time.monotonic()
    with tls_server(papers, backend) as server:
        for part in range(1, 6):
            of_threads(server, papers, rounds // 5)
            all_have_ended(server, part * (rounds // 5) * (full + failed))
            figures = server.figures("collect")
            theirs.note(figures["resident"], figures["descriptors"])
        seconds = time.monotonic() - begun
        expected = {
            "tls_handshakes": rounds * full,
            "tls_resumed": rounds * resumed,
            "tls_failed": rounds * failed,
        }
        check(expected, figures)
        for _ in range(5):
            mine = Outgoing(server.address, papers, backend)
            with mine.mux:
                mine.rounds(outgoing // 5)
            del mine
            util.collect()
            ours.note(resident(), descriptors())
        all_have_ended(server, rounds * (full + failed) + outgoing * 3)
        figures = server.figures("collect")
        expected["tls_handshakes"] += outgoing * 2
        expected["tls_failed"] += outgoing
        check(expected, figures)
    for what in ("connections", "queued", "buffers"):
        assert not figures[what], f"{figures[what]} {what} were left"
    assert figures["accepted"] == figures["closed"]
    return {
        "handshakes": rounds * full,
        "of them resumed": rounds * resumed,
        "failed": rounds * failed,
        "outgoing": outgoing * 2,
        "outgoing that failed": outgoing,
        "seconds": f"{seconds:.1f}",
        "server's ms of processor each": "{:.3f}".format(
            1000 * figures["cpu"] / figures["accepted"]
        ),
        **dict([theirs.check(), ours.check()]),
    }


def all_have_ended(server, count):
    """Wait until the server has accepted so many in all, and has none left."""
    server.until(lambda f: f["accepted"] == count and not f["connections"])


def check(expected, figures):
    """Assert that the server has counted as the clients have."""
    found = {name: figures[name] for name in expected}
    assert found == expected, f"{found}, but {expected} expected"


def main():
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.handshakes")
    parser.add_argument("--count", type=int, default=100_000, help="of each engine")
    parser.add_argument("--engine", choices=ENGINES, help="both")
    parser.add_argument("--backend", help="one of pymux.backends(); the best")
    arguments = parser.parse_args()
    code = 0
    for name in [arguments.engine] if arguments.engine else ENGINES:
        print(name, flush=True)
        try:
            with engine(name):
                figures = handshakes(arguments.count, arguments.backend)
        except pymux.BackendUnavailable as error:
            print(f"  skipped: {error.strerror}")
        except AssertionError as error:
            print(f"  FAILED: {error}")
            code = 1
        else:
            for what, figure in figures.items():
                shown = f"{figure:,}" if isinstance(figure, int) else figure
                print(f"  {what:<30} {shown}")
    return code


if __name__ == "__main__":
    sys.exit(main())
