"""The fixtures of all tests, and the two checks that no test escapes."""

import contextlib
import gc
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import pymux

from . import inside, over_tls, plain_only, scripted, util
from .clock import Clock
from .loops import LOOPS, Loop
from .processes import soft_limit
from .serving import OwedAndTold
from .tls import Papers

DESCRIPTORS = "/proc/self/fd"
LEAK_PATIENCE = 2.0  # seconds a thread that is ending may take to close

# A shell starts a background job with SIGINT ignored, and so would be the servers
# that tests stop with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup the supervisors that tests start would ignore SIGHUP.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption(
        "--tls",
        choices=over_tls.ENGINES,
        help="run the plain tests over TLS, by this engine",
    )
    parser.addoption("--tls-quick", action="store_true", help="of those, some files")


def pytest_configure(config):
    if config.getoption("tls"):
        over_tls.begin(config.getoption("tls"))


def pytest_collection_modifyitems(config, items):
    """Mark the tests that run on every backend whatever PYMUX_BACKEND says; skip those
    that take minutes, and leave out those that cannot run over TLS, where that is
    asked for."""
    scans = "scan" in config.getoption("markexpr")
    if config.getoption("tls"):
        quick = config.getoption("tls_quick")
        secure = {item for item in items if plain_only.runs_over_tls(item, quick)}
        config.hook.pytest_deselected(items=[i for i in items if i not in secure])
        items[:] = [item for item in items if item in secure]
    for item in items:
        if "backend" in item.fixturenames:
            item.add_marker("each_backend")
        if "scan" in item.keywords and not scans:
            item.add_marker(pytest.mark.skip(reason="only with -m scan"))


# The imports of the first mux may open a file for good, as libffi does below ctypes.
pymux.Mux().close()


@pytest.fixture(params=pymux.backends())
def backend(request):
    """The name of each backend that works on this machine, in turn."""
    return request.param


@pytest.fixture
def client_backend(backend, monkeypatch):
    """Each backend, as the default of what chooses none, such as a client."""
    monkeypatch.setenv("PYMUX_BACKEND", backend)
    return backend


@pytest.fixture
def mux(backend):
    """A fresh mux on each backend, closed when the test ends."""
    mux = pymux.Mux(backend)
    yield mux
    mux.close()


@pytest.fixture
def selector(backend):
    """A `pymux.Selector` on each backend, closed when the test ends."""
    with pymux.Selector(backend) as selector:
        yield selector


@pytest.fixture
def pipe_files():
    """(the read end, the write end) of a pipe as unbuffered files."""
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb", buffering=0) as reading,
        os.fdopen(writer, "wb", buffering=0) as writing,
    ):
        yield reading, writing


@pytest.fixture
def pair():
    """Two connected sockets that never block."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture(params=["tcp", "unix"])
def place(request, tmp_path):
    """Where to listen: TCP's loopback with port 0, or a path."""
    return ("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "s")


@pytest.fixture
def listening():
    """A plain TCP socket that listens."""
    with util.listening() as listener:
        yield listener


@pytest.fixture
def listener(place):
    """A plain socket that listens, over TCP and at a path."""
    with util.listening(place) as listener:
        yield listener


@pytest.fixture
def refusing():
    """The address of a TCP port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@pytest.fixture
def echo_server():
    """A server of another thread that sends lines back, on any backend."""
    with util.serving(lambda conn, data: data, framing=pymux.Lines()) as server:
        yield server


@pytest.fixture
def lines(mux):
    """(Connection, socket) with line framing."""
    conn, peer = util.pair(mux, pymux.Lines())
    yield conn, peer
    peer.close()


@pytest.fixture
def abc(mux, lines):
    """A batch with the rows a, bb, ccc, and the socket that waits for answers."""
    _, peer = lines
    peer.sendall(b"a\nbb\nccc\n")
    batch = mux.harvest(5)
    assert batch.messages == [b"a", b"bb", b"ccc"]
    return batch, peer


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """Collections look at what the tests of one file have made, and no further.

    Beside the objects of the whole suite each takes a fifth of a second, and there are
    thousands. Nothing is thawed: what was alive stays out of all later ones.
    """
    if hasattr(gc, "freeze"):  # not PyPy
        gc.collect()
        gc.freeze()


@pytest.fixture(params=LOOPS)
def loop(request):
    """A `Loop` of asyncio's and of uvloop's; errors it was told of fail the test."""
    loop = Loop(request.param)
    yield loop
    assert loop.errors == []


@pytest.fixture(params=util.FORMS)
def server(request, backend, tmp_path):
    """A patient server on a Unix socket, in each form on each backend."""
    handler = util.in_form(request.param, util.capitals)
    with util.serving(
        handler, backend, tmp_path / "s", framing=pymux.Lines(), drain_timeout=60
    ) as server:
        yield server


@pytest.fixture
def raw(mux):
    """(Connection, socket) without framing."""
    conn, peer = util.pair(mux)
    yield conn, peer
    peer.close()


@pytest.fixture
def clock():
    """The clock of the package, which the test may move on; a `Clock`."""
    clock = Clock()
    yield clock
    clock.restore()


EXPECTED = "limit", "proxy"  # events


class _Records(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def logged(_no_unexpected_error):
    """What logger `pymux` wrote at WARNING and above: a list of records.

    A test that asks for it answers for these records itself; in any other test
    they are a failure.
    """
    return _no_unexpected_error.records


@pytest.fixture(autouse=True)
def _no_unexpected_error(request):
    handler = _Records()
    logger = logging.getLogger("pymux")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    # A test that drives a connection against a limit gets a warning of that limit,
    # and one that sends no PROXY header a warning of that.
    records = [one for one in handler.records if one.event not in EXPECTED]
    if records and "logged" not in request.fixturenames:
        text = "\n".join(logging.Formatter().format(r) for r in records)
        pytest.fail("pymux logged what nobody expected:\n" + text)


def _open_descriptors():
    """{number: what it is} for each open descriptor, the listing's own left out."""
    found = {}
    for name in os.listdir(DESCRIPTORS):
        try:
            found[int(name)] = os.readlink(os.path.join(DESCRIPTORS, name))
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def _no_leaked_descriptor():
    if not os.path.isdir(DESCRIPTORS):
        yield
        return
    before = set(_open_descriptors().items())
    yield
    deadline = time.monotonic() + LEAK_PATIENCE
    while True:
        leaked = set(_open_descriptors().items()) - before
        if not leaked:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"descriptors left open: {sorted(leaked)}")
        gc.collect()


