"""Every code block of the README does what the README says.

The comment before a block tells how it is tried:

- `send` and `expect` (or `send_hex` and `expect_hex`): it serves; a client that sends
  the one and ends its stream gets the other.
- `prints`: it runs to its end and prints that.
- `against`: a server with that handler runs beside it; a console block, whose lines
  with `$` are commands and whose other lines are what they print.
- `file`: it is a file that later blocks use, kept under that name.
- `in_ci`: it is the test command, which .ci/run runs as it stands.

Programs and commands name port 8093; a free one takes its place.
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

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = "pip install . && "

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs sh")


class Block(NamedTuple):
    """A fenced block, and the comment right before it."""

    language: str
    text: str
    how: dict
    line: int


def blocks():
    """All fenced blocks of the README."""
    found = []
    pattern = r"(?:^<!-- test: ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$"
    for match in re.finditer(pattern, README, re.MULTILINE | re.DOTALL):
        how, language, text = match.groups()
        line = README.count("\n", 0, match.start(2)) + 1
        found.append(Block(language, text, json.loads(how or "{}"), line))
    return found


BLOCKS = blocks()


def those_with(key):
    """The blocks whose comment has a key, as parameters of a test."""
    return [
        pytest.param(block, id=f"line {block.line}")
        for block in BLOCKS
        if key in block.how
    ]


@pytest.fixture
def port():
    """A TCP port that nobody uses."""
    return util.free_port()


@pytest.fixture
def run(tmp_path, port):
    """Starts a block, in a directory with the README's files, on the free port."""
    # Not a link: a virtual environment's python finds its home by its own path.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for block in BLOCKS:
        if "file" in block.how:
            (tmp_path / block.how["file"]).write_text(block.text)
    env = dict(os.environ, PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")

    with contextlib.ExitStack() as stack:

        def start(block):
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


def test_every_block_says_how_it_is_tried():
    assert len(BLOCKS) == README.count("\n```") // 2
    for block in BLOCKS:
        assert block.how, f"line {block.line}"
        assert block.language in ("python", "sh", "console")


@pytest.mark.parametrize("block", those_with("expect") + those_with("expect_hex"))
def test_a_block_that_serves(block, run, port):
    if "numpy" in block.text:
        pytest.importorskip("numpy")
    if "pymux.aio" in block.text and util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    sent, expected = exchanged(block.how)
    process = run(block)
    with connect_when_it_serves(port, process) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_exactly(sock, len(expected)) == expected
    stop(process)


@pytest.mark.parametrize("block", those_with("prints"))
def test_a_block_that_prints(block, run):
    out, errors = run(block).communicate(timeout=30)
    assert (out, errors) == (block.how["prints"], "")


@pytest.mark.parametrize("block", those_with("against"))
def test_a_console_block(block, run, port):
    serve = f"python -m pymux serve 127.0.0.1:{port} --handler {block.how['against']}"
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


@pytest.mark.parametrize("block", those_with("in_ci"))
def test_the_test_command_is_the_one_that_ci_runs(block):
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not a checkout: there is no .ci/run here")
    for command in block.text.strip().split(" && "):
        assert command in script.read_text(encoding="utf-8")


def test_the_four_handler_forms_are_there():
    section = README.split("## Handlers\n")[1].split("\n## ")[0]
    for form in ("def handler(conn, data)", "async def handler(conn)", "batched", "cl"):
        assert form in section
