"""TLS on the command line: `serve --cert`, `connect --tls`, and what may be wrong."""

import os
import re
import shutil
import socket
import ssl
import subprocess

import pytest

import pymux

from . import util
from .commands import finish, one_line
from .tls_peers import write

HERE = "127.0.0.1:0"


# -- wrong usage ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["serve", "--key", "k.pem"], "argument --key: --cert FILE is needed too"),
        (
            ["serve", HERE, "tls://127.0.0.1:0"],
            "'tls://127.0.0.1:0': --cert FILE is needed to serve TLS",
        ),
        (
            ["serve", "tcp://127.0.0.1:0", "--cert", "c.pem"],
            "'tcp://127.0.0.1:0' means plain text, and --cert is given",
        ),
        (
            ["connect", "tcp://127.0.0.1:1", "--tls"],
            "'tcp://127.0.0.1:1' means plain text, and --tls is given",
        ),
        (
            ["connect", "127.0.0.1:1", "--ca", "ca.pem"],
            "argument --ca: only with --tls, or an address like tls://HOST:PORT",
        ),
        (
            ["connect", "unix:/run/x", "--tls"],
            "'unix:/run/x': a certificate is checked for a host, which a path does not "
            "name",
        ),
        (["connect", "tls://:80"], "'tls://:80': a host and a port are needed"),
        (
            ["bench", "tls://[::1]:1"],
            "'tls://[::1]:1': bench speaks plain text alone: HOST:PORT or unix:PATH",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_of_tls_exits_with_2(pymux_command, args, line):
    code, out, err = finish(pymux_command(*args))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"pymux {args[0]}: error: {line}"


# -- files ---------------------------------------------------------------------------


@pytest.fixture
def files(papers, tmp_path):
    """Where the command runs: good files and bad ones, by short names."""
    cert, key = write(papers.certificate(), tmp_path)
    os.rename(cert, tmp_path / "cert.pem")
    os.rename(key, tmp_path / "key.pem")
    os.rename(write(papers.certificate(), tmp_path)[1], tmp_path / "other.pem")
    papers.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--cert", "none"], "cannot read none: No such file or directory"),
        (["--cert", "folder"], "cannot read folder: Is a directory"),
        (
            ["--cert", "cert.pem", "--key", "none"],
            "cannot read none: No such file or directory",
        ),
        (["--cert", "text"], "no certificate in PEM in text"),
        (["--cert", "empty", "--key", "key.pem"], "no certificate in PEM in empty"),
        (["--cert", "key.pem"], "no certificate in PEM in key.pem"),
        (["--cert", "cert.pem"], "no private key in PEM in cert.pem"),
        (["--cert", "cert.pem", "--key", "text"], "no private key in PEM in text"),
        (
            ["--cert", "cert.pem", "--key", "other.pem"],
            "the key in other.pem does not fit the certificate in cert.pem",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_file_that_is_of_no_use_to_serve_is_one_line(
    pymux_command, files, args, line
):
    assert one_line(pymux_command("serve", HERE, *args)) == (1, line)


def test_a_key_that_is_encrypted_is_one_line(pymux_command, files, tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    args = ("serve", HERE, "--cert", "cert.pem", "--key", "locked.pem")
    assert one_line(pymux_command(*args)) == (
        1,
        "the key in locked.pem is encrypted; one without is needed",
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("none", "cannot read none: No such file or directory"),
        ("text", "no certificate in PEM in text"),
        ("key.pem", "no certificate in PEM in key.pem"),
    ],
)
def test_authorities_that_cannot_be_read_are_one_line(pymux_command, files, name, line):
    for where in (["127.0.0.1:1", "--tls"], ["tls://127.0.0.1:1"]):
        process = pymux_command("connect", *where, "--ca", name)
        assert one_line(process) == (1, line)


# -- what works ----------------------------------------------------------------------

CERT = ("--cert", "cert.pem", "--key", "key.pem")


@pytest.fixture
def secured(serve, files):
    """`pymux serve` over TLS, with the fixture's certificate."""
    return serve(*CERT)


def port_of(process):
    return process.address[1]


def talk(pymux_command, *args, data=b"hello"):
    """(exit code, output, errors) of `pymux connect` that sends some bytes."""
    process = pymux_command("connect", *args, stdin=subprocess.PIPE)
    out, err = process.communicate(data, timeout=30)
    return process.returncode, out, err.decode()


def test_connect_talks_to_serve_over_tls(pymux_command, secured):
    port = port_of(secured)
    for where in (["--tls", f"localhost:{port}"], [f"tls://127.0.0.1:{port}"]):
        assert talk(pymux_command, *where, "--ca", "ca.pem") == (0, b"HELLO", "")


def test_a_certificate_and_its_key_may_stand_in_one_file(
    pymux_command, serve, files, tmp_path
):
    both = (tmp_path / "cert.pem").read_bytes() + (tmp_path / "key.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    server = serve("--cert", "both.pem", address="tls://127.0.0.1:0")
    where = f"tls://localhost:{port_of(server)}"
    assert talk(pymux_command, where, "--ca", "ca.pem") == (0, b"HELLO", "")


def test_serve_outlives_peers_of_plain_text(pymux_command, secured):
    with util.connect(secured.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        util.until_end(sock)
    where = f"tls://localhost:{port_of(secured)}"
    assert talk(pymux_command, where, "--ca", "ca.pem") == (0, b"HELLO", "")


def capitals(conn, data):
    return data.upper()


# -- what is refused -----------------------------------------------------------------


def test_an_unknown_authority_is_one_line(pymux_command, secured):
    where = f"localhost:{port_of(secured)}"
    code, out, err = talk(pymux_command, where, "--tls")
    assert (code, out) == (1, b"")
    assert re.fullmatch(
        rf"the certificate of {where} is refused: .*(issuer|self).* "
        r"\(--ca FILE trusts an issuer\)\n",
        err,
    )


def test_a_wrong_name_is_one_line(pymux_command, serve, papers, tmp_path, files):
    cert, key = write(papers.certificate("other.example"), tmp_path, "other")
    server = serve("--cert", cert, "--key", key)
    where = f"tls://localhost:{port_of(server)}"
    code, out, err = talk(pymux_command, where, "--ca", "ca.pem")
    assert (code, out) == (1, b"")
    assert re.fullmatch(
        rf"the certificate of {where} is refused: [Hh]ostname mismatch.*\n", err
    )
    assert not err.endswith(".\n")


def test_an_expired_certificate_is_one_line(
    pymux_command, serve, papers, tmp_path, files
):
    cert, key = write(papers.expired(), tmp_path, "expired")
    server = serve("--cert", cert, "--key", key)
    where = f"tls://localhost:{port_of(server)}"
    line = f"the certificate of {where} is refused: certificate has expired\n"
    assert talk(pymux_command, where, "--ca", "ca.pem") == (1, b"", line)


@pytest.mark.parametrize("handler", ["upper", "plain:greet"])
def test_a_server_of_plain_text_is_one_line(
    pymux_command, serve, tmp_path, files, handler
):
    """One that answers a hello in capitals, or by a greeting."""
    (tmp_path / "plain.py").write_text("def greet(conn, data): return b'220 hello\\n'")
    where = f"tls://localhost:{port_of(serve('--handler', handler))}"
    code, out, err = talk(pymux_command, where, "--ca", "ca.pem")
    assert (code, out) == (1, b"")
    assert re.fullmatch(
        rf"no TLS, perhaps plain text, comes from {where} \([a-z ]+\)\n", err
    )


def test_a_server_that_ends_at_the_hello_is_one_line(pymux_command, files):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        process = pymux_command("connect", where, "--ca", "ca.pem")
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
        assert one_line(process) == (
            1,
            f"cut off, with no close_notify of TLS: {where}",
        )


def test_a_server_that_asks_for_a_certificate_is_one_line(pymux_command, files, papers):
    context = papers.server(verify_mode=ssl.CERT_REQUIRED)
    papers.ca.configure_trust(context)
    with pymux.Server(capitals, ("127.0.0.1", 0), ssl=context) as server:
        where = f"tls://localhost:{server.address[1]}"
        code, out, err = talk(pymux_command, where, "--ca", "ca.pem")
    assert (code, out) == (1, b"")
    assert re.fullmatch(rf"TLS was refused by {where}: .*certificate required\n", err)


# -- other programs ------------------------------------------------------------------


def program(name, *args, **options):
    """A child process of another program, whose streams are pipes."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([path, *args], **streams, **options)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_talks_to_serve(secured, tmp_path, version):
    where = f"127.0.0.1:{port_of(secured)}"
    args = ("-connect", where, "-CAfile", str(tmp_path / "ca.pem"), version)
    verify = ("-verify_return_error", "-verify_hostname", "localhost")
    with program("openssl", "s_client", *args, *verify, "-quiet") as client:
        try:
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"HELLO\n"
        finally:
            client.kill()


@pytest.mark.parametrize("version", ["--tls-max=1.2", "--tlsv1.3"])
def test_curl_talks_to_serve(serve, files, tmp_path, version):
    (tmp_path / "web.py").write_text(
        "def handler(conn, data):\n"
        "    return b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello'\n"
    )
    server = serve(*CERT, "--handler", "web:handler")
    options = ("--silent", "--show-error", "--cacert", str(tmp_path / "ca.pem"))
    url = f"https://localhost:{port_of(server)}/"
    with program("curl", *options, *version.split("="), url) as client:
        assert client.communicate(timeout=30)[0] == b"hello"
        assert client.returncode == 0


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_connect_talks_to_openssl(pymux_command, files, tmp_path, version):
    args = ("-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem")
    with program("openssl", "s_server", *args, "-rev", version, cwd=tmp_path) as server:
        try:
            lines = iter(server.stdout.readline, b"")
            accepting = next(line for line in lines if line.startswith(b"ACCEPT "))
            where = "tls://" + accepting.split()[1].decode()
            answer = talk(pymux_command, where, "--ca", "ca.pem", data=b"hello\n")
            assert answer == (0, b"olleh\n", "")
        finally:
            server.kill()
