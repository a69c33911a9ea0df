"""`pymux serve --workers`, and TLS that each worker makes for itself."""

import os
import re
import signal
import ssl
import sys

import pytest

from . import inside, util
from .commands import ask, finish, one_line, write_module
from .supervised import supervised, wait_until
from .tls import NAME, secure
from .tls_peers import write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


@pytest.fixture
def serve_with_workers(pymux_command):
    """Starts `pymux serve --workers`; the process, with its `.address`."""

    def start(*args, count="2"):
        process = pymux_command("serve", "127.0.0.1:0", "--workers", count, *args)
        line = process.stdout.readline().decode()
        workers = "worker" if count == "1" else "workers"
        found = re.fullmatch(rf"listening on (\S+) \(\w+, {count} {workers}\)\n", line)
        assert found, (line, process.communicate(timeout=30))
        process.address = inside.parse_address(found[1]).value
        return process

    return start


def test_serve_with_workers_answers_and_prints_totals(serve_with_workers):
    server = serve_with_workers()
    assert ask(server.address, b"hello") == b"HELLO"
    code, out, err = finish(server, signal.SIGTERM)
    assert (code, err) == (0, "")
    assert out == (
        "1 connections, 1 messages in, 1 out, 5 bytes in, 5 out, "
        "0 reset, 0 bytes discarded\n"
    )


def test_a_handler_of_the_current_directory_serves_in_each_worker(
    serve_with_workers, tmp_path
):
    write_module(tmp_path)
    server = serve_with_workers("--handler", "handlers:function", count="1")
    assert ask(server.address, b"hello") == b"olleh"


def test_a_handler_that_is_not_found_ends_the_command_in_one_line(pymux_command):
    process = pymux_command(
        "serve", "127.0.0.1:0", "--workers", "1", "--handler", "nothing:here"
    )
    code, line = one_line(process)
    assert code == 1
    assert line.endswith(
        "worker 0 could not start: ModuleNotFoundError: No module named 'nothing'"
    )


@pytest.mark.parametrize(
    "options, text",
    [
        (["--max-age", "3"], "argument --max-age: --workers N is needed too"),
        (["--no-handover"], "argument --no-handover: --workers N is needed too"),
        (["--workers", "0"], "'0' is neither a number from 1 to 1024 nor auto"),
        (["--workers", "2", "--stats", "1"], "--stats: not with --workers"),
        (["--workers", "2", "--max-memory", "1T"], "'1T' is not a number of bytes"),
        (["--workers", "2", "--grace", "x"], "'x' is not a number of seconds"),
    ],
)
def test_wrong_options_of_workers_are_wrong_usage(pymux_command, options, text):
    code, _, err = finish(pymux_command("serve", "127.0.0.1:0", *options))
    assert code == 2
    assert err.startswith("usage: pymux serve ")
    assert text in err


TLS = """
import ssl


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain("server-cert.pem", "server-key.pem")
    return made


def handler(conn, data):
    return data.upper()
"""


def test_sighup_loads_new_certificates(tmp_path, papers):
    def certified():
        """A new certificate in the files of the server, in its binary form."""
        paper = papers.certificate()
        write(paper, tmp_path)
        return ssl.PEM_cert_to_DER_cert(paper.cert_chain_pems[0].bytes().decode())

    def shown(server):
        with secure(server.address, papers.client()) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"HELLO"
            return sock.getpeercert(True)

    first = certified()
    with supervised(
        tmp_path, app=TLS, ssl="'app:context'", workers="1", linger="0"
    ) as server:
        assert shown(server) == first
        second = certified()
        server.signal(signal.SIGHUP)
        wait_until(lambda: shown(server) == second)


def test_a_certificate_that_does_not_load_stops_the_roll(tmp_path, papers):
    write(papers.certificate(), tmp_path)
    with supervised(tmp_path, app=TLS, ssl="'app:context'", workers="1") as server:
        os.truncate(tmp_path / "server-key.pem", 10)
        server.signal(signal.SIGHUP)
        server.wait_for(r"could not start: SSLError: .* \(app.py, line \d+\); .* stays")
        with secure(server.address, papers.client()) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"HELLO"


def says_with_its_finish(sock, context, data):
    """Shake hands, and send in the same flight; all that is answered, to the end."""
    incoming, outgoing, answer = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
    peer = context.wrap_bio(incoming, outgoing, server_hostname=NAME)
    while True:
        try:
            peer.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
    peer.write(data)
    sock.sendall(outgoing.read())
    while True:
        try:
            more = peer.read()
        except ssl.SSLWantReadError:
            came = sock.recv(65536)
            assert came, "it was cut"
            incoming.write(came)
        else:
            if not more:
                return answer
            answer += more


def test_who_shakes_hands_at_sighup_is_answered_by_the_old_worker(tmp_path, papers):
    write(papers.certificate(), tmp_path)
    app = TLS.replace("data.upper()", "b'%d' % os.getpid()") + "\nimport os\n"
    with (
        supervised(tmp_path, app=app, ssl="'app:context'", workers="1") as server,
        util.connect(server.address) as slow,
        util.connect(server.address) as stuck,
    ):
        stuck.sendall(b"\x16\x03\x01\x02\0\1\0")  # a hello that never ends
        with secure(server.address, papers.client()) as sock:  # accepted behind them
            sock.sendall(b"pid")
            old = sock.recv(10)
            server.roll(1)
            assert sock.recv(1) == b""  # the old worker lingers; no cut
        assert says_with_its_finish(slow, papers.client(), b"pid") == old
        with secure(server.address, papers.client()) as sock:
            sock.sendall(b"pid")
            assert sock.recv(10) != old
