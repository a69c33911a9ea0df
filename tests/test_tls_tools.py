"""Other stacks of TLS, and scanners: openssl, gnutls-cli, curl, sslscan, testssl.

A program that is missing is skipped. `pytest -m scan` runs what takes minutes too.
"""

import json
import os
import re
import shutil

import pytest

import pymux

from . import util
from .programs import program
from .tls_peers import write
from .util import harvest_until, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()
PAGE = b"0123456789abcdef" * 131072
ALLOW_CLIENT_RENEGOTIATION = 1 << 8  # of OpenSSL 3.0; before, all were allowed to
BY_CHOICE_OF_CIPHERS = {"cipherlist_AVERAGE", "LUCKY13"}  # Python's default has CBC


def capitals(conn, data):
    return data.upper()


def page(conn, data):
    """A page of the web, of 2 MiB."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE


@pytest.fixture
def ca(papers, tmp_path):
    """The path of the authority's certificate."""
    path = tmp_path / "ca.pem"
    papers.ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def server(papers, backend):
    """A server of lines over TLS, which answers in capitals."""
    with serving(capitals, backend, framing=LINES, ssl=papers.server()) as server:
        yield server


def s_client(server, ca, *args):
    """`openssl s_client`, which verifies the server."""
    host, port = server.address
    verify = "-verify_return_error", "-verify_hostname", "localhost"
    where = "-connect", f"{host}:{port}", "-CAfile", ca
    return program("openssl", "s_client", *where, *verify, *args)


# --- openssl -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_says_lines_and_gets_them_in_capitals(server, ca, version):
    with s_client(server, ca, version) as client:
        client.has_said(b"Verify return code: 0 (ok)")
        for count in range(1, 4):
            client.say(b"hello %d" % count)
            client.has_said(b"HELLO %d\n" % count)
        client.say(b"Q")
        assert client.finish()[0] == 0
    stats = server.stats()
    assert (stats.tls_handshakes, stats.tls_failed) == (1, 0)
    assert (stats.messages_in, stats.messages_out) == (3, 3)


def test_keys_are_updated_as_often_as_openssl_asks_for_it(server, ca):
    with s_client(server, ca, "-tls1_3") as client:
        client.has_said(b"Verify return code: 0 (ok)")
        for count in range(1, 7):
            # K wants ours to be updated too
            client.say(b"K" if count % 2 else b"k")
            client.has_said(b"KEYUPDATE", count)
            client.say(b"hello %d" % count)
            client.has_said(b"HELLO %d\n" % count)
    assert server.stats().tls_handshakes == 1


def refuses_to_negotiate_again(server, ca):
    """Assert that a server refuses, and has not shaken hands twice."""
    with s_client(server, ca, "-tls1_2") as client:
        client.has_said(b"Verify return code: 0 (ok)")
        client.say(b"hello")
        client.has_said(b"HELLO\n")
        client.say(b"R")
        client.has_said(b"RENEGOTIATING")
        code, said = client.finish()
    assert code != 0
    assert "no renegotiation" in said
    wait_until(lambda: server.stats().connections == 0)
    assert server.stats().tls_handshakes == 1


def test_openssl_may_not_negotiate_again(server, ca):
    refuses_to_negotiate_again(server, ca)


def test_no_peer_may_negotiate_again_though_the_context_allows_it(papers, backend, ca):
    ours = papers.server()
    ours.options |= ALLOW_CLIENT_RENEGOTIATION
    with serving(capitals, backend, framing=LINES, ssl=ours) as server:
        refuses_to_negotiate_again(server, ca)


def test_a_server_of_openssls_may_not_negotiate_again(mux, papers, tmp_path):
    cert, key = write(papers.certificate(), tmp_path)
    args = ("-accept", "127.0.0.1:0", "-cert", cert, "-key", key, "-tls1_2")
    with program("openssl", "s_server", *args) as server:
        server.has_said(b"ACCEPT 127.0.0.1:")
        port = int(re.search(r"ACCEPT 127\.0\.0\.1:(\d+)", server.text)[1])
        conn = mux.connect(
            ("127.0.0.1", port), framing=LINES, ssl=papers.client(), timeout=20
        )
        conn.send(b"hello")
        harvest_until(mux, lambda acc: b"hello" in server.said)
        server.say(b"r")
        harvest_until(mux, lambda acc: acc.is_closed(conn))
        server.has_said(b"no renegotiation")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes_its_session(server, ca, tmp_path, version):
    session = tmp_path / "session"
    for args in (("-sess_out", session), ("-sess_in", session)):
        with s_client(server, ca, version, *args) as client:
            client.has_said(b"Verify return code: 0 (ok)")
            client.say(b"hello")
            client.has_said(b"HELLO\n")
            client.say(b"Q")
            said = client.finish()[1]
    assert re.search(r"^Reused, TLS", said, re.MULTILINE)
    stats = server.stats()
    assert (stats.tls_handshakes, stats.tls_resumed) == (2, 1)


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_cannot_talk_an_old_version(server, ca, version):
    # SECLEVEL=0: else openssl refuses to say the hello
    with s_client(server, ca, version, "-cipher", "ALL:@SECLEVEL=0") as client:
        code, said = client.finish()
    assert code != 0
    assert "alert protocol version" in said or "unsupported protocol" in said
    wait_until(lambda: server.stats().tls_failed == 1)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_we_talk_to_a_server_of_openssls(mux, papers, tmp_path, version):
    cert, key = write(papers.certificate(), tmp_path)
    args = ("-accept", "127.0.0.1:0", "-cert", cert, "-key", key, "-rev", version)
    with program("openssl", "s_server", *args) as server:
        server.has_said(b"ACCEPT 127.0.0.1:")
        port = int(re.search(r"ACCEPT 127\.0\.0\.1:(\d+)", server.text)[1])
        conn = mux.connect(
            ("127.0.0.1", port), framing=LINES, ssl=papers.client(), timeout=20
        )
        conn.send(b"a live evil")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.payloads == [b"live evil a"]
        assert conn.tls.version == {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}[version]
        conn.close()
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.error(conn) is None


