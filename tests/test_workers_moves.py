"""What clients see while workers are replaced, killed, stopped, or do not start."""

import contextlib
import os
import re
import signal
import socket
import sys
import time

import pytest

from .restarts import faults, run
from .supervised import PATIENCE, is_alive, supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")

# An object with a state, which moves by `leaving` and `taken`. The heir, or the worker
# that leaves, ends a process in the middle of a move if a file asks for that.
GAME = """
import os
import signal


def end(name, pid):
    if os.path.exists(name):
        os.unlink(name)
        os.kill(pid, signal.SIGKILL)


class Game:
    def opened(self, conn):
        conn.state = 0

    def received(self, conn, data):
        conn.state += 1
        return b"%s %d %d\\n" % (data, conn.state, os.getpid())

    def leaving(self, conn):
        end("kill the supervisor", os.getppid())
        return b"%d" % conn.state

    def taken(self, conn, state):
        conn.state = int(state)
        end("kill the heir", os.getpid())


game = Game()
"""

# It does not go when it lingers, until the linger is over.
DRAINING = "class Game:", "class Game:\n    def draining(self, conn):\n        pass\n"
STAYS = GAME.replace(*DRAINING)

# Its workers write what they log, too.
LOGS = """
import logging

logging.basicConfig(level="INFO")


def handler(conn, data):
    return data
"""

# Its connections leave when a file is there.
LATER = GAME.replace(
    'return b"%d" % conn.state',
    'return b"%d" % conn.state if os.path.exists("go") else None',
)

LATER_STAYS = LATER.replace(*DRAINING)

# As LATER; and the heir stops its giver before it ends itself.
LATER_STOPS = LATER.replace(
    'end("kill the heir", os.getpid())',
    """if os.path.exists("stop"):
            os.kill(int(open("stop").read()), signal.SIGSTOP)
            end("stop", os.getpid())""",
)

# Answers later.
SLOW = """
class Slow:
    def __init__(self):
        self.asked = set()

    def received(self, conn, data):
        self.asked.add(conn)
        conn.mux.call_later(1.5, self.answer, conn, data)
        return b"soon 1\\n"

    def answer(self, conn, data):
        self.asked.discard(conn)
        conn.send(b"%s 1\\n" % data)

    def leaving(self, conn):
        return None if conn in self.asked else b""


slow = Slow()
"""


@contextlib.contextmanager
def clients(server, count):
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            sock = socket.create_connection(server.address, timeout=PATIENCE)
            made.append(stack.enter_context(sock))
        yield made


def ask(sock, data=b"hello"):
    """The words of one answer; None if the connection has ended."""
    try:
        sock.sendall(data)
        answer = b""
        while not answer.endswith(b"\n"):
            part = sock.recv(1000)
            if not part:
                return None
            answer += part
    except ConnectionError:
        return None
    return answer.split()


def ask_all(socks):
    """What each of some clients is answered, asked at once."""
    for sock in socks:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"hello")
    answers = []
    for sock in socks:
        try:
            answer = sock.recv(1000)
        except ConnectionError:
            answer = b""
        answers.append(answer.split() or None)
    return answers


def playing(tmp_path, **options):
    return supervised(tmp_path, app=GAME, handler="'app:game'", **options)


def test_restarts_under_load_fail_no_request_and_end_no_connection():
    seen, restarts, _ = run(2, connections=15, short=3, think=0.01, gap=0)
    assert restarts == 2
    assert faults(seen) == 0, seen
    assert all(one["answers"] > 0 for one in seen.values())


def test_connections_move_to_the_new_worker_with_their_state(tmp_path):
    with playing(tmp_path) as server, clients(server, 20) as socks:
        before = ask_all(socks)
        server.roll(2)
        server.wait_for(r"gave \d+ connections to", 2)
        after = ask_all(socks)
        assert [one[:2] for one in after] == [[b"hello", b"2"]] * 20
        assert not {one[2] for one in before} & {one[2] for one in after}


def test_without_handover_connections_stay_in_the_old_worker(tmp_path):
    workers = "pymux.Workers(1, handover=False)"
    with (
        supervised(
            tmp_path, app=STAYS, handler="'app:game'", workers=workers, linger="3600"
        ) as server,
        clients(server, 3) as socks,
    ):
        before = ask_all(socks)
        server.roll(1)
        after = ask_all(socks)
        assert [one[2] for one in before] == [one[2] for one in after]


def test_bad_code_at_sighup_is_not_noticed_by_clients(tmp_path):
    with playing(tmp_path) as server, clients(server, 20) as socks:
        before = ask_all(socks)
        (tmp_path / "app.py").write_text("nonsense(\n")
        server.signal(signal.SIGHUP)
        server.wait_for("could not start: SyntaxError")
        after = ask_all(socks)
        assert [one[1:] for one in after] == [[b"2", one[2]] for one in before]


