"""A real HAProxy (Debian: haproxy) in TCP mode, started and ended."""

import contextlib
import shutil
import socket
import subprocess

import pytest

from . import util

HEAD = """
global
    stats socket {folder}/admin mode 600 level admin expose-fd listeners
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout check 5s
"""
FRONT = """
frontend {name}
    bind {bind}
    unique-id-format {unique_id}
    default_backend to_{name}
backend to_{name}
    server s {server} {options}
"""


class Haproxy:
    """A running HAProxy.

    Args:
        folder: where it keeps its configuration and its admin socket.

    Attributes:
        fronts: (host, port) of each front, by name.
    """

    def __init__(self, folder):
        self.program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
        if self.program is None:
            pytest.skip("needs haproxy")
        self.folder = folder
        self.fronts = {}
        self.text = HEAD.format(folder=folder)
        self.children = []

    def front(self, name, server, options, bind="", unique_id="id-of-this"):
        """Add a front that passes everything on to one server."""
        self.fronts[name] = "127.0.0.1", util.free_port()
        self.text += FRONT.format(
            name=name,
            bind=f"127.0.0.1:{self.fronts[name][1]} {bind}",
            server=server if isinstance(server, str) else "{}:{}".format(*server),
            options=options,
            unique_id=unique_id,
        )

    def start(self, *arguments):
        """Start it, and wait until its fronts listen, and its admin socket."""
        config = self.folder / "haproxy.cfg"
        config.write_text(self.text)
        self.children.append(
            subprocess.Popen(
                [self.program, "-db", "-f", str(config), *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        for address in self.fronts.values():
            util.connect_when_up(address).close()
        util.wait_until((self.folder / "admin").exists)  # it is renamed to that

    def ask(self, line):
        """What the admin socket answers to a line."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.folder / "admin"))
            sock.sendall(line.encode() + b"\n")
            return util.recv_all(sock).decode()

    def status(self, backend, server="s"):
        """What it thinks of a server: "UP", "DOWN", "DRAIN", ..."""
        for line in self.ask("show stat").splitlines():
            row = line.split(",")
            if row[:2] == [backend, server]:
                return row[17]
        raise AssertionError((backend, server))

    def end(self):
        for child in self.children:
            with contextlib.suppress(OSError):
                child.kill()
            child.wait()


@contextlib.contextmanager
def haproxy(folder):
    """A `Haproxy` that is not started, and is ended behind the block."""
    made = Haproxy(folder)
    try:
        yield made
    finally:
        made.end()