# --- gnutls --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["VERS-TLS1.2", "VERS-TLS1.3"])
def test_gnutls_says_a_line_and_gets_it_in_capitals(server, ca, version):
    priority = f"NORMAL:-VERS-ALL:+{version}"
    port = server.address[1]
    args = ("--x509cafile", ca, "-p", port, "--priority", priority, "localhost")
    with program("gnutls-cli", *args) as client:
        client.has_said(b"Handshake was completed")
        client.say(b"hello")
        client.has_said(b"HELLO\n")
        assert "certificate is trusted" in client.text
        client.finish()
    wait_until(lambda: server.stats().connections == 0)
    assert server.stats().tls_failed == 0


def test_gnutls_resumes_its_session(server, ca):
    # It connects again at once. From TLS 1.3 on a ticket comes with the first answer.
    args = ("--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2", "--resume", "localhost")
    with program("gnutls-cli", "--x509cafile", ca, "-p", server.address[1], *args) as (
        client
    ):
        client.has_said(b"This is a resumed session")
        client.say(b"hello")
        client.has_said(b"HELLO\n")
    assert server.stats().tls_resumed == 1


def test_we_talk_to_a_server_of_gnutls(mux, papers, tmp_path):
    cert, key = write(papers.certificate(), tmp_path)
    port = util.free_port()
    files = ("--x509certfile", cert, "--x509keyfile", key, "--disable-client-cert")
    with program("gnutls-serv", "--echo", "-p", port, *files) as server:
        server.has_said(b"Echo Server listening on")
        util.connect_when_up(("127.0.0.1", port)).close()
        conn = mux.connect(
            ("127.0.0.1", port), framing=LINES, ssl=papers.client(), timeout=20
        )
        for line in (b"hello", b"x" * 5000, b"again"):
            conn.send(line)
            acc = harvest_until(mux, lambda acc: acc.messages)
            assert acc.payloads == [line]
        conn.close()
        harvest_until(mux, lambda acc: acc.is_closed(conn))


# --- curl ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [["--tls-max", "1.2"], ["--tlsv1.3"]])
def test_curl_fetches_a_page_of_two_mebibytes_thrice(
    papers, backend, ca, tmp_path, version
):
    with serving(page, backend, ssl=papers.server()) as server:
        url = f"https://localhost:{server.address[1]}/"
        args = ("--silent", "--show-error", "--cacert", ca, *version)
        files = [tmp_path / str(k) for k in range(3)]
        pages = [word for file in files for word in ("-o", file, url)]
        with program("curl", *args, *pages) as client:
            assert client.finish() == (0, "")
        for file in files:
            assert file.read_bytes() == PAGE
        assert server.stats().tls_handshakes == 1


def test_curl_refuses_an_authority_that_it_does_not_know(server):
    with program("curl", "-sS", f"https://localhost:{server.address[1]}/") as client:
        code, said = client.finish()
    assert code == 60
    assert "certificate" in said
    wait_until(lambda: server.stats().tls_failed == 1)
    assert server.stats().messages_in == 0


# --- scanners ------------------------------------------------------------------------

WEAK = re.compile(r"vulnerable|enabled|RC4|DES|NULL|EXP|anon|MD5|CBC|insecure", re.I)


def test_sslscan_finds_nothing_weak(server):
    host, port = server.address
    with program("sslscan", "--no-colour", f"{host}:{port}") as scan:
        code, said = scan.finish()
    assert code == 0, said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    for version in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert f"{version} disabled" in lines
    for version in ("TLSv1.2", "TLSv1.3"):
        assert f"{version} enabled" in lines
    assert "Session renegotiation not supported" in lines
    accepted = [line for line in lines if re.match("Accepted|Preferred", line)]
    assert accepted
    assert all(int(line.split()[2]) >= 128 for line in accepted), accepted
    assert all("DHE" in line and not WEAK.search(line) for line in accepted), accepted
    assert [line for line in lines if re.search("(?<!not )vulnerable", line)] == []
    assert server.stats().messages_in == 0


@pytest.mark.scan
@pytest.mark.timeout(1200)
def test_testssl_finds_nothing_weak(papers, ca, tmp_path):
    name = "testssl" if shutil.which("testssl") else "testssl.sh"
    report = tmp_path / "report.json"
    quiet = ("--quiet", "--warnings", "off", "--color", "0", "--ip", "one")
    checks = ("-p", "-s", "-f", "-P", "-U")
    with serving(page, ssl=papers.server()) as server:
        where = f"localhost:{server.address[1]}"
        args = (*quiet, *checks, "--add-ca", ca, "--jsonfile", report, where)
        with program(name, *args, env={**os.environ, "TERM": "dumb"}) as scan:
            _, said = scan.finish(timeout=1100)
    rows = json.loads(report.read_text())
    found = {row["id"]: row for row in rows}
    assert found["TLS1_2"]["severity"] == found["TLS1_3"]["severity"] == "OK", said
    weak = [
        (row["id"], row["severity"], row["finding"])
        for row in rows
        if row["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "WARN")
        and row["id"] not in BY_CHOICE_OF_CIPHERS
    ]
    assert weak == []
