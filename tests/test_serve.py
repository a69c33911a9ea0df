"""serve: until a signal, which drains it; a second one resets."""

import json
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

import pymux

from . import util
from .processes import python


def test_run_installs_no_signal_handlers(backend, tmp_path):
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    during = []

    def handler(conn, data):
        during.extend(signal.getsignal(number) for number in signals)
        server.stop()

    def client():
        with util.connect_when_up(tmp_path / "s") as sock:
            sock.sendall(b"go")
            util.recv_all(sock)

    server = pymux.Server(handler, tmp_path / "s", backend=backend)
    thread = threading.Thread(target=client)
    thread.start()
    server.run()
    thread.join(10)
    assert during == before


def test_serve_elsewhere_than_in_the_main_thread_touches_no_signal(backend, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    raised = []

    def handler(conn, data):
        raised.append(signal.getsignal(signal.SIGINT))
        raise SystemExit

    def serve():
        try:
            pymux.serve(handler, tmp_path / "s", backend=backend)
        except SystemExit as error:
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with util.connect_when_up(tmp_path / "s") as sock:
        sock.sendall(b"go")
        util.until_end(sock)
    thread.join(10)
    assert raised[0] is before
    assert isinstance(raised[1], SystemExit)


SERVE = """
import dataclasses, json, os, signal, socket, sys
import pymux

path, backend, size = sys.argv[1:]
ends = socket.socketpair()
ends[0].setblocking(False)
handlers = {
    signal.SIGINT: lambda *args: None,
    signal.SIGTERM: lambda *args: None,
}
for number, handler in handlers.items():
    signal.signal(number, handler)
wakeup = ends[0].fileno()
signal.set_wakeup_fd(wakeup)
stats = pymux.serve(
    lambda conn, data: b"x" * int(size),
    path,
    backend=backend,
    drain_timeout=60,
)
restored = [signal.getsignal(number) is h for number, h in handlers.items()]
restored.append(signal.set_wakeup_fd(-1) == wakeup)
print(json.dumps([restored, type(stats).__name__, dataclasses.asdict(stats)]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_serve_which_returns_its_figures(backend, tmp_path, number):
    path = tmp_path / "s"
    with python("-c", SERVE, path, backend, 1 << 20) as child:
        with util.connect_when_up(path) as sock:
            sock.sendall(b"go")
            util.recv_exactly(sock, 1)  # the rest is for the drain to send
            child.send_signal(number)
            util.wait_until(lambda: not path.exists())
            assert len(util.recv_all(sock)) == (1 << 20) - 1
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    restored, kind, stats = json.loads(out)
    assert restored == [True, True, True]
    assert kind == "Stats"
    assert (stats["accepted"], stats["reset"]) == (1, 0)
    assert stats["bytes_out"] == 1 << 20


def test_a_second_signal_resets_at_once(backend, tmp_path):
    path = tmp_path / "s"
    with (
        python("-c", SERVE, path, backend, 1 << 20) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"go")
        util.recv_exactly(sock, 1)
        child.send_signal(signal.SIGINT)
        util.wait_until(lambda: not path.exists())
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    restored, _, stats = json.loads(out)
    assert restored == [True, True, True]
    assert (stats["connections"], stats["reset"]) == (0, 1)


BUSY = """
import sys
import pymux

pymux.serve(lambda conn, data: data, sys.argv[1], backend=sys.argv[2], drain_timeout=1)
"""


def test_a_signal_ends_serve_promptly_under_load(backend, tmp_path):
    path = tmp_path / "s"
    stop = threading.Event()

    def client():
        try:
            with util.connect(path) as sock:
                while not stop.is_set():
                    sock.sendall(b"x" * 4096)
                    util.recv_exactly(sock, 4096)
        except (OSError, EOFError):
            pass

    with python("-c", BUSY, path, backend) as child:
        util.connect_when_up(path).close()
        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            with util.connect(path) as sock:  # they are all being served by now
                sock.sendall(b"x")
                assert util.recv_exactly(sock, 1) == b"x"
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=10) == ("", "")
            assert child.returncode == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)


AGAIN = """
import sys
import pymux

for _ in sys.stdin:
    pymux.serve(lambda conn, data: bytes(1 << 20), sys.argv[1], backend=sys.argv[2])
"""


def test_no_signal_is_slept_out_before_the_wait(backend, tmp_path):
    """It comes while the core sends a long answer, before it goes to sleep."""
    path = tmp_path / "s"
    with python("-c", AGAIN, path, backend) as child:
        for _ in range(8):
            child.stdin.write("\n")
            child.stdin.flush()
            with util.connect_when_up(path) as sock:
                sock.sendall(b"x")
                assert sock.recv(1)
                child.send_signal(signal.SIGINT)
                util.wait_until(lambda: not path.exists())
                assert len(util.recv_all(sock)) == (1 << 20) - 1
        assert child.communicate(timeout=10) == ("", "")


RUN = """
import sys
import pymux

def handler(conn, data):
    return data

try:
    pymux.Server(handler, sys.argv[1], backend=sys.argv[2]).run()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_leaves_run_as_a_keyboard_interrupt(backend, tmp_path):
    path = tmp_path / "s"
    with (
        python("-c", RUN, path, backend) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=10) == ("interrupted\n", "")
        assert util.until_end(sock)[0] == b""
        assert not path.exists()


def test_serve_prints_nothing_and_serves_until_the_signal(backend, tmp_path):
    path = tmp_path / "s"
    with python("-c", BUSY, path, backend) as child:
        with util.connect_when_up(path) as sock:
            sock.sendall(b"hello")
            assert util.recv_exactly(sock, 5) == b"hello"
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0


# --- a handler that is stuck ------------------------------------------------------

STUCK = """
import sys, time
import pymux
from tests.util import in_form

path, backend, form, where = sys.argv[1:]

def stuck(data):
    print("stuck", flush=True)
    while True:
        time.sleep(0.01)

class Opened:
    def opened(self, conn):
        stuck(b"")

class Timer:
    def received(self, conn, data):
        conn.mux.call_later(0, stuck, data)

class Closed:
    def received(self, conn, data):
        conn.close()
    def closed(self, conn, error):
        stuck(b"")

places = {"opened": Opened, "timer": Timer, "closed": Closed}
handler = places[where]() if where in places else in_form(form, stuck)
try:
    pymux.serve(handler, path, backend=backend)
except KeyboardInterrupt:
    print("interrupted")
    raise SystemExit(9)
"""
PLACES = [(form, "message") for form in util.FORMS]
PLACES += [("object", where) for where in ("opened", "timer", "closed")]


@pytest.mark.parametrize(("form", "where"), PLACES)
def test_the_third_signal_ends_a_handler_that_is_stuck(backend, tmp_path, form, where):
    path = tmp_path / "s"
    with (
        python("-c", STUCK, path, backend, form, where) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        assert child.stdout.readline() == "stuck\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        util.until_end(sock)
    assert (child.returncode, out, err) == (9, "interrupted\n", "")
    assert not path.exists()


CATCHES = """
import signal, sys, time
import pymux

def handler(conn, data):
    print("stuck", flush=True)
    caught = 0
    while caught < 2:
        try:
            while True:
                time.sleep(0.01)
        except BaseException as error:
            caught += 1
            print(type(error).__name__, flush=True)
    # The test sends more, and one would end the interpreter in its last steps.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    return data

print(pymux.serve(handler, sys.argv[1], drain_timeout=60).reset)
"""


def test_a_handler_that_catches_it_gets_the_next_one_and_may_go_on(tmp_path):
    path = tmp_path / "s"
    with (
        python("-c", CATCHES, path) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"x")
        assert child.stdout.readline() == "stuck\n"
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        out, err = child.communicate(timeout=20)
    assert out.splitlines()[:2] == ["KeyboardInterrupt", "KeyboardInterrupt"]
    assert (child.returncode, err) == (0, "")


def test_signals_that_a_server_can_follow_are_never_an_interrupt(backend, tmp_path):
    """However many come: it ends by the first of them that it gets to."""
    path = tmp_path / "s"
    # Code that is not compiled yet may take PyPy some signals' time in one turn, and a
    # process waits on a busy machine.
    pause = 0.02 if sys.implementation.name == "cpython" else 0.1
    with (
        python("-c", SERVE + "sys.stdin.read()", path, backend, 1 << 20) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"go")
        util.recv_exactly(sock, 1)
        while not select.select([child.stdout], [], [], pause)[0]:
            child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)[0] == [True, True, True]


LOGS = """
import logging, os, signal, sys
import pymux

# As if the signals came while the standard library looks whether a line at DEBUG, of
# an end, is wanted.
source = '''
def isEnabledFor(self, level):
    for _ in range(3 if level == 10 else 0):
        os.kill(os.getpid(), signal.SIGINT)
    return False
'''
names = {"os": os, "signal": signal}
exec(compile(source, logging.__file__, "exec"), names)
kind = type("Logs", (logging.Logger,), names)
logging.getLogger("pymux").__class__ = kind
def fail(conn, data):
    raise OSError("so that the end has a cause")
pymux.serve(fail, sys.argv[1], backend=sys.argv[2], on_error=lambda conn, error: None)
print("drained")
"""


def test_signals_in_the_standard_library_below_pymux_are_no_interrupt(
    backend, tmp_path
):
    """What pymux itself has called is no handler that does not return."""
    path = tmp_path / "s"
    with (
        python("-c", LOGS, path, backend) as child,
        util.connect_when_up(path) as sock,
    ):
        sock.sendall(b"go")
        assert sock.recv(1) == b""
        sock.close()
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "drained\n", "")