def test_clients_of_a_killed_worker_alone_notice(tmp_path):
    with playing(tmp_path) as server, clients(server, 40) as socks:
        before = ask_all(socks)
        (killed, _) = server.workers().values()
        os.kill(killed, signal.SIGKILL)
        server.wait_for(rf"pid {killed}\) has ended after .*: SIGKILL")
        for sock, was in zip(socks, before):
            answer = ask(sock)
            assert answer == (
                None if int(was[2]) == killed else [b"hello", b"2", was[2]]
            )
        with clients(server, 20) as more:  # nobody is refused meanwhile
            assert None not in ask_all(more)


def test_an_heir_killed_in_the_middle_of_a_move_takes_only_what_it_had(tmp_path):
    with playing(tmp_path, workers="1") as server, clients(server, 450) as socks:
        before = ask_all(socks)
        (tmp_path / "kill the heir").touch()
        (old,) = server.workers().values()
        server.signal(signal.SIGHUP)
        server.wait_for(rf"worker 0 \(pid {old}\) serves on, with its connections")
        after = ask_all(socks)
        lost = after.count(None)
        assert 0 < lost <= 200  # one batch
        kept = [one for one in after if one is not None]
        assert [one[1] for one in kept] == [b"2"] * len(kept)
        server.wait_for(r"takes over from", 2)  # and a new heir takes them in the end
        again = ask_all([sock for sock, one in zip(socks, after) if one is not None])
        assert [one[1] for one in again] == [b"3"] * len(kept)
        assert before.count(None) == 0


def test_a_gift_that_has_failed_does_not_end_the_next_one(tmp_path):
    with (
        supervised(
            tmp_path, app=LATER_STOPS, handler="'app:game'", workers="1"
        ) as server,
        clients(server, 300) as socks,
    ):
        ask_all(socks)
        (old,) = server.workers().values()
        (tmp_path / "stop").write_text(str(old))
        (tmp_path / "go").touch()
        server.signal(signal.SIGHUP)
        server.wait_for("takes over from", 2)  # the second heir does
        (tmp_path / "go").unlink()
        os.kill(old, signal.SIGCONT)  # it hears of both gifts at once
        time.sleep(2)  # in which it could be told to leave
        kept = [sock for sock, one in zip(socks, ask_all(socks)) if one is not None]
        assert len(kept) >= 100  # one batch is gone
        (tmp_path / "go").touch()
        server.wait_for(rf"gave {len(kept)} connections to")
        assert [one[1] for one in ask_all(kept)] == [b"3"] * len(kept)


def test_a_supervisor_killed_in_the_middle_of_a_move_costs_no_answer(tmp_path):
    with playing(tmp_path) as server, clients(server, 300) as socks:
        ask_all(socks)
        (tmp_path / "kill the supervisor").touch()
        for sock in socks:
            sock.sendall(b"last")
        server.signal(signal.SIGHUP)
        server.process.wait(PATIENCE)
        for sock in socks:
            answer = b""
            while part := sock.recv(1000):  # the workers drain, and end in order
                answer += part
            assert answer.split()[:2] == [b"last", b"2"]
        wait_until(lambda: not any(map(is_alive, server.workers().values())))


def test_clients_of_a_stopped_worker_wait_and_are_answered(tmp_path):
    with playing(tmp_path) as server, clients(server, 40) as socks:
        before = ask_all(socks)
        (stopped, _) = server.workers().values()
        os.kill(stopped, signal.SIGSTOP)
        server.wait_for("accepts for slot 0 too")
        with clients(server, 20) as more:
            assert stopped not in {int(one[2]) for one in ask_all(more)}
        for sock in socks:
            sock.sendall(b"hello")
        os.kill(stopped, signal.SIGCONT)
        for sock, was in zip(socks, before):
            assert sock.recv(1000).split() == [b"hello", b"2", was[2]]


def test_sigterm_to_a_worker_replaces_it_and_no_client_notices(tmp_path):
    with playing(tmp_path, workers="1") as server, clients(server, 20) as socks:
        ask_all(socks)
        (old,) = server.workers().values()
        os.kill(old, signal.SIGTERM)
        server.wait_for(rf"pid {old}\) is replaced: it was sent SIGTERM")
        wait_until(lambda: not is_alive(old))
        assert [one[1] for one in ask_all(socks)] == [b"2"] * 20


def test_ttou_gives_the_connections_to_a_neighbour(tmp_path):
    with playing(tmp_path) as server, clients(server, 40) as socks:
        ask_all(socks)
        gone = server.workers()[1]
        server.signal(signal.SIGTTOU)
        wait_until(lambda: not is_alive(gone))
        assert [one[1] for one in ask_all(socks)] == [b"2"] * 40


