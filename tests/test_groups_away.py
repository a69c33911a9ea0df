"""What a group does while its broker is away, and when it is there again.

The broker is scripted, and the clock is the test's.
"""

import pytest

import pymux

from . import hosts, util
from .scripted import OTHER, PAUSE, joined, returned, scripted


def test_a_group_that_everybody_has_left_still_sends(broker, member, clock, logged):
    room = joined(broker, member)
    room.discard(member.conn)
    broker.hears(broker.leaving)
    assert room.send(b"one more") == 0
    assert broker.published()[3] == b"one more"
    broker.cut()
    returned(broker, clock)
    assert broker.published()[1:3] == (b"=", 1)


def test_what_is_sent_before_the_first_connection_waits_and_goes_at_once(
    broker, member
):
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    for k in range(3):
        room.send(b"%d" % k)
    assert not room.connected
    broker.greet()
    assert broker.until_asked() == ([(1, b"0"), (2, b"1"), (3, b"2")], 3)
    assert member.wait(3) == ["0", "1", "2"]


def test_what_is_sent_while_the_broker_is_away_waits_until_all_may_be_back(
    broker, member, clock, logged
):
    room = joined(broker, member)
    room.send(b"before")
    broker.published()
    broker.cut()
    broker.accept()
    room.send(b"away")
    broker.cut()
    assert broker.greet()
    room.send(b"resting")
    broker.hears_nothing()
    assert room.connected
    clock.advance(PAUSE, broker.mux)
    assert broker.until_asked() == ([(2, b"away"), (3, b"resting")], 3)
    assert member.wait(3) == ["before", "away", "resting"]
    assert [one.event for one in logged] == ["broker"]


def test_a_first_connection_that_took_more_than_one_attempt_waits_too(
    broker, member, clock, logged
):
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    room.send(b"early")
    broker.accept()
    broker.cut()
    returned(broker, clock)
    assert broker.until_asked() == ([(1, b"early")], 1)


@pytest.mark.parametrize(
    "bound, kept", [({"keep": 3}, 3), ({"keep_bytes": 20}, 2), ({"keep": 0}, 0)]
)
def test_the_oldest_over_a_bound_are_dropped_and_counted(
    broker, member, clock, logged, bound, kept
):
    room = joined(broker, member, **bound)
    broker.cut()
    broker.accept()
    for k in range(10):
        room.send(b"message %d" % k)
    assert room.dropped == 10 - kept
    assert broker.mux.stats().backplane_dropped == 10 - kept
    broker.cut()
    returned(broker, clock)
    numbers, last = broker.until_asked()
    assert [number for number, _ in numbers] == list(range(11 - kept, 11))
    assert last == 10
    assert "a message for the broker at 127.0.0.1" in logged[-1].getMessage()


def test_what_waits_for_a_mux_that_closes_is_counted(broker, member, mux, logged):
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    room.send(b"never")
    mux.close()
    assert room.dropped == 1
    assert room.send(b"later") == 0
    assert "1 messages for the broker" in logged[0].getMessage()


def failed_for_long(broker, member, clock):
    """A group whose broker it has dialled in vain so often that it waits a second."""
    room = joined(broker, member)
    for _ in range(7):
        broker.cut()
        util.harvest_until(broker.mux, lambda acc: not room.connected)
        util.assert_nothing(broker.mux)
        clock.advance(PAUSE, broker.mux)
        broker.accept()
    broker.cut()
    util.assert_nothing(broker.mux)
    return room


def test_the_broker_is_dialled_again_later_each_time_up_to_a_second(
    member, clock, mux, logged
):
    with scripted("nats", mux) as broker:
        failed_for_long(broker, member, clock)
        clock.advance(0.2, mux)
        assert not broker.has_dialled()
        clock.advance(0.8, mux)
        returned(broker, clock)
        assert broker.until_asked() == ([], 0)
        assert len(logged) == 1


def test_the_broker_is_dialled_soon_again_when_it_was_there(member, clock, mux, logged):
    with scripted("nats", mux) as broker:
        room = failed_for_long(broker, member, clock)
        clock.advance(PAUSE, mux)
        returned(broker, clock)
        broker.until_asked()
        broker.cut()
        util.harvest_until(mux, lambda acc: not room.connected)
        clock.advance(0.3, mux)
        util.harvest_until(mux, lambda acc: broker.has_dialled())


def test_every_group_is_subscribed_again(broker, member, clock, logged):
    rooms = [pymux.Group(name, broker.backplane) for name in ("lobby", "a.b *")]
    for room in rooms:
        room.add(member.conn)
    assert b"pymux.a%2Eb%20%2A" in broker.greet()
    broker.cut()
    said = broker.greet()
    assert b"pymux.lobby" in said
    assert b"pymux.a%2Eb%20%2A" in said
    broker.say(broker.message(OTHER + b".1", b"starred", b"pymux.a%2Eb%20%2A"))
    assert member.wait(1) == ["starred"]


def test_a_broker_that_is_silent_is_left(broker, member, clock, mux, logged):
    room = joined(broker, member)
    clock.advance(5, mux)
    broker.hears(broker.ping)
    broker.say(broker.pong * 2)  # late, and there
    for _ in range(2):
        clock.advance(5, mux)
        broker.hears(broker.ping)
    clock.advance(5, mux)
    broker.is_left()
    util.harvest_until(mux, lambda acc: not room.connected)
    assert "was silent for 10 s" in logged[0].getMessage()


def test_a_broker_that_does_not_answer_at_first_is_left(
    broker, member, clock, mux, logged
):
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    broker.accept()
    broker.step()
    clock.advance(5, mux)
    broker.is_left()
    util.harvest_until(mux, lambda acc: logged)
    assert "has not answered within 5 s" in logged[0].getMessage()


def test_a_name_is_resolved_in_a_thread(broker, member, monkeypatch):
    name = hosts.know(monkeypatch, "broker.test", "127.0.0.1")
    room = pymux.Group("lobby", broker.kind((name, broker.address[1])))
    room.add(member.conn)
    broker.greet()
    assert broker.until_asked() == ([], 0)


def test_a_group_may_drop_its_mux_while_a_name_is_resolved(broker, monkeypatch, mux):
    name = hosts.know(monkeypatch, "broker.test", "127.0.0.1")
    room = pymux.Group("lobby", broker.kind((name, broker.address[1])))
    room.attach(mux)
    mux.close()
    assert room.send(b"x") == 0
