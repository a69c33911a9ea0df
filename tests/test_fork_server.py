"""A forked child of a process that serves: nothing hangs there, nothing acts twice."""

import os
import signal
import sys
import threading
import time

import pytest

import pymux

from . import inside, util
from .processes import fork, in_child, python
from .stops import started, stop

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

HERE = ("127.0.0.1", 0)


def echo(conn, data):
    return data


def still_serves(server):
    assert util.everything(server.address, b"still") == b"still"


ENDS = {
    "stop": lambda server: server.stop(),
    "stop(0)": lambda server: server.stop(0),
    "leaving the block": lambda server: server.__exit__(None, None, None),
    "wait": lambda server: server.wait(),
    "twice": lambda server: (server.stop(), server.stop(), server.wait()),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_ending_a_server_in_a_child_returns_at_once(backend, end):
    with util.serving(echo, backend) as server, util.connect(server.address) as sock:

        def child():
            signal.alarm(20)
            end(server)
            server.stats()
            assert server.address

        in_child(child)
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
        still_serves(server)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_does_so_whatever_another_thread_held_when_it_forked(backend, end):
    with util.serving(echo, backend) as server:
        entered, release = threading.Event(), threading.Event()

        def hold():
            with inside.locks_held(server):
                entered.set()
                release.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(10)

        def child():
            signal.alarm(20)
            end(server)

        in_child(child)
        release.set()
        thread.join(10)
        still_serves(server)


def test_a_server_that_was_not_started_may_be_in_a_child(backend):
    server = pymux.Server(echo, HERE, backend=backend)

    def child():
        signal.alarm(20)
        with server:
            still_serves(server)

    in_child(child)
    with server:
        still_serves(server)


def test_a_child_may_serve_while_its_parent_does(backend):
    with util.serving(echo, backend) as server:

        def child():
            signal.alarm(20)
            with util.serving(echo, backend) as other:
                still_serves(other)
            server.stop()

        in_child(child)
        still_serves(server)


def forked(handle):
    """(what a child's handle() raised or None, the parent's id of it): in a handler."""
    pid = fork()
    if pid == 0:
        signal.alarm(20)
        try:
            handle()
        finally:
            os._exit(3)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("form", util.FORMS)
def test_a_handler_may_fork(backend, form):
    statuses = []

    def answer(data):
        def child():
            server.stop()
            server.wait()
            os._exit(0)

        statuses.append(forked(child))
        return data

    with util.serving(util.in_form(form, answer), backend) as server:
        still_serves(server)
    assert statuses == [0]


FALLS_THROUGH = """
import os, sys
import pymux

path, backend, form, way, log = sys.argv[1:]
from tests.util import in_form

def answer(data):
    with open(log, "ab") as file:
        file.write(b"%d %s\\n" % (os.getpid() != parent, data))
    if data == b"fork":
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            return b"child %d" % status
    return data

parent = os.getpid()
handler = in_form(form, answer)
options = {"framing": pymux.Lines(), "backend": backend}
if way == "serve":
    pymux.serve(handler, path, **options)
elif way == "run":
    pymux.Server(handler, path, **options).run()
else:
    with pymux.Server(handler, path, **options) as server:
        server.wait()
os._exit(0 if os.getpid() == parent else 7)
"""


@pytest.mark.parametrize("way", ["serve", "run", "with"])
@pytest.mark.parametrize("form", ["function", "coroutine", "object"])
def test_a_child_that_returns_from_its_handler_leaves_the_server(
    backend, tmp_path, form, way
):
    """What else has arrived is the parent's."""
    path, log = tmp_path / "s", tmp_path / "log"
    args = ("-c", FALLS_THROUGH, path, backend, form, way, log)
    with python(*args) as child, util.connect_when_up(path) as sock:
        sock.settimeout(20)
        sock.sendall(b"fork\nbehind\n")
        status = 0 if way == "with" else 7 << 8  # a thread's end is the child's
        expected = b"child %d\nbehind\n" % status
        assert util.recv_exactly(sock, len(expected)) == expected
        sock.sendall(b"more\n")
        assert util.recv_exactly(sock, 5) == b"more\n"
        assert path.exists()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert log.read_text() == "0 fork\n0 behind\n0 more\n"
    if way == "serve" and form != "coroutine":  # which sends, in the child too
        assert err == ""


def test_stop_at_the_exit_of_a_child_returns(backend, tmp_path):
    program = """
import atexit, os, sys
import pymux
with pymux.Server(lambda conn, data: data, sys.argv[1], backend=sys.argv[2]) as server:
    atexit.register(server.stop)
    child = os.fork()
    if not child:
        sys.exit(5)
    print(os.waitpid(child, 0)[1] >> 8)
    with pymux.connect(server.address, timeout=10) as client:
        client.send(b"x")
        print(client.recv())
"""
    with python("-W", "ignore", "-c", program, tmp_path / "s", backend) as child:
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "5\nb'x'\n", "")


