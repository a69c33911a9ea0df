"""examples/rooms.py: rooms in one worker, and in several over a real broker."""

import contextlib
import os
import pathlib
import signal

import pytest

import pymux

from . import util
from .brokers import KINDS
from .processes import python

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "rooms.py"
LINES = pymux.Lines()

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="stopped by a signal"),
]


@contextlib.contextmanager
def chat(monkeypatch, workers=1, broker=""):
    """(the process, its port) of the example."""
    monkeypatch.setenv("BROKER", broker)
    port = util.free_port()
    with python(EXAMPLE, port, workers) as child:
        assert child.stdout.readline() == f"rooms on port {port}\n"
        util.connect_when_up(("127.0.0.1", port)).close()
        yield child, port
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0


@contextlib.contextmanager
def member(port, name):
    """A client that is in the hall."""
    address = ("127.0.0.1", port)
    with pymux.connect(address, framing=LINES, timeout=20) as one:
        assert one.recv() == b"what is your name?"
        one.send(name)
        assert one.recv() == name + b" has come to hall"
        yield one


def hears(one, wanted):
    """Wait for a line among others."""
    while (line := one.recv()) != wanted:
        assert line is not None


def test_a_worker_alone_has_rooms(monkeypatch):
    with (
        chat(monkeypatch) as (_, port),
        member(port, b"Ann") as ann,
        member(port, b"Bob") as bob,
    ):
        hears(ann, b"Bob has come to hall")
        bob.send(b"hello")
        hears(ann, b"Bob: hello")
        bob.send(b"/join attic")
        hears(ann, b"Bob has left hall")
        hears(bob, b"Bob has come to attic")
        bob.send(b"alone")
        hears(bob, b"Bob: alone")
        ann.send(b"/join attic")
        hears(bob, b"Ann has come to attic")


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_members_of_several_workers_hear_each_other_also_after_a_restart(
    monkeypatch, kind, tmp_path
):
    broker = KINDS[kind](tmp_path)
    broker.start()
    try:
        url = f"{kind}://127.0.0.1:{broker.port}"
        with (
            chat(monkeypatch, 2, url) as (child, port),
            contextlib.ExitStack() as stack,
        ):
            names = [b"M%d" % k for k in range(8)]
            members = [stack.enter_context(member(port, name)) for name in names]
            all_hear_all(members, names, b"before")
            child.send_signal(signal.SIGHUP)
            all_hear_all(members, names, b"meanwhile")
            all_hear_all(members, names, b"after")
            for one in members:
                one.close()
    finally:
        broker.kill()


def all_hear_all(members, names, text):
    """Each says something until each other one has heard it: a worker hears another
    once the broker has subscribed it."""
    for one, name in zip(members, names):
        said = b"%s: %s" % (name, text)
        for other in members:
            for _ in range(20):
                one.send(text)
                try:
                    hears_soon(other, said)
                    break
                except TimeoutError:
                    pass
            else:
                raise AssertionError((name, text))


def hears_soon(one, wanted):
    """Wait a second for a line among others."""
    while (line := one.recv(timeout=1)) != wanted:
        assert line is not None


def test_several_workers_without_a_broker_are_refused(monkeypatch):
    monkeypatch.setenv("BROKER", "")
    with python(EXAMPLE, 0, 2) as child:
        _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert err == "2 workers need a BROKER, to hear each other\n"
