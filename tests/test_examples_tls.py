"""examples/tls.py serves over TLS, and takes a renewed certificate."""

import contextlib
import os
import pathlib
import signal

import pytest

import pymux

from .processes import python
from .tls_peers import write
from .util import wait_until

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "tls.py"

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="stopped by a signal"),
]


@contextlib.contextmanager
def running(papers, folder, *names):
    """The example with a certificate for some names, and its port."""
    with python(EXAMPLE, *write(papers.certificate(*names), folder), 0) as child:
        yield child, int(child.stdout.readline().split()[-1])
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        assert (child.returncode, out) == (0, "")
        child.said = err


def answer(port, papers, name):
    """What the example answers, if its certificate is for a name."""
    with pymux.connect(
        ("127.0.0.1", port),
        framing=pymux.Lines(),
        ssl=papers.client(),
        server_hostname=name,
        timeout=20,
    ) as client:
        client.send(b"hello")
        return client.recv()


def has(port, papers, name):
    try:
        return answer(port, papers, name) == b"HELLO"
    except OSError:
        return False


def test_a_renewed_certificate_is_taken_at_sighup(papers, tmp_path):
    with running(papers, tmp_path, "old.example") as (child, port):
        assert answer(port, papers, "old.example") == b"HELLO"
        write(papers.certificate("new.example"), tmp_path)
        child.send_signal(signal.SIGHUP)
        wait_until(lambda: has(port, papers, "new.example"))
    assert child.said == ""


def test_a_certificate_that_cannot_be_read_leaves_the_old_one(papers, tmp_path):
    with running(papers, tmp_path, "old.example") as (child, port):
        (tmp_path / "server-key.pem").write_text("half written")
        child.send_signal(signal.SIGHUP)
        line = child.stderr.readline()
        assert line.startswith("the old certificate stays: ")
        assert answer(port, papers, "old.example") == b"HELLO"


def test_a_file_that_is_missing_ends_it_with_one_line(tmp_path):
    with python(EXAMPLE, tmp_path / "cert.pem", tmp_path / "key.pem") as child:
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert "No such file" in err
