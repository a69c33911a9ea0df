"""Every code block of the README and of the pages of docs/ does what its page says.

The comment before a block tells how it is tried:

- `send` and `expect` (or `send_hex` and `expect_hex`): it serves; a client that sends
  the one and ends its stream gets the other. With `at_stop` the client does not end its
  stream, and gets that when the server is stopped.
- `prints`: it runs to its end and prints that.
- `against`: a server with that handler runs beside it; a console block, whose lines
  with `$` are commands and whose other lines are what they print.
- `beside`: the same, beside a block that is a file and serves.
- `file`: it is a file that other blocks of its page use, kept under that name.
- `in_ci`: it is a command that .ci/run runs as it stands.
- `tls`: with `send`, the client speaks TLS.
- `named`: commands for those who work on pymux; the files and targets that they name
  exist.

Programs and commands name port 8093; a free one takes its place. The files cert.pem,
key.pem (for localhost and 127.0.0.1) and ca.pem are there.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from . import util
from .tls import ends, secure
from .tls_peers import write

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
CHECKOUT = (ROOT / ".ci" / "run").exists()
INSTALL = "pip install . && "

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs sh")


class Block(NamedTuple):
    """A fenced block, and the comment right before it."""

    page: str
    line: int
    language: str
    text: str
    how: dict


def blocks(page):
    """All blocks of code of a page: not its diagrams, not what Sphinx puts in."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    pattern = r"(?:^<!-- test: ([^\n]*) -->\n)?^```([^\n]*)\n(.*?)^```$"
    found = []
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        how, language, code = match.groups()
        line = text.count("\n", 0, match.start(2)) + 1
        if language not in ("", "text") and not language.startswith("{"):
            found.append(Block(name, line, language, code, json.loads(how or "{}")))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def those_with(key):
    """The blocks whose comment has a key, as parameters of a test."""
    return [
        pytest.param(block, id=f"{block.page}:{block.line}")
        for block in BLOCKS
        if key in block.how
    ]


@pytest.fixture
def port():
    """A TCP port that nobody uses."""
    return util.free_port()


@pytest.fixture
def run(tmp_path, port, papers):
    """Starts a block, in a directory with its page's files, on the free port."""
    # Not a link: a virtual environment's python finds its home by its own path.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    cert, key = write(papers.certificate(), tmp_path)
    os.rename(cert, tmp_path / "cert.pem")
    os.rename(key, tmp_path / "key.pem")
    papers.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    env = dict(os.environ, PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")

    with contextlib.ExitStack() as stack:

        def start(block):
            for one in BLOCKS:
                if one.page == block.page and "file" in one.how:
                    code = one.text.replace("8093", str(port))
                    (tmp_path / one.how["file"]).write_text(code)
            text = block.text.replace("8093", str(port))
            if block.language == "python":
                command = ["python", "-c", text]
            else:
                if text.startswith(INSTALL):  # what .ci/run has done
                    text = text[len(INSTALL) :]
                    if "127.0.0.1:" not in text:
                        text = text.rstrip("\n") + f" 127.0.0.1:{port}"
                command = ["sh", "-c", "exec " + text]
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def connect_when_it_serves(port, process):
    """A socket connected to a server that is starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return util.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def exchanged(how):
    """The bytes to send and to expect."""
    if "send" in how:
        return how["send"].encode(), how["expect"].encode()
    return bytes.fromhex(how["send_hex"]), bytes.fromhex(how["expect_hex"])


def stop(process):
    """End a server as Ctrl-C does; nothing but KeyboardInterrupt may be printed."""
    process.send_signal(2)
    _, errors = process.communicate(timeout=30)
    if errors:  # a program with a loop of its own
        assert errors.rstrip().endswith("KeyboardInterrupt"), errors


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=f"{b.page}:{b.line}") for b in BLOCKS]
)
def test_every_block_says_how_it_is_tried(block):
    assert block.how
    assert block.language in ("python", "sh", "console")


@pytest.mark.parametrize("block", those_with("expect") + those_with("expect_hex"))
def test_a_block_that_serves(block, run, port, papers):
    if "numpy" in block.text:
        pytest.importorskip("numpy")
    if "pymux.aio" in block.text and util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    sent, expected = exchanged(block.how)
    process = run(block)
    if "tls" in block.how:
        connect_when_it_serves(port, process).close()
        with secure(("127.0.0.1", port), papers.client()) as sock:
            sock.sendall(sent)
            assert util.recv_exactly(sock, len(expected)) == expected
            ends(sock)
        stop(process)
        return
    with connect_when_it_serves(port, process) as sock:
        sock.sendall(sent)
        if "at_stop" not in block.how:
            sock.shutdown(socket.SHUT_WR)
        assert util.recv_exactly(sock, len(expected)) == expected
        if "at_stop" in block.how:
            process.send_signal(2)
            assert util.recv_all(sock) == block.how["at_stop"].encode()
    stop(process)


@pytest.mark.parametrize("block", those_with("prints"))
def test_a_block_that_prints(block, run):
    out, errors = run(block).communicate(timeout=30)
    assert (out, errors) == (block.how["prints"], "")


@pytest.mark.parametrize("block", those_with("against") + those_with("beside"))
def test_a_console_block(block, run, port):
    serve = f"python -m pymux serve 127.0.0.1:{port} --handler "
    serve += block.how.get("against", "echo")
    if "beside" in block.how:
        serve = f"python {block.how['beside']}"
    server = run(block._replace(language="sh", text=serve))
    connect_when_it_serves(port, server).close()
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert commands
    for command, expected in commands:
        script = block._replace(language="sh", text=f"sh -c {quoted(command)}")
        out, errors = run(script).communicate(timeout=30)
        assert (out, errors) == (expected, "")
    stop(server)


def quoted(command):
    return "'" + command.replace("'", "'\\''") + "'"


@pytest.mark.skipif(not CHECKOUT, reason="not a checkout: there is no .ci/run here")
@pytest.mark.parametrize("block", those_with("in_ci"))
def test_a_command_is_one_that_ci_runs(block):
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in block.text.strip().split(" && "):
        assert command in script


@pytest.mark.skipif(not CHECKOUT, reason="not a checkout: not all files are here")
@pytest.mark.parametrize("block", those_with("named"))
def test_what_a_command_names_exists(block):
    lines = block.text.splitlines()
    commands = [line.partition("  #")[0].strip() for line in lines]
    for line in (one for command in commands for one in command.split(" && ")):
        if line.startswith("make "):
            subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, check=True)
        for path in re.findall(r"[\w.]*/[\w./]+", re.sub(r"[\d.]+:\d+\S*", "", line)):
            assert (ROOT / path).exists() or path.startswith("build/"), line
        for extras in re.findall(r"\.\[([\w,]+)\]", line):
            for extra in extras.split(","):
                assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.skipif(not CHECKOUT, reason="not a checkout: not all files are here")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_each_page_is_in_the_table_of_contents():
    if len(PAGES) == 1:
        pytest.skip("docs/ is not here")
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").with_suffix("") for page in PAGES[1:]]
    listed = index.splitlines()
    assert [p for p in pages if p.as_posix() not in [*listed, "index"]] == []


def test_the_four_handler_forms_are_in_the_readme():
    text = PAGES[0].read_text(encoding="utf-8")
    section = text.split("## Handlers\n")[1].split("\n## ")[0]
    for form in ("def handler(conn, data)", "async def handler(conn)", "batched", "cl"):
        assert form in section


def test_the_readme_is_short():
    text = PAGES[0].read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$|^\|.*?$|<!--.*?-->", "", text, flags=re.M | re.S)
    assert len(prose.split()) <= 950
