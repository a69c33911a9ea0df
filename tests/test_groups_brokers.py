"""Groups over real brokers, in several processes: killed, stopped, slow.

Every message is accounted for: it was delivered, or is in a gap that was told of.
"""

import os
import signal
import threading
import time

import pytest

from . import util
from .brokers import KINDS, running

pytestmark = pytest.mark.skipif(os.name != "posix", reason="real brokers are Unix's")
PATIENCE = 40  # seconds


@pytest.fixture(params=["nats", "redis"])
def broker(request, tmp_path):
    """A real broker of each kind, to be started."""
    broker = KINDS[request.param](tmp_path)
    yield broker
    broker.kill()


def accounted(heard, name, count):
    """Wait until each message of a sender was heard, or told of as lost."""

    def is_whole():
        return heard.count(name) + heard.lost >= count

    try:
        util.wait_until(is_whole, timeout=PATIENCE)
    except AssertionError:
        raise AssertionError((heard.count(name), heard.lost, count)) from None
    assert heard.count(name) + heard.lost == count
    assert heard.is_in_order()


def test_three_workers_hear_each_other_in_order(broker):
    names = ["a", "b", "c"]
    with running(broker, 3) as workers:
        says = [
            threading.Thread(target=worker.say, args=(name, range(3000)))
            for worker, name in zip(workers, names)
        ]
        for thread in says:
            thread.start()
        for thread in says:
            thread.join()
        for worker in workers:
            for name in names:
                accounted(worker.heard, name, 3000)
            assert worker.heard.lost == 0


@pytest.mark.parametrize("away", [0.0, 2.5])
def test_a_broker_is_killed_and_started_again(broker, away):
    with running(broker, 2) as (near, far):
        done = threading.Event()

        def strike():
            util.wait_until(lambda: far.heard.count("n") > 500, timeout=PATIENCE)
            broker.kill()
            time.sleep(away)
            broker.start()
            done.set()

        def pace():
            if not done.is_set():
                time.sleep(0.0005)

        thread = threading.Thread(target=strike)
        thread.start()
        near.say("n", range(5000), pace=pace)
        thread.join()
        accounted(near.heard, "n", 5000)
        assert near.heard.lost == 0  # members of the sender's worker miss nothing
        accounted(far.heard, "n", 5000)
        figures = near.figures()
        assert far.figures()["lost"] == far.heard.lost >= figures["dropped"]
        for worker in near, far:
            util.wait_until(worker.is_connected, timeout=PATIENCE)
        near.say("again", range(100))
        accounted(far.heard, "again", 100 + far.heard.lost)


def test_the_last_messages_before_a_kill_are_told_of_though_nobody_sends_more(broker):
    with running(broker, 2) as (near, far):
        near.say("n", range(100))
        accounted(far.heard, "n", 100)
        broker.send_signal(signal.SIGSTOP)  # it takes, and passes on nothing
        near.say("n", range(100, 200))
        broker.kill()
        broker.start()
        accounted(far.heard, "n", 200)
        assert far.heard.gaps == [100]


def test_a_broker_that_is_stopped_for_a_while_loses_nothing(broker):
    with running(broker, 2) as (near, far):
        near.say("n", range(100))
        broker.send_signal(signal.SIGSTOP)
        near.say("n", range(100, 3000), size=100)
        time.sleep(1)
        broker.send_signal(signal.SIGCONT)
        near.say("n", range(3000, 3100))
        for worker in near, far:
            accounted(worker.heard, "n", 3100)
            assert worker.heard.lost == 0


def test_a_worker_that_reads_too_slowly_is_cut_off_and_told(broker):
    broker.impatient()
    with running(broker, 3) as (near, far, slow):
        near.say("n", range(10))
        accounted(slow.heard, "n", 10)
        slow.send_signal("SIGSTOP")
        near.say("n", range(10, 30_000), size=500, pace=Pace(far, "n"))
        slow.send_signal("SIGCONT")
        accounted(far.heard, "n", 30_000)
        accounted(slow.heard, "n", 30_000)
        assert slow.heard.lost
        assert slow.figures()["lost"] == slow.heard.lost
        util.wait_until(slow.is_connected, timeout=PATIENCE)


class Pace:
    """Waits for another worker, so that the broker cuts off only who is stopped."""

    def __init__(self, worker, name):
        self.heard, self.name = worker.heard, name
        self.sent = 0

    def __call__(self):
        self.sent += 1
        if self.sent % 50 == 0:
            behind = self.sent - 100
            util.wait_until(
                lambda: self.heard.count(self.name) + self.heard.lost > behind,
                timeout=PATIENCE,
            )


def test_a_member_of_a_worker_is_killed_without_harm(broker):
    with running(broker, 2) as (near, far):
        near.say("n", range(100))
        accounted(far.heard, "n", 100)
        near.child.kill()
        near.child.wait()
        far.say("m", range(100))
        accounted(far.heard, "m", 100)
        assert far.heard.lost == 0


def test_user_and_password_let_workers_in(broker):
    broker.protected()
    with running(broker, 2) as (near, far):
        near.say("n", range(10))
        accounted(far.heard, "n", 10)


def test_redis_over_tls_and_at_a_path(tmp_path, papers):
    broker = KINDS["redis"](tmp_path)
    broker.secured(papers)
    with running(broker, 2) as (near, far):
        near.say("n", range(1000), size=100)
        accounted(far.heard, "n", 1000)
        broker.kill()
        broker.address, broker.options = str(tmp_path / "s"), {}
        with running(broker, 2) as (one, two):
            one.say("n", range(100))
            accounted(two.heard, "n", 100)
