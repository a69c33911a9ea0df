"""examples/gunicorn: a worker class, under gunicorn's own arbiter."""

import contextlib
import os
import pathlib
import signal

import pytest

import pymux

from . import util
from .processes import python

FOLDER = pathlib.Path(__file__).parent.parent / "examples" / "gunicorn"
LINES = pymux.Lines()

pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="gunicorn is for Unix"),
]


@pytest.fixture(autouse=True)
def _installed():
    pytest.importorskip("gunicorn")


@contextlib.contextmanager
def arbiter(application, *options):
    """(the arbiter's process, its port) once it serves; ended by SIGTERM."""
    port = util.free_port()
    command = ["-m", "gunicorn", "-k", "pymux_worker.LinesWorker", "-b"]
    command += [f"127.0.0.1:{port}", *options, application]
    with python(*command, cwd=FOLDER) as child:
        util.connect_when_up(("127.0.0.1", port)).close()
        yield child, port
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def client(port):
    return pymux.connect(("127.0.0.1", port), framing=LINES, timeout=20)


def test_an_object_serves_under_gunicorn():
    with arbiter("app:Chat") as (_, port), client(port) as ann, client(port) as bob:
        ann.send(b"join")
        assert ann.recv() == b"join"
        bob.send(b"hello")
        heard = [bob.recv()]
        if heard == [b"join"]:  # it was there already
            heard = [bob.recv()]
        assert heard == [b"hello"]
        assert ann.recv() == b"hello"


def numbers(port, count):
    """The processes that answer so many new connections. One that a worker accepts just
    before it drains is closed without an answer, and a client connects again."""
    found = []
    while len(found) < count:
        with contextlib.suppress(ConnectionError), client(port) as one:
            one.send(b"hello")
            answer = one.recv()
            if answer is not None:
                number, word = answer.split()
                assert word == b"hello"
                found.append(int(number))
    return set(found)


def test_workers_share_the_socket_and_are_replaced_by_hup():
    with arbiter("app:who", "-w", "2", "--graceful-timeout", "5") as (child, port):
        first = numbers(port, 20)
        with client(port) as one:
            one.send(b"before")
            assert one.recv().endswith(b" before")
            child.send_signal(signal.SIGHUP)
            assert one.recv() is None  # drained: answered, then closed
        util.wait_until(lambda: not numbers(port, 1) & first, timeout=20)


def test_a_worker_that_is_killed_is_replaced():
    with arbiter("app:who") as (_, port):
        (first,) = numbers(port, 3)
        os.kill(first, signal.SIGKILL)
        (second,) = numbers(port, 3)
        assert first != second


def test_a_worker_whose_handler_is_stuck_is_killed(tmp_path):
    (tmp_path / "stuck.py").write_text(
        "import os, time\n"
        "def handler(conn, line):\n"
        "    if line == b'stuck':\n"
        "        time.sleep(600)\n"
        "    return b'%d' % os.getpid()\n"
    )
    options = "--timeout", "2", "--pythonpath", str(tmp_path)
    with arbiter("stuck:handler", *options) as (_, port):
        with client(port) as one:
            one.send(b"who")
            first = one.recv()
            one.send(b"stuck")
            with contextlib.suppress(pymux.ConnectionClosed):
                assert one.recv() is None
        with client(port) as one:
            one.send(b"who")
            assert one.recv() != first


def test_an_interrupt_ends_it_at_once():
    options = "--graceful-timeout", "600"
    with arbiter("app:who", *options) as (child, port), client(port) as one:
        one.send(b"hello")
        one.recv()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
