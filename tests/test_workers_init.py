"""A supervisor that is process 1, as in a container, and one that is not.

`unshare` makes a namespace of processes, in which the supervisor has the number 1.
"""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from .supervised import (
    APP,
    SCRIPT,
    Supervised,
    children_of,
    figures,
    supervised,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has namespaces")

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def may_unshare():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


# A process whose parent ends is an orphan, which process 1 gets.
ORPHANS = """
    if data == b"orphan":
        child = os.fork()
        if not child:
            if not os.fork():
                time.sleep(0.1)
                os._exit(7)
            os._exit(0)
        os.waitpid(child, 0)
    if data == b"zombies":
        found = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                text = open(f"/proc/{name}/stat").read()
            except OSError:
                continue
            found += text.rpartition(")")[2].split()[0] == "Z"
        return b"%d" % found
    if data == b"parent":
        return b"%d" % os.getppid()
    return data.upper()
"""


class First(Supervised):
    """A server with workers in a namespace of its own, in which it is process 1."""

    def __init__(self, folder):
        if not may_unshare():
            pytest.skip("needs unshare, and the right to make a namespace of processes")
        (folder / "app.py").write_text(APP.replace("    return data.upper()", ORPHANS))
        (folder / "main.py").write_text(
            SCRIPT.format(
                before="",
                handler="'app:handler'",
                address=("127.0.0.1", 0),
                options="workers=2, linger=0",
            )
        )
        super().__init__(folder, "main.py", before=UNSHARE)
        self.listen()
        (self.pid,) = children_of(self.process.pid)

    def signal(self, number):
        os.kill(self.pid, number)

    def workers(self):
        """As this namespace sees them: the end of process 1 is theirs."""
        return {}


@pytest.fixture
def first(tmp_path):
    server = First(tmp_path)
    try:
        yield server
    finally:
        server.close()


def test_process_1_waits_for_orphans(first):
    assert first.ask(b"parent") == b"1"
    for _ in range(20):
        assert first.ask(b"orphan") == b"ORPHAN"
    wait_until(lambda: len(children_of(first.pid)) == 2)
    assert first.ask(b"zombies") == b"0"
    assert not [line for line in first.log if "has ended" in line]


def test_process_1_replaces_workers_and_drains(first):
    (first.folder / "app.py").write_text(
        (first.folder / "app.py").read_text().replace("VERSION = 1", "VERSION = 2")
    )
    first.roll(2)
    wait_until(lambda: first.ask(b"version") == b"2")
    code, out = first.finish(signal.SIGTERM)
    assert code == 0
    assert figures(out)[0] >= 1


def test_process_1_tells_how_a_worker_has_ended_among_orphans(first):
    first.ask(b"orphan")
    assert first.ask(b"exit") is None
    assert first.wait_for(r"worker \d \(pid \d+\) has ended after .*: exit code 3")
    first.wait_for(r"worker \d \(pid \d+\) serves", 3)
    assert first.ask(b"hello") == b"HELLO"
    assert first.finish(signal.SIGINT)[0] == 0


def test_process_1_ends_with_1_when_a_worker_cannot_start(tmp_path):
    if not may_unshare():
        pytest.skip("needs unshare, and the right to make a namespace of processes")
    words = [sys.executable, "-m", "pymux", "serve", "127.0.0.1:0", "--workers", "2"]
    done = subprocess.run(
        [*UNSHARE, *words, "--handler", "nothing:here"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "nothing" in done.stderr


BEFORE = """
import os, subprocess, sys, threading

def ends():
    children = [
        subprocess.Popen([sys.executable, "-c", f"raise SystemExit({k})"])
        for k in range(8)
    ]
    codes = [child.wait() for child in children]
    status = os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {}), 0)[1]
    os.write(2, f"codes {codes} {os.waitstatus_to_exitcode(status)}\\n".encode())

if __name__ == "__main__":
    threading.Thread(target=ends).start()
    late = subprocess.Popen([sys.executable, "-c", "raise SystemExit(11)"])
    threading.Timer(3, lambda: os.write(2, f"late {late.wait()}\\n".encode())).start()
"""


def test_another_supervisor_leaves_the_exit_codes_to_the_users_subprocess(tmp_path):
    """Also of a child that has long ended while workers end, and are waited for."""
    with supervised(tmp_path, before=BEFORE) as server:
        server.wait_for(re.escape("codes [0, 1, 2, 3, 4, 5, 6, 7] 9"))
        assert server.ask(b"exit") is None
        server.wait_for("exit code 3")
        server.wait_for("late 11")
