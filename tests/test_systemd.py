"""What systemd passes and is told: sockets by name, and the state of a server."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

import pymux
from pymux import systemd

from . import inside, util
from .managers import Manager
from .serving import upper

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="systemd is Linux's"
)
LOCAL = ("127.0.0.1", 0)

# A program that is given descriptors from 3 on: argv has its code.
START = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
exec(sys.argv[1])
"""


def given(code, socks, names=None, **environment):
    """What a program prints that systemd has passed sockets to."""
    env = {**os.environ, "LISTEN_FDS": str(len(socks)), **environment}
    if names is not None:
        env["LISTEN_FDNAMES"] = names
    own = [os.dup(sock.fileno()) for sock in socks]

    def place():
        high = [os.dup2(number, 100 + k) for k, number in enumerate(own)]
        for k, number in enumerate(high):
            os.dup2(number, 3 + k)

    try:
        done = subprocess.run(
            [sys.executable, "-c", START, code],
            env=env,
            preexec_fn=place,
            close_fds=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        for number in own:
            os.close(number)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def three():
    """Three listening sockets."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(util.listening()) for _ in range(3)]


def ports(socks):
    return [str(sock.getsockname()[1]) for sock in socks]


def test_all_sockets_are_handed_out_in_their_order(three):
    code = """
import pymux
for sock in pymux.from_systemd():
    print(sock.getsockname()[1])
    sock.close()
print(pymux.from_systemd())
"""
    assert given(code, three) == [*ports(three), "[]"]


def test_sockets_are_found_by_name(three):
    code = """
import pymux
for name in "web", "admin":
    for sock in pymux.from_systemd(name):
        print(name, sock.getsockname()[1])
        sock.close()
"""
    one, two, three_ = ports(three)
    assert given(code, three, "web:admin:web") == [
        f"web {one}",
        f"web {three_}",
        f"admin {two}",
    ]


def test_a_name_that_did_not_come_is_said_with_those_that_did(three):
    code = """
import pymux
for name in "mail", "web", "web":
    try:
        [sock.close() for sock in pymux.from_systemd(name)]
    except LookupError as error:
        print(error.args[0])
"""
    lines = given(code, three[:2], "web:admin")
    assert lines == [
        "no socket 'mail' has come from systemd; what came: 'web', 'admin'",
        "no socket 'web' has come from systemd (it was handed out before); "
        "what came: 'web', 'admin'",
    ]


def test_nothing_is_inherited_by_programs_that_this_one_starts(three):
    code = """
import os, pymux
socks = pymux.from_systemd()
print([os.get_inheritable(sock.fileno()) for sock in socks])
print([name for name in os.environ if name.startswith("LISTEN_")])
for sock in socks:
    sock.close()
"""
    assert given(code, three[:2]) == ["[False, False]", "[]"]


def test_sockets_of_another_process_are_not_taken(three):
    code = """
import os, pymux
os.environ["LISTEN_PID"] = "1"
print(pymux.from_systemd())
"""
    assert given(code, three[:1]) == ["[]"]


def test_what_is_no_socket_is_refused_and_the_others_stay(three):
    code = """
import pymux
for name in "pipe", "web":
    try:
        for sock in pymux.from_systemd(name):
            print(sock.getsockname()[1])
            sock.close()
    except ValueError as error:
        print(str(error).partition(":")[0])
"""
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe, os.fdopen(writer, "w"):
        lines = given(code, [pipe, three[0]], "pipe:web")
    assert lines == [
        "descriptor 3, 'pipe', from systemd is no socket",
        *ports(three[:1]),
    ]


def test_without_systemd_there_is_nothing():
    assert pymux.from_systemd() == []
    with pytest.raises(LookupError, match="what came: none"):
        pymux.from_systemd("web")
    with pytest.raises(TypeError, match="name is 3"):
        pymux.from_systemd(3)


def test_a_server_serves_what_has_come(three):
    code = """
import pymux
with pymux.Server(lambda conn, data: data.upper(), pymux.from_systemd()) as server:
    for address in server.addresses:
        with pymux.connect(address) as client:
            client.send(b"one")
            print(client.recv())
"""
    code += "import gc; gc.collect()\n"
    lines = given("import warnings; warnings.simplefilter('ignore')\n" + code, three)
    assert lines == ["b'ONE'"] * 3


# -- what systemd is told ----------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """A service manager that this process tells how it is."""
    path = str(tmp_path / "notify")
    if request.param == "abstract":
        path = f"\0pymux-test-{os.getpid()}"
    manager = Manager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path.replace("\0", "@"))
    yield manager
    manager.sock.close()


def test_lines_reach_the_manager(manager):
    assert systemd.notify("READY=1", "STATUS=two\nlines")
    assert manager.hear() == ["READY=1", "STATUS=two lines"]
    assert systemd.reloading("new code")
    first, when, last = manager.hear()
    assert (first, last) == ("RELOADING=1", "STATUS=new code")
    assert when.removeprefix("MONOTONIC_USEC=").isdigit()


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "relative", "/" + "x" * 200])
def test_a_manager_that_cannot_be_told_is_no_error(monkeypatch, path):
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not systemd.notify("READY=1")


def test_a_manager_that_reads_nothing_holds_nobody(manager):
    told = 0
    while systemd.notify("STATUS=" + "x" * 4000):
        told += 1
        assert told < 10_000


@pytest.mark.parametrize(
    ("usec", "pid", "period"),
    [
        ("", "", None),
        ("3000000", "", 1.5),
        ("3000000", "1", None),
        ("0", "", None),
        ("soon", "", None),
    ],
)
def test_the_period_of_the_watchdog(monkeypatch, usec, pid, period):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_period() == period


SERVES = """
import sys, pymux
pymux.serve(lambda conn, data: data, sys.argv[1], drain_timeout=20)
"""


def test_serve_tells_that_it_is_ready_alive_and_stops(manager, tmp_path):
    path = str(tmp_path / "s")
    env = {**os.environ, "WATCHDOG_USEC": "200000"}
    with subprocess.Popen([sys.executable, "-c", SERVES, path], env=env) as child:
        heard = manager.hear_until("READY=1")
        assert f"STATUS=serving at unix:{path}" in heard[-1]
        with util.connect(path):
            manager.hear_until("WATCHDOG=1")
            manager.hear_until("WATCHDOG=1")
            child.send_signal(signal.SIGTERM)
            last = manager.hear_until("STOPPING=1")[-1]
        assert last[1] == f"STATUS=finishing the connections at unix:{path}"
        assert child.wait(20) == 0


def test_a_server_in_a_thread_tells_nothing(manager):
    """The program's main thread knows how the service is."""
    with util.serving(upper) as server:
        util.settle(server)
    systemd.notify("LAST=1")
    assert manager.hear() == ["LAST=1"]
    assert inside.has_ended(server)