@pytest.fixture
def pymux_command(tmp_path):
    """Starts `pymux` with arguments, in an empty directory; ends what is left."""
    with contextlib.ExitStack() as stack:

        def start(*args, **options):
            env = dict(os.environ, PYTHONWARNINGS="error")
            env.update(options.pop("env", {}))
            options.setdefault("stdin", subprocess.DEVNULL)
            options.setdefault("stdout", subprocess.PIPE)
            # Without one, the child has nothing to raise, and no line to write of it.
            with soft_limit(options.pop("descriptors", None)):
                process = subprocess.Popen(
                    [sys.executable, "-m", "pymux", *args],
                    stderr=subprocess.PIPE,
                    cwd=tmp_path,
                    env=env,
                    **options,
                )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def serve(pymux_command):
    """Starts `pymux serve` on a free port; the process, with its `.address`."""

    def start(*args, address="127.0.0.1:0", **options):
        process = pymux_command("serve", address, *args, **options)
        line = process.stdout.readline().decode()
        found = re.fullmatch(r"listening on (\S+) \((\w+)\)\n", line)
        assert found, (line, process.communicate(timeout=30))
        process.text, process.backend = found.groups()
        process.address = inside.parse_address(process.text).value
        return process

    return start


@pytest.fixture(scope="session")
def papers():
    """An authority of the tests, its certificates and contexts; a `Papers`."""
    return Papers()


@pytest.fixture(params=["adopted", "portable"])
def secured_by(request, monkeypatch):
    """Each of the two engines of TLS, in turn: its name."""
    monkeypatch.setenv("PYMUX_TLS", {"adopted": "adopt"}.get(request.param, "portable"))
    with inside.tls_chosen_again(monkeypatch):
        yield request.param


@pytest.fixture
def pipe():
    """(the end to read, the end to write), not blocking."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def owed():
    """A batch handler that gives its batches away, and what it is told."""
    return OwedAndTold()


@pytest.fixture
def owing(owed, backend):
    """A server of lines with that handler, which waits long for what is owed."""
    with util.serving(
        owed,
        backend,
        framing=pymux.Lines(),
        on_error=owed.on_error,
        drain_timeout=100,
    ) as server:
        yield server


@pytest.fixture(params=["nats", "redis", "redis without hiredis"])
def broker(request, mux, monkeypatch):
    """A scripted broker of each kind."""
    if request.param == "redis":
        pytest.importorskip("hiredis")
    elif request.param != "nats":
        monkeypatch.setitem(sys.modules, "hiredis", None)
    with scripted.scripted(request.param.split()[0], mux) as broker:
        yield broker


@pytest.fixture
def member(mux):
    """A connection that may join, with what its peer gets."""
    heard = scripted.Heard(mux)
    with heard.peer:
        yield heard