# --- signals that are others' ------------------------------------------------------

IGNORES = """
import signal, sys
import pymux

numbers = [signal.SIGINT, signal.SIGTERM]
for name in sys.argv[3].split():
    signal.signal(signal.Signals[name], signal.SIG_IGN)
before = [signal.getsignal(number) for number in numbers]
pymux.serve(lambda conn, data: data, sys.argv[1], backend=sys.argv[2])
print([signal.getsignal(number) for number in numbers] == before)
"""


@pytest.mark.parametrize("ignored", ["SIGINT", "SIGTERM"])
def test_a_signal_that_is_ignored_stays_ignored(backend, tmp_path, ignored):
    path = tmp_path / "s"
    other = {"SIGINT": "SIGTERM", "SIGTERM": "SIGINT"}[ignored]
    with (
        python("-c", IGNORES, path, backend, ignored) as child,
        util.connect_when_up(path) as sock,
    ):
        for _ in range(3):
            child.send_signal(signal.Signals[ignored])
            sock.sendall(b"x")
            assert util.recv_exactly(sock, 1) == b"x"
        child.send_signal(signal.Signals[other])
        assert child.communicate(timeout=20) == ("True\n", "")
    assert child.returncode == 0


def test_a_handler_that_the_program_installs_meanwhile_stays(tmp_path):
    program = """
import signal, sys
import pymux

def mine(number, frame):
    server.stop()

def handler(conn, data):
    signal.signal(signal.SIGTERM, mine)
    conn.mux.call_later(0, signal.raise_signal, signal.SIGINT)
    return data

pymux.serve(handler, sys.argv[1])
print(signal.getsignal(signal.SIGTERM) is mine)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    path = tmp_path / "s"
    with python("-c", program, path) as child:
        with util.connect_when_up(path) as sock:
            sock.sendall(b"x")
            assert util.recv_exactly(sock, 1) == b"x"
        assert child.communicate(timeout=20) == ("True\nTrue\n", "")
