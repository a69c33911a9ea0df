"""Two hosts in network namespaces of their own, and a bad link between them.

A socket stays in the namespace in which it was made, and an accepted one is in its
listener's; so client and server may be of this process, whose thread only steps
`inside` to make theirs. What the machine lacks is a skip that says why.

Two kinds of link: `veth`, a pair of Ethernet devices, with `tc netem` where the kernel
has it; `relay`, a pair of TUN devices with relay.py between them, which delays, loses
and reorders packets wherever there is TUN.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading

import pytest

from . import util
from .processes import python

CLONE_NEWNET = 0x40000000
HOSTS = ("10.93.0.1", "10.93.0.2")
_numbers = iter(range(1, 1 << 20))


def ip(*words):
    """Run `ip words...`; a CalledProcessError with what it said."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def why_not():
    """Why this machine has no namespaces for us, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if not shutil.which("ip"):
        return "needs ip (iproute2)"
    if os.geteuid():
        return "needs root"
    name = f"pymux-try-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return None


def set_namespace(path):
    """Move this thread into a network namespace."""
    with open(path) as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


class Link:
    """Two hosts and the link between them."""

    def __init__(self, mtu):
        self.mtu = mtu
        tag = f"{os.getpid()}-{next(_numbers)}"
        self.names = f"pymux-a-{tag}", f"pymux-b-{tag}"
        self.devices = ("pmx0", "pmx1")

    @contextlib.contextmanager
    def inside(self, host):
        """Sockets that this thread makes in the block are host 0's, or host 1's."""
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        with open(own) as before:
            set_namespace(f"/run/netns/{self.names[host]}")
            try:
                yield
            finally:
                set_namespace(f"/proc/self/fd/{before.fileno()}")

    def on(self, host, *words):
        """Run `ip words...` on a host."""
        return ip("-n", self.names[host], *words)

    def connect(self, address, timeout=60):
        """A plain blocking socket from host 0."""
        with self.inside(0):
            return util.connect(address, timeout)

    def bring_up(self):
        """Give the devices their addresses."""
        for host, (device, address) in enumerate(zip(self.devices, HOSTS)):
            self.on(host, "link", "set", "lo", "up")
            self.on(host, "addr", "add", f"{address}/24", "dev", device)
            self.on(host, "link", "set", device, "mtu", str(self.mtu), "up")


class Veth(Link):
    """A cable between two Ethernet devices."""

    def open(self, stack, **weather):
        """Lay the cable; with weather, by netem."""
        a, b = self.devices
        words = ("link", "add", a, "type", "veth", "peer", "name", b)
        ip("-n", self.names[0], *words, "netns", self.names[1])
        self.bring_up()
        if not weather:
            return
        if not shutil.which("tc"):
            pytest.skip("needs tc (iproute2)")
        milliseconds = f"{weather['delay'] * 1000}ms"
        netem = ["delay", milliseconds, "loss", f"{weather['loss'] * 100}%"]
        netem += ["reorder", f"{weather['reorder'] * 100}%"]  # sent at once
        for host, device in enumerate(self.devices):
            words = ["-n", self.names[host], "qdisc", "add", "dev", device, "root"]
            done = subprocess.run(
                ["tc", *words, "netem", *netem], capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"no netem in this kernel: {done.stderr.strip()}")

    def cut(self):
        """Pull the cable out at host 1."""
        self.on(1, "link", "set", self.devices[1], "down")

    def mend(self):
        """Plug it in again."""
        self.on(1, "link", "set", self.devices[1], "up")


class Relay(Link):
    """Every packet goes through relay.py."""

    def open(self, stack, delay=0.0, loss=0.0, reorder=0.0):
        """Start the relay, which makes the devices."""
        if not os.path.exists("/dev/net/tun"):
            pytest.skip("no /dev/net/tun here")
        child = stack.enter_context(
            python("-m", "tests.relay", *self.names, delay, loss, reorder)
        )
        self.child = child
        said = self.child.stdout.readline()
        if said != "ready\n":
            child.kill()
            pytest.skip(f"no TUN here: {child.stderr.read().strip()[-200:]}")
        self.bring_up()

    def tell(self, what):
        """Have the relay do something, and wait until it does."""
        self.child.stdin.write(what + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == what + "\n"

    def cut(self):
        """Lose every packet, in silence: a host vanished, a router went away."""
        self.tell("cut")

    def mend(self):
        """Let them pass again."""
        self.tell("mend")


@contextlib.contextmanager
def link(kind, mtu=1500, **weather):
    """A `Link` of a kind: "veth" or "relay". Weather: delay (seconds), loss, reorder
    (shares of the packets)."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        made = {"veth": Veth, "relay": Relay}[kind](mtu)
        for name in made.names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        try:
            made.open(stack, **weather)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no {kind} link here: {error.stderr.strip()}")
        yield made
