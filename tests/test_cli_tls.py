"""TLS on the command line: `serve --cert`, `connect --tls`, and what may be wrong."""

import os

import pytest

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
        (["bench", "tls://[::1]:1"], "'tls://[::1]:1': bench speaks plain text alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_of_tls_exits_with_2(pymux_command, args, line):
    code, out, err = finish(pymux_command(*args))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"pymux: error: {line}"


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
