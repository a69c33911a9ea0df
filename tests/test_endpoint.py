"""Endpoints: what they hold, what they refuse, and how they meet a call's options."""

import copy
import dataclasses
import pickle
import socket
from pathlib import Path

import pytest

import pymux

from .inside import connect_settings, listen_settings

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()
LIMITS = pymux.Limits(max_connections=7)


def handler(conn, data):
    """What an endpoint may have as its own."""


def refusal(error, call, *args, **options):
    """The text of the error that a call raises."""
    with pytest.raises(error) as info:
        call(*args, **options)
    return str(info.value)


@pytest.fixture
def listening():
    """A listening socket of the standard library's."""
    with socket.create_server(HERE) as sock:
        yield sock


# -- values ------------------------------------------------------------------------


def test_an_endpoint_has_its_options_in_this_order():
    names = [field.name for field in dataclasses.fields(pymux.Endpoint)]
    assert names == [
        "address",
        "framing",
        "reply_framing",
        "ssl",
        "limits",
        "handler",
        "server_hostname",
        "require_close_notify",
        "backlog",
        "reuse_port",
        "mode",
        "source_address",
        "proxy",
    ]


def test_an_endpoint_says_nothing_by_default():
    end = pymux.Endpoint(HERE)
    assert (
        end.framing is end.reply_framing is end.ssl is end.limits is end.handler is None
    )
    assert end.server_hostname is end.backlog is None
    assert end.require_close_notify is True
    assert (end.reuse_port, end.mode) == (False, 0o600)


def test_all_but_the_address_are_given_by_name():
    with pytest.raises(TypeError):
        pymux.Endpoint(HERE, LINES)


def test_an_endpoint_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pymux.Endpoint(HERE).framing = LINES


def test_endpoints_are_equal_where_all_they_hold_is():
    one, other = (pymux.Endpoint(HERE, framing=LINES, mode=0o640) for _ in "12")
    assert one == other
    assert hash(one) == hash(other)
    assert one != pymux.Endpoint(HERE, framing=LINES)


def test_an_endpoint_can_be_copied_and_pickled():
    end = pymux.Endpoint("unix:///run/x", framing=LINES, limits=LIMITS)
    assert copy.copy(end) == copy.deepcopy(end) == end
    assert pickle.loads(pickle.dumps(end)) == end


def test_repr_shows_what_was_said():
    assert repr(pymux.Endpoint(HERE)) == "Endpoint(('127.0.0.1', 0))"
    end = pymux.Endpoint("/run/x", framing=pymux.Raw(), backlog=5, mode=0o660)
    assert repr(end) == "Endpoint('/run/x', framing=Raw(), backlog=5, mode=0o660)"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"framing": "lines"}, TypeError, "framing is 'lines'; Raw(), Lines()"),
        ({"framing": pymux.Lines}, TypeError, "framing is <class"),
        ({"limits": 7}, TypeError, "limits is 7; a pymux.Limits or None"),
        ({"ssl": False}, TypeError, "ssl is False; an ssl.SSLContext"),
        ({"ssl": "cert.pem"}, TypeError, "ssl is 'cert.pem'; an ssl.SSLContext"),
        ({"server_hostname": b"a"}, TypeError, "server_hostname is b'a'; a str"),
        ({"server_hostname": ""}, ValueError, "server_hostname is ''"),
        ({"require_close_notify": 1}, TypeError, "require_close_notify is 1; True, F"),
        ({"backlog": "5"}, TypeError, "backlog is '5'"),
        ({"backlog": -1}, ValueError, "backlog is -1"),
        ({"backlog": True}, TypeError, "backlog is True"),
        ({"reuse_port": 1}, TypeError, "reuse_port is 1; True, False or None"),
        ({"mode": "600"}, TypeError, "mode is '600'"),
        ({"mode": 0o1777}, ValueError, "mode is 1023"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(options, error, text):
    assert text in refusal(error, pymux.Endpoint, HERE, **options)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("127.0.0.1", 70000), ValueError),
        (("127.0.0.1", "80"), TypeError),
        ("", ValueError),
        ("localhost:80", ValueError),
        ("a\0b", ValueError),
        (b"/run/x", TypeError),
        (8093, TypeError),
        (None, TypeError),
        ([HERE], TypeError),
        (pymux.Endpoint(HERE), TypeError),
    ],
)
def test_an_address_that_cannot_be_is_refused_at_once(address, error):
    refusal(error, pymux.Endpoint, address)


def test_a_name_is_not_resolved():
    assert pymux.Endpoint(("no.such.name.invalid", 80)).address[1] == 80


# -- an endpoint's options and the call's ------------------------------------------

CALL = {
    "framing": pymux.LengthPrefix(),
    "limits": pymux.Limits(),
    "handler": print,
}
OWN = {"framing": LINES, "limits": LIMITS, "handler": handler}


@pytest.mark.parametrize("name", CALL)
def test_an_option_of_the_endpoint_wins(name):
    end = pymux.Endpoint(HERE, **OWN)
    (listen,) = listen_settings(end, **CALL)
    connect = connect_settings(end, **CALL, refuse=())
    assert getattr(listen, name) is getattr(connect, name) is OWN[name]


