"""The units in examples/systemd/ and examples/kubernetes/, with systemd's own tools."""

import configparser
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

import pymux

from . import util

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
UNITS = EXAMPLES / "systemd"
LINES = pymux.Lines()
ACTIVATE = "systemd-socket-activate"
PYTHON = "/opt/app/venv/bin/python"  # of the unit

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="systemd is Linux's"),
]


def unit(name):
    """The sections of a unit file."""
    found = configparser.RawConfigParser()
    found.optionxform = str
    found.read(UNITS / f"pymux-app.{name}")
    return found


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")


@needs(ACTIVATE)
def test_the_service_moves_its_clients_at_reload_and_lets_them_finish():
    command = shlex.split(unit("service")["Service"]["ExecStart"])
    assert command.pop(0) == PYTHON
    name = unit("socket")["Socket"]["FileDescriptorName"]
    address = ("127.0.0.1", util.free_port())
    path = os.pathsep.join(filter(None, sys.path))
    activate = [ACTIVATE, "-l", f"{address[0]}:{address[1]}", f"--fdname={name}"]
    child = subprocess.Popen(
        [
            *activate,
            "-E",
            f"PYTHONPATH={path}",
            sys.executable,
            *command,
            "--log-level=info",
        ],
        cwd=UNITS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            util.connect_when_up(address).close()  # this starts the command
            with pymux.connect(address, framing=LINES, timeout=20) as client:
                client.send(b"hello")
                assert client.recv() == b"HELLO"
                reload = unit("service")["Service"]["ExecReload"]
                reload = reload.replace("$MAINPID", str(child.pid))
                subprocess.run(shlex.split(reload), check=True)
                lines = iter(child.stderr.readline, "")
                assert any("gave 1 connections to" in line for line in lines)
                client.send(b"again")
                assert client.recv() == b"AGAIN"
                child.send_signal(signal.SIGTERM)
                assert client.recv() == b"the server leaves: finish, and send quit"
                client.send(b"one more")
                client.send(b"quit")
                assert [client.recv(), client.recv()] == [b"ONE MORE", b"goodbye"]
                assert client.recv() is None
            out, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert child.returncode == 0, err
    assert out.startswith(f"listening on 127.0.0.1:{address[1]} (")


@needs("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    paths = []
    for kind in "socket", "service":
        text = (UNITS / f"pymux-app.{kind}").read_text()
        text = text.replace(PYTHON, sys.executable).replace("/opt/app", str(tmp_path))
        paths.append(tmp_path / f"pymux-app.{kind}")
        paths[-1].write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [line for line in done.stderr.splitlines() if "pymux-app" in line] == []
    assert done.returncode == 0


def test_the_service_has_time_to_linger_and_drain():
    service = unit("service")["Service"]
    words = shlex.split(service["ExecStart"])
    linger = float(words[words.index("--linger") + 1])
    assert linger + 5 < float(service["TimeoutStopSec"])
    assert service["Type"] == "notify"


def test_a_pod_has_time_for_grace_linger_and_drain():
    text = (EXAMPLES / "kubernetes" / "deployment.yaml").read_text()

    def number(name):
        (found,) = [line for line in text.splitlines() if name in line]
        return float(found.replace("=", ": ").rpartition(": ")[2])

    spans = number("--grace=") + number("--linger=") + 5
    assert spans < number("terminationGracePeriodSeconds")
