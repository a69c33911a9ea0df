"""The load generator notices: servers that do wrong, each in its own way."""

import json
import socket
import ssl
import subprocess
import threading

import pytest

from . import build


def upper(data, state):
    return data.upper()


def one_wrong_byte(data, state):
    state["seen"] = state.get("seen", 0) + len(data)
    return b"#" + data.upper()[1:] if state["seen"] > 6400 else data.upper()


def unchanged(data, state):
    return data


def twice(data, state):
    return data.upper() * 2


def late(data, state):
    """Each connection gets its former answer."""
    answer, state["last"] = state.get("last", b""), data.upper()
    return answer or state["last"]


def hangs_up(data, state):
    state["seen"] = state.get("seen", 0) + 1
    return None if state["seen"] > 20 else data.upper()


def falls_silent(data, state):
    state["seen"] = state.get("seen", 0) + 1
    return b"" if state["seen"] > 20 else data.upper()


class FaultyServer:
    """A thread for each connection; what answers is the fault."""

    def __init__(self, answer, context=None):
        self.answer = answer
        self.context = context
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(conn,), daemon=True).start()

    def talk(self, conn):
        state = {}
        if self.context:
            conn = self.context.wrap_socket(
                conn, server_side=True, do_handshake_on_connect=False
            )
        with conn:
            try:
                while data := conn.recv(65536):
                    answer = self.answer(data, state)
                    if answer is None:
                        return
                    conn.sendall(answer)
            except OSError:
                pass


@pytest.fixture
def load():
    """A function that loads a server with such answers; the JSON's figures."""
    servers = []

    def run(answer, *options):
        servers.append(FaultyServer(answer))
        port = str(servers[-1].port)
        times = ["--warmup", "0.05", "--duration", "0.2", "--timeout", "1"]
        command = [build.load(), *(options or ["echo"]), *times, "--port", port]
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
        return json.loads(done.stdout)

    yield run
    for server in servers:
        server.sock.shutdown(socket.SHUT_RDWR)
        server.sock.close()


def faults(result):
    """Those that were counted."""
    kinds = ("refused", "lost", "wrong", "unanswered")
    return {kind for kind in kinds if result[kind]}


@pytest.mark.parametrize(
    "options",
    [
        ("echo", "--conns", "10"),
        ("echo", "--conns", "3", "--depth", "8", "--size", "1-100"),
        ("echo", "--conns", "3", "--framing", "lines", "--size", "2-50"),
        ("echo", "--conns", "2", "--size", "300000"),
        ("echo", "--conns", "5", "--rate", "2000"),
        ("echo", "--conns", "5", "--slow", "1", "--idle", "5"),
        ("burst", "--conns", "50"),
        ("churn", "--conns", "5"),
        ("memory", "--conns", "20", "--base", "10"),
    ],
    ids=" ".join,
)
def test_right_answers_pass(load, options):
    result = load(upper, *options)
    assert not faults(result), result["error"]
    assert result["messages"] > 0
    assert result["opened"] >= result["wanted"]


@pytest.mark.parametrize("answer", [one_wrong_byte, unchanged, twice, late])
def test_wrong_answers_are_counted(load, answer):
    result = load(answer, "echo", "--conns", "3")
    assert "wrong" in faults(result)
    assert "answered wrongly" in result["error"]


TLS_CASES = [
    (upper, set()),
    (one_wrong_byte, {"wrong"}),
    (late, {"wrong"}),
    (hangs_up, {"lost"}),
    (falls_silent, {"unanswered"}),
]


@pytest.mark.skipif(build.without_tls() is not None, reason=str(build.without_tls()))
@pytest.mark.parametrize("answer, amiss", TLS_CASES)
@pytest.mark.parametrize("size", ["64", "65536"])
def test_answers_are_checked_over_tls(answer, amiss, size):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(build.certificate())
    server = FaultyServer(answer, context)
    words = ["echo", "--conns", "3", "--size", size, "--timeout", "1"]
    times = ["--warmup", "0.05", "--duration", "0.2", "--port", str(server.port)]
    done = subprocess.run(
        [build.load(tls=True), *words, *times],
        capture_output=True,
        check=True,
        timeout=30,
    )
    server.sock.shutdown(socket.SHUT_RDWR)
    server.sock.close()
    result = json.loads(done.stdout)
    assert faults(result) == amiss
    assert result["over"].startswith("OpenSSL")
    assert result["messages"] > 0 or amiss


@pytest.mark.parametrize("payload", ["upper", "echo"])
@pytest.mark.parametrize("answer", [upper, unchanged])
def test_the_payload_says_which_answer_is_right(load, answer, payload):
    result = load(answer, "echo", "--conns", "3", "--payload", payload)
    right = {"upper": upper, "echo": unchanged}[payload]
    assert faults(result) == (set() if answer is right else {"wrong"})


def test_lost_connections_are_counted(load):
    result = load(hangs_up, "echo", "--conns", "3")
    assert result["lost"] == 3


def test_missing_answers_are_counted(load):
    result = load(falls_silent, "echo", "--conns", "3")
    assert faults(result) == {"unanswered"}
    assert result["unanswered"] == 3


def test_a_server_that_is_not_there_is_counted():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, and nobody listens
        command = [build.load(), "echo", "--port", str(sock.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert json.loads(done.stdout)["refused"] == 1


def test_a_stall_shows_in_an_open_loop(load):
    """Latency counts from when a message was due, not from when it left."""

    def stalls_once(data, state):
        state["seen"] = state.get("seen", 0) + 1
        if state["seen"] == 50:
            threading.Event().wait(0.15)
        return data.upper()

    result = load(stalls_once, "echo", "--rate", "1000")
    assert not faults(result), result["error"]
    assert result["latency_us"]["max"] > 100_000
    assert result["latency_us"]["p75"] > 1_000  # all that were due meanwhile


WRONG_USAGES = [
    [],
    ["echo"],
    ["run", "--port", "1"],
    ["echo", "--port", "1", "--framing", "words"],
    ["echo", "--port", "1", "--payload", "lower"],
]


@pytest.mark.parametrize("words", WRONG_USAGES)
def test_wrong_usage_is_told(words):
    done = subprocess.run([build.load(), *words], capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: load")