def test_ttou_gives_the_connections_to_a_neighbour_that_stands_still(tmp_path):
    """The worker that leaves serves its clients until the neighbour goes on."""
    with playing(tmp_path) as server, clients(server, 40) as socks:
        before = ask_all(socks)
        stays, gone = server.workers().values()
        theirs = [sock for sock, one in zip(socks, before) if int(one[2]) == gone]
        os.kill(stays, signal.SIGSTOP)
        server.wait_for("was stopped by a signal")
        server.signal(signal.SIGTTOU)
        server.wait_for("takes over from worker 1")
        assert [one[1:] for one in ask_all(theirs)] == [[b"2", b"%d" % gone]] * 20
        os.kill(stays, signal.SIGCONT)
        server.wait_for("gave 20 connections to worker 0")
        assert [one[1:] for one in ask_all(theirs)] == [[b"3", b"%d" % stays]] * 20


def test_two_sighups_during_a_gift_end_no_connection(tmp_path):
    with (
        supervised(tmp_path, app=LATER, handler="'app:game'", workers="1") as server,
        clients(server, 3) as socks,
    ):
        ask_all(socks)
        server.roll(1)
        since = len(server.log)
        server.signal(signal.SIGHUP)
        server.wait_for("the workers are replaced", since=since)
        time.sleep(1)  # in which a third worker could be ready
        assert [one[1] for one in ask_all(socks)] == [b"2"] * 3
        (tmp_path / "go").touch()
        server.wait_for("gave 3 connections to", 2)
        (last,) = server.workers().values()
        assert ask_all(socks) == [[b"hello", b"3", b"%d" % last]] * 3


def test_a_neighbour_is_replaced_only_when_it_has_taken(tmp_path):
    with (
        supervised(tmp_path, app=LATER, handler="'app:game'") as server,
        clients(server, 20) as socks,
    ):
        ask_all(socks)
        server.signal(signal.SIGTTOU)
        server.wait_for("takes over from worker 1")
        server.signal(signal.SIGHUP)
        server.wait_for("the workers are replaced")
        time.sleep(1)  # in which a new worker 0 could be ready
        assert [one[1] for one in ask_all(socks)] == [b"2"] * 20
        (tmp_path / "go").touch()
        server.wait_for("gave 20 connections to")
        last = server.workers()[0]
        assert ask_all(socks) == [[b"hello", b"3", b"%d" % last]] * 20


def test_a_worker_that_is_taking_leaves_at_ttou_when_it_has_taken(tmp_path):
    with (
        supervised(tmp_path, app=LATER, handler="'app:game'") as server,
        clients(server, 20) as socks,
    ):
        ask_all(socks)
        server.roll(2)
        server.signal(signal.SIGTTOU)
        assert [one[1] for one in ask_all(socks)] == [b"2"] * 20
        (tmp_path / "go").touch()
        server.wait_for("gave .* connections to worker 0", 2)
        last = server.workers()[0]
        assert ask_all(socks) == [[b"hello", b"3", b"%d" % last]] * 20


def test_a_connection_that_cannot_leave_now_is_answered_by_the_old_worker(tmp_path):
    with (
        supervised(tmp_path, app=SLOW, handler="'app:slow'", workers="1") as server,
        clients(server, 3) as socks,
    ):
        assert ask_all(socks) == [[b"soon", b"1"]] * 3
        server.roll(1)
        assert [sock.recv(100) for sock in socks] == [b"hello 1\n"] * 3
        server.wait_for("gave 3 connections to")
        assert [one[1] for one in ask_all(socks)] == [b"1"] * 3


def test_an_old_worker_has_ended_when_its_linger_and_drain_are_over(tmp_path):
    with (
        supervised(
            tmp_path, app=LATER_STAYS, handler="'app:game'", workers="1", linger="4"
        ) as server,
        clients(server, 3) as socks,
    ):
        ask_all(socks)
        (old,) = server.workers().values()
        server.roll(1)
        began = time.monotonic()
        wait_until(lambda: not is_alive(old))
        # Not twice the linger. They are idle, so no time is needed to drain.
        assert 4 <= time.monotonic() - began < 7.5


def about_connections(server):
    with server.more:
        return [line for line in server.log if "connections" in line]


def test_an_old_worker_s_connections_are_one_line_of_the_log(tmp_path):
    with supervised(tmp_path, app=LOGS) as server, clients(server, 4) as socks:
        for sock in socks:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
        olds = server.workers().values()
        server.roll(2)
        wait_until(lambda: not any(map(is_alive, olds)))
        said = about_connections(server)
        assert len(said) == 2
        assert all(
            re.search(r"gave \d connections to .* \(pid \d+\)$", one) for one in said
        )
        server.finish(signal.SIGTERM)
        stops, stopped = about_connections(server)[2:]
        assert "stops: 4 connections end one by one within 20 s" in stops
        assert "has stopped: 4 connections, 4 messages in, 4 out" in stopped


def test_what_becomes_of_connections_that_stay_is_told_at_the_end(tmp_path):
    with (
        supervised(
            tmp_path,
            app=STAYS.replace("def taken", "def other"),
            handler="'app:game'",
            workers="1",
            linger="1",
        ) as server,
        clients(server, 3) as socks,
    ):
        ask_all(socks)
        server.roll(1)
        server.wait_for("has ended: of the 3 connections that stayed 0 were reset")
        assert len(about_connections(server)) == 2
