"""The contenders serve as their entry says."""

import contextlib
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest

from . import build, calls, machine, runner
from .contenders import CONTENDERS
from .scenarios import SCENARIOS

MESSAGE = bytes(range(97, 123)) * 2500  # 65,000 bytes
WITH_AN_ECHO_OF_THEIR_OWN = (
    "c-epoll",
    "pymux-batch",
    "pymux-list",
    "pymux-function",
    "pymux-coroutine",
    "asyncio-protocol",
    "asyncio-streams",
    "selectors",
    "twisted",
)
OVER_TLS = [c.name for c in CONTENDERS if c.tls]
TUNED = [c.name for c in CONTENDERS if c.environment]


def named(name):
    """The contender, if it can run here."""
    contender = next(c for c in CONTENDERS if c.name == name)
    if why := contender.missing():
        pytest.skip(why)
    machine.raise_descriptor_limit()
    return contender


@contextlib.contextmanager
def started(command):
    """The server's port; skips where pymux cannot drive OpenSSL itself."""
    with contextlib.ExitStack() as stack:
        try:
            _, port, _ = stack.enter_context(runner.server(command))
        except RuntimeError as error:
            if "PYMUX_TLS=adopt" not in str(error):
                raise
            pytest.skip(str(error))
        yield port


@pytest.mark.parametrize("name", WITH_AN_ECHO_OF_THEIR_OWN)
def test_an_echo_answers_what_came(name):
    scenario = next(s for s in SCENARIOS if s.name == "echo-64k")
    command = named(name).command(scenario.framing, scenario.server)
    with (
        runner.server(command) as (_, port, _),
        socket.create_connection(("127.0.0.1", port), 20) as peer,
    ):
        peer.sendall(MESSAGE)
        with peer.makefile("rb") as answers:
            assert answers.read(len(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("name", OVER_TLS)
def test_a_contender_serves_over_tls(name):
    scenario = next(s for s in SCENARIOS if s.name == "tls-echo-64k")
    command = named(name).command(scenario.framing, scenario.server)
    context = ssl.create_default_context(cafile=build.certificate())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # itself is trusted
    with (
        started(command) as port,
        socket.create_connection(("127.0.0.1", port), 20) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as peer,
    ):
        sent = threading.Thread(target=peer.sendall, args=(MESSAGE,))
        sent.start()
        with peer.makefile("rb") as answers:
            assert answers.read(len(MESSAGE)) == MESSAGE
        sent.join()


def test_without_headers_of_openssl_nothing_runs_over_tls(monkeypatch):
    monkeypatch.setattr(build, "without_tls", lambda: "no headers")
    missing = {c.name: c.missing() for c in CONTENDERS if c.tls}
    assert missing["c-epoll-tls"] == "no headers"
    assert all(missing.values())


def test_a_server_refuses_an_echo_of_lines():
    contender = named("selectors")
    with (
        pytest.raises(RuntimeError, match="leave out --framing lines"),
        runner.server(contender.command("lines", ("--payload", "echo"))),
    ):
        pass


@pytest.mark.parametrize("name", TUNED)
def test_a_contender_runs_in_its_environment(name):
    contender = named(name)
    command = contender.command("raw", ())
    with runner.server(command) as (process, _, _):
        settings = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert settings.count(contender.environment[0].encode()) == 1
    assert contender.environment[0] in runner.shown(command)


def test_a_tuned_allocator_asks_the_system_for_no_memory():
    """Plain asyncio does at each message: that is what the tuned rows are for."""
    if not shutil.which("strace"):
        pytest.skip("no strace")
    scenario = next(s for s in SCENARIOS if s.name == "size-64k-1")
    counts = {}
    for name in ("asyncio-protocol", "asyncio-protocol-top-pad"):
        try:
            counts[name] = calls.per_message(scenario, named(name), 0.1)
        except RuntimeError as error:
            if "ptrace" not in str(error):
                raise
            pytest.skip(str(error))
    assert counts["asyncio-protocol"]["munmap"] >= 0.9
    assert sum(counts["asyncio-protocol-top-pad"].values()) < 0.3


def test_calls_are_counted_for_each_contender_that_is_named(tmp_path, capsys):
    page = tmp_path / "calls.md"
    names = ["--only", "size-64k-1", "--contenders", "selectors", "--seconds", "0.05"]
    assert calls.main([*names, "--output", str(page)]) == 0
    out, err = capsys.readouterr()
    if "selectors" not in out:
        pytest.skip(err)
    assert page.read_text() == out.rstrip() + "\n"
    assert "| selectors " in out and "munmap" in out
