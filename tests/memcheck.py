"""A short echo under valgrind's memcheck: `python -m tests.memcheck`.

The server in each handler form and the client, on each backend; lines, large messages,
an abort with output that nobody reads, a selector. What counts is what memcheck finds
with the core in a stack: of the error, or of where its block or its value came from. A
value nobody set, memory out of bounds or freed, a block that nobody can free any more.
The rest is the interpreter's: its compiler's tricks look like errors, and it frees not
everything at its end. So there is no list of its functions here that would have to
follow each version of it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pymux
from pymux import _core

from .util import FORMS, in_form

VALGRIND = [
    "valgrind",
    "-q",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--track-origins=yes",
    "--keep-debuginfo=yes",  # the core is unloaded before leaks are looked for
    "--error-limit=no",
    "--xml=yes",
]
PATIENCE = 60  # seconds, for an answer
# The way into the module: cffi keeps what it makes there for ever.
ENTRIES = {"PyInit__core", "_cffi_init"}


def echo(backend, form):
    handler = in_form(form, bytes.upper)
    lines = pymux.Lines()
    with pymux.Server(
        handler, ("127.0.0.1", 0), framing=lines, backend=backend
    ) as server:
        with pymux.connect(server.address, framing=lines) as client:
            for data in (b"hello", b"", b"x" * 60000):
                client.send(data)
                assert client.recv(timeout=PATIENCE) == data.upper()
            for _ in range(20):
                client.send(b"pipelined")
            for _ in range(20):
                assert client.recv(timeout=PATIENCE) == b"PIPELINED"
        server.call_threadsafe(lambda mux: None)
        assert server.stats().messages_in == 23


def large(backend):
    """A frame in an arena of its own, and one that is refused."""
    framing = pymux.LengthPrefix(max_size=300000)
    with pymux.Server(
        lambda conn, data: data, ("127.0.0.1", 0), framing=framing, backend=backend
    ) as server:
        with pymux.connect(server.address, framing=framing) as client:
            client.send(b"y" * 300000)
            assert client.recv(timeout=PATIENCE) == b"y" * 300000
        with pymux.connect(server.address) as client, contextlib.suppress(OSError):
            client.send(b"\xff" * 8)
            assert client.recv(timeout=PATIENCE) is None


def both_ends(backend):
    """One mux, aborting with output queued; a view outlives it."""
    with pymux.Mux(backend) as mux:
        conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
        conn.send(b"z" * 8000000)
        view = b""
        while not view:
            view = mux.harvest(PATIENCE).data
        conn.abort()
        mux.harvest(0)
    assert bytes(view) == b"z" * len(view)


def select(backend):
    ours, theirs = socket.socketpair()
    with ours, theirs, pymux.Selector(backend) as selector:
        selector.register(ours, selectors.EVENT_READ)
        assert selector.select(0.001) == []
        theirs.send(b"x")
        assert [key.fileobj for key, _ in selector.select(PATIENCE)] == [ours]


def work():
    for backend in pymux.backends():
        for form in FORMS:
            echo(backend, form)
        large(backend)
        both_ends(backend)
        select(backend)


def is_in_the_core(frame):
    return (
        Path(frame.findtext("obj", "")).name == Path(_core.__file__).name
        and frame.findtext("fn") not in ENTRIES
    )


def found_in_the_core(report):
    """memcheck's errors with the core in a stack, in words."""
    for error in ElementTree.parse(report).getroot().iter("error"):
        frames = [*error.iter("frame")]
        if any(map(is_in_the_core, frames)):
            what = error.findtext("what") or error.findtext("xwhat/text")
            places = [
                "    {} ({}:{})".format(
                    *(frame.findtext(tag, "?") for tag in ("fn", "file", "line"))
                )
                for frame in frames
            ]
            yield "\n".join([what, *places])


def main():
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "memcheck.xml")
        # The log is of system calls that memcheck does not know yet.
        files = [f"--xml-file={report}", f"--log-file={folder}/log"]
        code = subprocess.call(
            [*VALGRIND, *files, sys.executable, "-m", __spec__.name, "--bare"],
            env={**os.environ, "PYTHONMALLOC": "malloc"},
        )
        errors = [*found_in_the_core(report)]
    print(*errors, f"{len(errors)} errors in the core", sep="\n")
    return code or bool(errors)


if __name__ == "__main__":
    sys.exit(work() if sys.argv[1:] == ["--bare"] else main())
