"""serve: until a signal, which drains it; a second one resets."""

import json
import signal
import threading

import pytest

import pymux
from tests import util


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
    with util.python("-c", SERVE, path, backend, 1 << 20) as child:
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
        util.python("-c", SERVE, path, backend, 1 << 20) as child,
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

    with util.python("-c", BUSY, path, backend) as child:
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
    with util.python("-c", AGAIN, path, backend) as child:
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
        util.python("-c", RUN, path, backend) as child,
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
    with util.python("-c", BUSY, path, backend) as child:
        with util.connect_when_up(path) as sock:
            sock.sendall(b"hello")
            assert util.recv_exactly(sock, 5) == b"hello"
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0
