"""What a group says to its broker, and what it makes of the broker's words.

The broker is scripted, and the clock is the test's.
"""

import contextlib
import socket
import sys

import pytest

import pymux

from . import util
from .scripted import INFO, OTHER, PAUSE, Heard, joined, scripted


def test_a_message_goes_to_members_here_and_to_the_broker(broker, member):
    room = joined(broker, member)
    assert room.send(b"hello") == 1
    assert member.wait(1) == ["hello"]
    sender, kind, number, data = broker.published()
    assert (kind, number, data) == (b".", 1, b"hello")
    room.send(b"again")
    assert broker.published() == (sender, b".", 2, b"again")


def test_a_message_of_another_worker_is_delivered(broker, member):
    room = joined(broker, member)
    for k in range(1, 4):
        broker.say(broker.message(OTHER + b".%d" % k, b"m%d" % k))
    broker.say(broker.foreign(b"of another program"))
    assert member.wait(4) == ["m1", "m2", "m3", "of another program"]
    assert room.lost == 0


def test_one_subscription_serves_all_members(broker, mux, member):
    room = joined(broker, member)
    with contextlib.ExitStack() as stack:
        others = [Heard(mux) for _ in range(10)]
        for one in others:
            stack.enter_context(one.peer)
            room.add(one.conn)
        broker.hears_nothing()
        broker.say(broker.message(OTHER + b".1", b"all"))
        assert [one.wait(1) for one in (member, *others)] == [["all"]] * 11


def test_a_group_that_joins_while_the_broker_is_answering_is_subscribed(broker, member):
    room, late = (pymux.Group(name, broker.backplane) for name in ("lobby", "late"))
    gone = pymux.Group("gone", broker.backplane)
    room.add(member.conn)
    gone.add(member.conn)
    broker.accept()
    if broker.kind is pymux.Nats:
        broker.say(INFO)
    broker.hears(broker.ping)
    late.add(member.conn)
    gone.discard(member.conn)
    broker.hears(broker.subscribing.replace(b"$11", b"$10").replace(b"lobby", b"late"))
    broker.hears(b"UNSUB")
    assert not room.connected
    broker.answer(b"pymux.lobby", b"pymux.late")
    assert broker.published(b"pymux.late")[1:3] == (b"?", 0)
    assert late.connected
    broker.say(broker.message(OTHER + b".1", b"hello", b"pymux.late"))
    assert member.wait(1) == ["hello"]


def test_a_worker_does_not_hear_itself(broker, member):
    room = joined(broker, member)
    room.send(b"mine")
    sender, _, number, data = broker.published()
    broker.say(broker.message(sender + b".%d" % number, data))
    broker.say(broker.message(sender + b"?%d" % number, b""))
    broker.say(broker.message(OTHER + b".1", b"other"))
    assert member.wait(2) == ["mine", "other"]


def test_a_jump_tells_how_many_were_lost_before_what_follows(broker, member):
    told = []
    room = pymux.Group(
        "lobby",
        broker.backplane,
        on_gap=lambda group, lost: told.append((group, lost, group.send(b"%d" % lost))),
    )
    room.add(member.conn)
    broker.greet()
    broker.say(
        broker.message(OTHER + b".7", b"seven")
        + broker.message(OTHER + b".8", b"eight")
        + broker.message(OTHER + b".12", b"twelve")
        + broker.message(OTHER + b".13", b"thirteen")
    )
    assert member.wait(5) == ["seven", "eight", "3", "twelve", "thirteen"]
    assert told == [(room, 3, 1)]
    assert room.lost == 3


