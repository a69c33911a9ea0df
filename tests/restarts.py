"""Replace workers under load, and count what the clients saw.

    python -m tests.restarts --restarts 100
    python -m tests.restarts --restarts 20 --connections 10000 --think 5 --short 0

Two loads run at once: connections that stay, and connections of one request. Each has
a part without framing, a part of 32 pipelined lines, and a part of length-prefixed
frames that come in pieces, a third of whose readers are slow. Every answer is
compared. The command ends with 0 if no request failed, no connection was lost and no
byte was wrong.
"""

import argparse
import contextlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .supervised import Supervised

APP = "def handler(conn, data):\n    return data.upper()\n"
SCRIPT = """
import logging
import pymux

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    framings = [None, pymux.Lines(), pymux.LengthPrefix()]
    places = [
        pymux.Endpoint(("127.0.0.1", 0), framing=framing) for framing in framings
    ]
    stats = pymux.serve("app:handler", places, workers={workers})
    print(stats.accepted, stats.messages_in)
"""
KINDS = ("raw", "lines", "prefixed")
BAD = ("failed", "reconnects", "wrong", "unanswered")
READY = 120  # seconds for every client's first answer
LAST = 90  # seconds for the last answers


class Load:
    """One process of clients."""

    def __init__(self, kind, address, connections, think, short):
        self.name = f"{kind}, {'short' if short else 'persistent'}"
        command = [sys.executable, "-m", "tests.restart_clients", kind]
        command += map(str, (*address, connections, think))
        self.process = subprocess.Popen(
            command + ["--short"] * short,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self):
        assert self.process.stdout.readline() == "ready\n", self.name

    def finish(self):
        """End the load; what its clients saw."""
        out, _ = self.process.communicate("", timeout=LAST)
        return json.loads(out)


def run(restarts, connections, short, think, workers=2, gap=0.3, say=print):
    """Replace workers that often; (what each load saw, restarts, seconds)."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "app.py").write_text(APP)
        (folder / "main.py").write_text(SCRIPT.format(workers=workers))
        server = Supervised(folder, "main.py")
        stack.callback(server.close)
        found = server.wait_for("listening on (.*) with")[1].split(", ")
        addresses = [("127.0.0.1", int(one.rpartition(":")[2])) for one in found]
        loads = []
        for kind, address in zip(KINDS, addresses):
            for count, pause, is_short in ((connections, think, 0), (short, 0.002, 1)):
                if count:
                    each = -(-count // len(KINDS))
                    loads.append(Load(kind, address, each, pause, is_short))
                    stack.callback(loads[-1].process.kill)
        for load in loads:
            load.wait_ready()
        say(f"{len(loads)} loads run", flush=True)
        began, done = time.monotonic(), 0
        while done < restarts:
            server.roll(workers)
            done += workers
            time.sleep(gap)
        took = time.monotonic() - began
        seen = {load.name: load.finish() for load in loads}
        code, _ = server.finish(signal.SIGTERM)
        assert code == 0, server.log[-20:]
        bad = [line for line in server.log if "ended after" in line]
        assert not bad, server.log
    return seen, done, took


def faults(seen):
    """How many requests failed, connections were lost, bytes were wrong."""
    return sum(one.get(name, 0) for one in seen.values() for name in BAD)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--connections", type=int, default=150, help="that stay")
    parser.add_argument("--short", type=int, default=12, help="of one request")
    parser.add_argument("--think", type=float, default=0.01, help="seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gap", type=float, default=0.3, help="seconds")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seen, done, took = run(**vars(args))
    for name, one in seen.items():
        print(f"{name}: {json.dumps(one)}")
    answers = sum(one["answers"] for one in seen.values())
    print(
        f"{done} restarts in {took:.0f} s under {answers} requests: "
        f"{faults(seen)} failed, reconnected or wrong"
    )
    return 1 if faults(seen) else 0


if __name__ == "__main__":
    raise SystemExit(main())