@pytest.mark.parametrize("name", CALL)
@pytest.mark.parametrize("where", [HERE, pymux.Endpoint(HERE)])
def test_none_leaves_an_option_to_the_call(name, where):
    (listen,) = listen_settings(where, **CALL)
    connect = connect_settings(where, **CALL, refuse=())
    assert getattr(listen, name) is getattr(connect, name) is CALL[name]


def test_raw_at_an_endpoint_means_raw():
    end = pymux.Endpoint(HERE, framing=pymux.Raw())
    assert listen_settings(end, framing=LINES)[0].framing == pymux.Raw()


@pytest.mark.parametrize(
    ("name", "own", "calls"),
    [("backlog", 5, 50), ("reuse_port", True, False), ("mode", 0o640, 0o666)],
)
def test_how_an_endpoint_listens_wins(name, own, calls):
    (settings,) = listen_settings(pymux.Endpoint(HERE, **{name: own}), **{name: calls})
    assert getattr(settings, name) == own


@pytest.mark.parametrize(
    ("name", "calls"), [("backlog", 50), ("reuse_port", True), ("mode", 0o666)]
)
@pytest.mark.parametrize("endpoint", [False, True])
def test_none_leaves_how_to_listen_to_the_call(name, calls, endpoint):
    where = pymux.Endpoint(HERE, **{name: None}) if endpoint else HERE
    (settings,) = listen_settings(where, **{name: calls})
    assert getattr(settings, name) == calls


def test_a_call_never_opens_an_endpoint_to_others_than_it_says():
    (settings,) = listen_settings(pymux.Endpoint("/run/x"), mode=0o666)
    assert settings.mode == 0o600


def test_without_options_what_a_call_does_is_the_default():
    (settings,) = listen_settings(HERE)
    assert settings.framing is settings.limits is settings.handler is None
    assert (settings.backlog, settings.reuse_port) == (4096, False)
    assert settings.mode == 0o600


def test_options_of_a_call_are_checked_though_every_endpoint_has_its_own():
    end = pymux.Endpoint(HERE, **OWN, backlog=5, mode=0o640)
    refusal(TypeError, listen_settings, end, framing="lines")
    refusal(TypeError, listen_settings, end, limits=7)
    refusal(ValueError, listen_settings, end, backlog=-1)
    refusal(ValueError, listen_settings, end, mode=-1)
    refusal(TypeError, connect_settings, end, framing="lines")


# -- lists -------------------------------------------------------------------------


def test_a_list_keeps_its_order(listening):
    where = [HERE, "/run/x", Path("/run/y"), "tcp://:8093", pymux.Endpoint("unix:///z")]
    addresses = [s.address for s in listen_settings([*where, listening])]
    assert addresses == [HERE, "/run/x", Path("/run/y"), ("", 8093), "/z", listening]


def test_an_empty_list_is_a_value_error():
    assert "is empty" in refusal(ValueError, listen_settings, [])


@pytest.mark.parametrize("wrong", [None, 80, ["/run/x"], b"/run/x"])
def test_every_item_of_a_list_is_checked(wrong):
    refusal(TypeError, listen_settings, [HERE, wrong])


def test_a_tuple_of_addresses_is_one_address_that_cannot_be():
    refusal(TypeError, listen_settings, (HERE, HERE))


@pytest.mark.parametrize("where", [[HERE], [], None, 80])
def test_only_one_address_can_be_connected_to(where):
    assert "(host, port)" in refusal(TypeError, connect_settings, where)


# -- options that cannot apply -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("backlog", 5), ("reuse_port", True), ("mode", 0o640)]
)
def test_an_option_to_listen_is_refused_by_a_call_that_connects(name, value):
    end = pymux.Endpoint(HERE, **{name: value})
    text = refusal(ValueError, connect_settings, end)
    assert text.startswith(f"{name} is {value!r}, which cannot apply here")


def test_a_handler_is_refused_by_a_call_that_can_have_none():
    end = pymux.Endpoint(HERE, handler=handler)
    assert "handler is" in refusal(ValueError, connect_settings, end)
    assert connect_settings(end, refuse=()).handler is handler


# -- listening sockets from elsewhere ----------------------------------------------


def test_a_listening_socket_is_an_address(listening):
    for where in listening, pymux.Endpoint(listening):
        (settings,) = listen_settings(where)
        assert settings.address is listening
        assert str(settings) == f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_socket_cannot_be_connected_to(listening):
    assert "listened on" in refusal(TypeError, connect_settings, listening)


@pytest.mark.parametrize(
    ("name", "value"), [("backlog", 5), ("reuse_port", True), ("mode", 0o640)]
)
def test_how_to_listen_is_refused_beside_a_socket(name, value, listening):
    option = {name: value}
    end = pymux.Endpoint(listening, **option)
    assert name in refusal(ValueError, listen_settings, [end, HERE])
    assert name in refusal(ValueError, listen_settings, [listening], **option)
    # what the call says is for the other address
    mixed = listen_settings([listening, HERE], **option)
    assert getattr(mixed[1], name) == value


def test_a_socket_that_does_not_listen_is_refused():
    with socket.socket() as sock:
        sock.bind(HERE)
        assert "listen() first" in refusal(ValueError, listen_settings, sock)


def test_a_closed_socket_is_refused():
    with socket.create_server(HERE) as sock:
        pass
    assert "closed" in refusal(ValueError, listen_settings, sock)


def test_a_datagram_socket_is_refused():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(HERE)
        assert "stream socket" in refusal(ValueError, listen_settings, sock)