def test_messages_of_several_senders_keep_the_order_of_each(broker, member):
    room = joined(broker, member)
    said, expected = b"", []
    for number in range(1, 120):  # numbers of one, two and three digits
        for sender in b"a", b"b":
            for size in 1, 2:
                text = b"%s%d" % (sender * size, number)
                stamp = (sender * size).rjust(16, b"0") + b".%d" % number
                said += broker.message(stamp, text)
                expected.append(text.decode())
        if number % 40 == 0:
            said += broker.foreign(b"5\n6")
            expected += ["5", "6"]
    broker.say(said)
    assert member.wait(len(expected)) == expected
    assert room.lost == 0


def test_a_burst_of_messages_of_changing_length_keeps_each(broker, member):
    joined(broker, member)
    texts = ["x" * (10 + 10 * (number // 3 % 2)) for number in range(1, 1200)]
    said = [
        broker.message(OTHER + b".%d" % number, text.encode())
        for number, text in enumerate(texts, 1)
    ]
    broker.say(b"".join(said))
    assert member.wait(len(texts)) == texts


def test_what_comes_twice_is_delivered_once(broker, member):
    room = joined(broker, member)
    for number in 1, 2, 2, 1, 3:
        broker.say(broker.message(OTHER + b".%d" % number, b"%d" % number))
    assert member.wait(3) == ["1", "2", "3"]
    assert room.lost == 0


@pytest.mark.parametrize("kind", [b"?", b"="])
def test_a_number_without_a_message_tells_what_was_lost_in_the_end(
    broker, member, kind
):
    room = joined(broker, member)
    broker.say(broker.message(OTHER + kind + b"5", b""))  # heard of for the first time
    broker.say(broker.message(OTHER + b".6", b"six"))
    broker.say(broker.message(OTHER + kind + b"6", b""))
    assert room.lost == 0
    broker.say(broker.message(OTHER + kind + b"9", b""))
    util.harvest_until(broker.mux, lambda acc: room.lost == 3)
    broker.say(broker.message(OTHER + b".10", b"ten"))
    assert (member.wait(2), room.lost) == (["six", "ten"], 3)


def test_who_asks_is_told_the_last_number_once_for_many(broker, member, clock, mux):
    room = joined(broker, member)
    room.send(b"one")
    broker.published()
    broker.say(b"".join(broker.message(b"%016x" % k + b"?0", b"") for k in range(20)))
    clock.advance(0.06, mux)
    _, kind, number, _ = broker.published()
    assert (kind, number) == (b"=", 1)
    broker.hears_nothing()


def test_a_group_whose_last_member_leaves_hears_nothing_more(broker, member):
    room = joined(broker, member)
    room.send(b"bye")
    broker.published()
    room.discard(member.conn)
    broker.hears(broker.leaving)
    assert broker.published()[1:3] == (b"=", 1)
    assert not room.connected
    broker.say(broker.message(OTHER + b".1", b"late"))
    room.add(member.conn)
    broker.hears(broker.subscribing)
    assert broker.published()[1:3] == (b"?", 1)
    assert member.wait(1) == ["bye"]


def test_another_group_takes_the_place_of_one_that_everybody_has_left(broker, member):
    room = joined(broker, member)
    broker.say(broker.message(OTHER + b".1", b"one"))
    assert member.wait(1) == ["one"]
    room.discard(member.conn)
    other = pymux.Group("lobby", broker.backplane)
    other.add(member.conn)
    broker.say(broker.message(OTHER + b".2", b"two"))
    broker.say(broker.message(OTHER + b".1", b"one"))  # of which it has not heard
    assert member.wait(2) == ["one", "two"]


def test_a_group_without_members_sends_and_hears_when_it_is_attached(broker, mux):
    room = pymux.Group("lobby", broker.backplane)
    with pytest.raises(RuntimeError, match="attach"):
        room.send(b"to whom?")
    room.attach(mux)
    broker.greet()
    broker.until_asked()
    assert room.send(b"hello") == 0
    assert broker.published()[3] == b"hello"
    broker.say(
        broker.message(OTHER + b".1", b"a") + broker.message(OTHER + b".3", b"c")
    )
    util.harvest_until(mux, lambda acc: room.lost == 1)


def test_a_cut_at_any_byte_loses_no_message_of_the_rest(broker, member):
    joined(broker, member)
    text = (
        broker.message(OTHER + b".1", b"one")
        + broker.foreign(b"")
        + broker.message(OTHER + b".2", b"two\r\nlines")
        + broker.message(OTHER + b".3", b"x" * 300)
    )
    for at in range(1, len(text), 3):
        room = text.replace(OTHER, b"%016x" % at)
        broker.say(room[:at], room[at:])
    shown = ["one", "", "two\r", "lines", "x" * 300]
    rounds = len(range(1, len(text), 3))
    assert member.wait(5 * rounds) == shown * rounds


def test_a_message_comes_byte_by_byte(broker, member):
    joined(broker, member)
    text = broker.message(OTHER + b".1", b"one") + broker.message(OTHER + b".2", b"two")
    broker.say(*[text[k : k + 1] for k in range(len(text))])
    assert member.wait(2) == ["one", "two"]


def test_a_long_message_is_put_together(broker, mux):
    member = Heard(mux)
    with member.peer:
        joined(broker, member)
        data = bytes(range(48, 123)) * 8000
        text = broker.message(OTHER + b".1", data)
        for k in range(0, len(text), 50_000):
            broker.say(text[k : k + 50_000])
        assert member.wait(1) == [data.decode()]


def test_what_is_no_protocol_ends_the_connection(broker, member, logged):
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    garbage = broker.garbage
    if sys.modules.get("hiredis", broker) is None:  # hiredis takes these
        garbage += (b"*1\r\n" * 20 + b":1\r\n", b"x" * 70000, b"$600000000\r\n")
    elif broker.kind is pymux.Redis:  # a list as a key
        garbage += (b"%1\r\n*0\r\n:1\r\n", b"~1\r\n%1\r\n*0\r\n:1\r\n")
    for text in garbage:
        broker.greet()
        broker.say(text)
        broker.is_left()
        util.harvest_until(broker.mux, lambda acc: not room.connected)
    (record,) = logged  # the others are counted
    assert "is away (the connection has failed: " in record.getMessage()


@pytest.mark.parametrize("end", [util.reset, socket.socket.close])
def test_a_broker_that_says_much_and_is_gone_harms_nobody(broker, member, logged, end):
    """What it asks for in its last words finds no connection any more."""
    room = pymux.Group("lobby", broker.backplane)
    room.add(member.conn)
    for _ in range(3):
        broker.greet()
        util.harvest_until(broker.mux, lambda acc: room.connected)
        broker.sock.sendall(broker.last_words)
        end(broker.sock)
        broker.sock = None
        util.harvest_until(broker.mux, lambda acc: not room.connected)
        room.send(b"meanwhile")
    assert member.wait(3) == ["meanwhile"] * 3
    record = logged[-1]
    assert "is away (the connection has failed: " in record.getMessage()


def test_a_refusal_is_told_the_operator(broker, member, logged):
    room = joined(broker, member)
    broker.say(broker.refusal(b"Permissions Violation"))
    assert room.connected
    (record,) = logged
    assert record.event == "broker"
    assert record.getMessage().endswith("has refused something: " + refused(broker))


def refused(broker):
    text = "Permissions Violation"
    return text if broker.kind is pymux.Nats else f"ERR {text}"


def test_user_and_password_are_given_and_not_shown(broker, member, logged):
    room = pymux.Group("lobby", broker.make(user="me", password="s3cret"))
    room.add(member.conn)
    said = broker.greet()
    if broker.kind is pymux.Nats:
        assert b'"user": "me", "pass": "s3cret"' in said
    else:
        assert b"$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\ns3cret\r\n" in said
    broker.say(broker.refusal(b"Authorization Violation"))
    broker.cut()
    util.harvest_until(broker.mux, lambda acc: not room.connected)
    told = " ".join(one.getMessage() for one in logged)
    assert "Authorization Violation" in told
    assert "s3cret" not in told


def test_a_password_alone_is_given(broker, member):
    room = pymux.Group("lobby", broker.make(password="s3cret"))
    room.add(member.conn)
    said = broker.greet()
    if broker.kind is pymux.Nats:
        assert b'"auth_token": "s3cret"' in said
    else:
        assert b"AUTH\r\n$7\r\ndefault\r\n$6\r\ns3cret\r\n" in said


def test_a_message_that_does_not_fit_a_member_is_delivered_to_the_others(
    broker, mux, member, logged
):
    fixed, peer = util.pair(mux, pymux.Fixed(3))
    with peer:
        room = joined(broker, member)
        room.add(fixed)
        broker.say(
            broker.message(OTHER + b".1", b"one")
            + broker.message(OTHER + b".2", b"three")
            + broker.message(OTHER + b".3", b"two")
        )
        assert member.wait(3) == ["one", "three", "two"]
        assert util.recv_exactly(peer, 6) == b"onetwo"
    assert "does not fit some members" in logged[0].getMessage()


def test_two_groups_of_one_name_are_refused(broker, mux, member):
    joined(broker, member)
    other = pymux.Group("lobby", broker.backplane)
    with pytest.raises(RuntimeError, match="use one object"):
        other.attach(mux)
    with pytest.raises(RuntimeError, match="use one object"):
        other.add(member.conn)
    assert len(other) == 0


def test_an_error_of_on_gap_leaves_the_harvest_and_harms_nobody(broker, member, mux):
    def on_gap(group, lost):
        raise util.Boom(lost)

    room = pymux.Group("lobby", broker.backplane, on_gap=on_gap)
    room.add(member.conn)
    broker.greet()
    broker.until_asked()
    broker.sock.sendall(
        broker.message(OTHER + b".1", b"one") + broker.message(OTHER + b".5", b"five")
    )
    with pytest.raises(util.Boom, match="3"):
        util.harvest_until(mux, lambda acc: False)
    assert member.wait(2) == ["one", "five"]
    assert room.connected


def test_nats_tells_how_long_a_message_may_be(mux, member, logged, clock):
    with scripted("nats", mux) as broker:
        room = joined(broker, member)
        broker.say(INFO.replace(b"1048576", b"1000"))
        with pytest.raises(ValueError, match="takes at most 9"):
            room.send(b"x" * 1000)
        assert member.lines == []
        assert room.send(b"x" * 900) == 1
        broker.published()
        broker.cut()
        broker.accept()
        room.send(b"y" * 800)
        broker.say(INFO.replace(b"1048576", b"500"))
        broker.hears(broker.ping)
        broker.say(broker.pong)
        clock.advance(PAUSE, mux)
        assert broker.until_asked() == ([], 2)
        assert room.dropped == 1


@pytest.mark.parametrize(
    "info, shown",
    [
        (INFO.replace(b"true", b"false"), "has no headers"),
        (INFO.replace(b"{", b'{"tls_required":true,'), "requires TLS"),
    ],
)
def test_a_nats_that_cannot_serve_is_told(mux, member, logged, info, shown):
    with scripted("nats", mux) as broker:
        pymux.Group("lobby", broker.backplane).add(member.conn)
        broker.accept()
        broker.say(info)
        broker.is_left()
        util.harvest_until(mux, lambda acc: logged)
    assert shown in logged[0].getMessage()


def test_a_redis_without_resp3_is_told(mux, member, logged):
    with scripted("redis", mux) as broker:
        pymux.Group("lobby", broker.backplane).add(member.conn)
        broker.accept()
        broker.hears(broker.ping)
        broker.say(b"-ERR unknown command `HELLO`\r\n")
        broker.is_left()
        util.harvest_until(mux, lambda acc: logged)
    assert "unknown command `HELLO`" in logged[0].getMessage()
