"""The end of the interpreter with all still open: no crash, no hang, no noise."""

import contextlib
import signal
import sys

import pytest

import pymux

from . import util
from .processes import python

BEGIN = """
import atexit, os, signal, sys, threading, time
import pymux
from tests.util import in_form

backend, form = sys.argv[1:3]
entered = threading.Event()

def echo(conn, data):
    return data

def ask(server, data=b"x"):
    client = pymux.connect(server.address, timeout=20)
    client.send(data)
    assert client.recv() == data
    return client
"""

# what: (program, exit code, what it prints)
PROGRAMS = {
    "a server": (
        """
server = pymux.Server(in_form(form, bytes), ("127.0.0.1", 0), backend=backend).start()
client = ask(server)
""",
        0,
        "",
    ),
    "a server that atexit stops": (
        """
server = pymux.Server(in_form(form, bytes), ("127.0.0.1", 0), backend=backend).start()
client = ask(server)
atexit.register(lambda: print(server.stats().connections))
atexit.register(server.stop)
""",
        0,
        "0\n",
    ),
    "a handler that is in it": (
        """
def answer(data):
    entered.set()
    time.sleep(60)

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
client.send(b"x")
entered.wait(20)
""",
        0,
        "",
    ),
    "a handler that is in it, and atexit stops": (
        """
def answer(data):
    entered.set()
    time.sleep(60)

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
client.send(b"x")
entered.wait(20)
def stop():
    try:
        server.stop(0)
    except TimeoutError:
        print("late")
atexit.register(stop)
""",
        0,
        "late\n",
    ),
    "a handler that computes": (
        """
def answer(data):
    entered.set()
    while True:
        pass

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
client.send(b"x")
entered.wait(20)
""",
        0,
        "",
    ),
    "a call that is in to_thread": (
        """
async def handler(conn):
    await pymux.to_thread(lambda: (entered.set(), time.sleep(60)))

server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
entered.wait(20)
""",
        0,
        "",
    ),
    "sys.exit with a server": (
        """
server = pymux.Server(in_form(form, bytes), ("127.0.0.1", 0), backend=backend).start()
client = ask(server)
sys.exit(7)
""",
        7,
        "",
    ),
    "os._exit with a server": (
        """
server = pymux.Server(in_form(form, bytes), ("127.0.0.1", 0), backend=backend).start()
client = ask(server)
os._exit(7)
""",
        7,
        "",
    ),
    "os._exit in a handler": (
        """
def answer(data):
    os._exit(7)

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
client.send(b"x")
client.recv()
""",
        7,
        "",
    ),
    "sys.exit in a handler of run": (
        """
def answer(data):
    sys.exit(7)

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend)
def ask_when_up():
    while True:
        try:
            client = pymux.connect(server.address, timeout=20)
            break
        except (RuntimeError, OSError):
            time.sleep(0.001)
    client.send(b"x")
threading.Thread(target=ask_when_up, daemon=True).start()
server.run()
""",
        7,
        "",
    ),
    "a server that waits in the main thread": (
        """
with pymux.Server(in_form(form, bytes), ("127.0.0.1", 0), backend=backend) as server:
    client = ask(server)
    threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        server.wait()
    except KeyboardInterrupt:
        print("interrupted")
""",
        0,
        "interrupted\n",
    ),
    "a mux of a daemon thread": (
        """
def work():
    mux = pymux.Mux(backend)
    listener = mux.listen(("127.0.0.1", 0))
    conn = mux.connect(listener.address)
    while True:
        mux.harvest(0.01)
        entered.set()

threading.Thread(target=work, daemon=True).start()
entered.wait(20)
""",
        0,
        "",
    ),
    "a closed mux": (
        """
mux = pymux.Mux(backend)
conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
mux.harvest(0.1)
mux.close()
""",
        0,
        "",
    ),
    "views of a batch": (
        """
with pymux.Mux(backend) as mux:
    conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
    conn.send(b"x")
    while not len(batch := mux.harvest(20)):
        pass
    view = batch.data
""",
        0,
        "",
    ),
    "a selector": ("selector = pymux.Selector(backend)", 0, ""),
    "a server that was never started": (
        """server = pymux.Server(echo, ("127.0.0.1", 0), backend=backend)""",
        0,
        "",
    ),
}
ANY_FORM = [what for what in PROGRAMS if "in_form" in PROGRAMS[what][0]]


def run(program, *args):
    """(exit code, what it printed, what it complained of)."""
    with python("-c", BEGIN + program, *args) as child:
        out, err = child.communicate(timeout=40)
    return child.returncode, out, err


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_may_end_with(backend, what):
    program, code, out = PROGRAMS[what]
    assert run(program, backend, "function") == (code, out, "")


@pytest.mark.parametrize("form", ["coroutine", "batch"])
@pytest.mark.parametrize("what", ANY_FORM)
def test_a_program_may_end_with_handlers_of_other_forms(what, form):
    program, code, out = PROGRAMS[what]
    assert run(program, pymux.backends()[0], form) == (code, out, "")


def test_a_mux_that_is_left_open_is_a_warning_and_no_more(backend):
    program = """
mux = pymux.Mux(backend)
conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
mux.harvest(0.1)
"""
    assert run(program, backend, "function") == (0, "", "")
    if sys.implementation.name == "pypy":
        return  # it frees nothing at its end
    with python("-W", "default", "-c", BEGIN + program, backend, "-") as child:
        _, err = child.communicate(timeout=40)
    assert child.returncode == 0
    assert "ResourceWarning" in err
    assert "Exception ignored" not in err


def test_a_started_server_that_dies_at_the_exit_says_so_or_nothing(backend):
    program = """
def answer(data):
    sys.exit(7)

server = pymux.Server(in_form(form, answer), ("127.0.0.1", 0), backend=backend).start()
client = pymux.connect(server.address, timeout=20)
client.send(b"x")
with_error = None
try:
    server.wait()
except SystemExit as error:
    with_error = error.code
print(with_error)
"""
    code, out, err = run(program, backend, "function")
    assert (code, out) == (0, "7\n")
    assert "has ended" in err
    assert "Exception ignored" not in err


SERVE = """
path = sys.argv[3]
atexit.register(lambda: print("at the exit"))
def handler(conn, data):
    if data == b"exit":
        sys.exit(7)
    if data == b"thread":
        threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
    return data
pymux.serve(handler, path, backend=backend)
"""


@pytest.mark.parametrize("word", [b"exit", b"thread"])
def test_a_program_may_end_with_serve(backend, tmp_path, word):
    path = tmp_path / "s"
    args = ("-c", BEGIN + SERVE, backend, "function", path)
    with python(*args) as child, util.connect_when_up(path) as sock:
        sock.sendall(word)
        if word == b"thread":
            assert util.recv_exactly(sock, 6) == word
            child.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            util.recv_all(sock)
        out, err = child.communicate(timeout=40)
    assert (child.returncode, out, err) == (
        7 if word == b"exit" else 0,
        "at the exit\n",
        "",
    )


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
@pytest.mark.parametrize("how", ["sys.exit(7)", "os._exit(7)", "raise SystemExit(7)"])
def test_a_loop_may_end_with_a_server_and_connections_open(how):
    program = f"""
import asyncio

async def main():
    server = await pymux.aio.serve(echo, ("127.0.0.1", 0))
    conn = await pymux.aio.connect(server.address)
    conn.send(b"x")
    await conn.recv()
    {how}

asyncio.run(main())
"""
    code, out, err = run(program, "-", "-")
    assert (code, out) == (7, "")
    assert "Exception ignored" not in err