# --- signals --------------------------------------------------------------------

SERVES = """
import multiprocessing, os, signal, sys, time
import pymux

children = {}

def own(*args):
    os._exit(42)

def child():
    os.write(children["pipe"][1], b"x")
    while True:
        time.sleep(20)

def handler(conn, data):
    if data == b"fork":
        pid = os.fork()
        if not pid:
            child()
        children["wait"] = lambda: os.waitpid(pid, 0)[1]
    elif data == b"multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        children["wait"] = lambda: (process.join(), process.exitcode)[1]
        pid = process.pid
    elif data == b"wait":
        return str(children["wait"]()).encode()
    os.read(children["pipe"][0], 1)
    return str(pid).encode()

path, backend, before = sys.argv[1:]
children["pipe"] = os.pipe()
if before == "own":
    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGINT, own)
pymux.serve(handler, path, framing=pymux.Lines(), backend=backend)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("before", ["default", "own"])
@pytest.mark.parametrize("way", [b"fork", b"multiprocessing"])
def test_a_child_of_serve_has_the_handlers_from_before(
    backend, tmp_path, way, before, number
):
    path = tmp_path / "s"
    with (
        python("-W", "ignore", "-c", SERVES, path, backend, before) as server,
        util.connect_when_up(path) as sock,
        sock.makefile("rwb", buffering=0) as lines,
    ):
        sock.settimeout(20)
        lines.write(way + b"\n")
        os.kill(int(lines.readline()), number)
        lines.write(b"wait\n")
        status = int(lines.readline())
        if way == b"fork":
            status = os.WEXITSTATUS(status) or -os.WTERMSIG(status)
        if before == "own":
            assert status == 42
        elif number == signal.SIGTERM:
            assert status == -number
        else:  # KeyboardInterrupt, in whichever way the child ends by it
            assert status in (1, -number)
        server.send_signal(signal.SIGTERM)  # the parent has its own still
        server.communicate(timeout=20)
    assert server.returncode == 0


def test_a_signal_in_a_child_does_not_wake_the_parents_mux(backend):
    """It would write to a socket that both have."""
    with pymux.Mux(backend) as mux:
        mux.harvest(0.001)  # signals are watched now

        def child():
            signal.signal(signal.SIGUSR1, lambda *args: None)
            signal.raise_signal(signal.SIGUSR1)
            assert signal.set_wakeup_fd(-1) == -1

        in_child(child)
        before = mux.stats().harvests
        start = time.monotonic()
        mux.harvest(0.2)
        assert time.monotonic() - start >= 0.2
        assert mux.stats().harvests == before + 1


def test_a_child_has_the_wakeup_descriptor_from_before(backend):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with pymux.Mux(backend) as mux:
            inside.take_signals(mux)  # as that of `serve`
            mux.harvest(0.05)
            assert signal.set_wakeup_fd(writing) != writing

            # asyncio leaves a child without one, from 3.12 on.
            left = -1 if sys.version_info >= (3, 12) else writing

            def child():
                assert signal.set_wakeup_fd(-1) == left

            own = inside.wakeup_descriptor(mux)
            signal.set_wakeup_fd(own)
            in_child(child)
            assert signal.set_wakeup_fd(own) == own
        assert signal.set_wakeup_fd(-1) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def test_to_thread_works_in_a_child_of_a_process_that_used_it(backend):
    async def handler(conn):
        async for data in conn:
            conn.send(await pymux.to_thread(bytes.upper, data))

    def once():
        with started(handler, backend) as server:
            try:
                with util.connect(server.address, 5) as sock:
                    sock.sendall(b"hi")
                    assert util.recv_exactly(sock, 2) == b"HI"
            finally:
                stop(server, 0)

    once()
    in_child(once)
