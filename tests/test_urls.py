"""URLs: what each scheme means, and every way in which one can be wrong."""

import os
import sys
from pathlib import Path

import pytest

import pymux

from .inside import connect_settings, listen_settings, parse_url

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def listened(url):
    """The tuple or path that a call listens on where it is given a URL."""
    (settings,) = listen_settings(url)
    return settings.address


def connected(url):
    """The tuple or path that a call connects to where it is given a URL."""
    return connect_settings(url).address


def refusal(call, *args):
    """The text of the ValueError that a call raises."""
    with pytest.raises(ValueError) as info:
        call(*args)
    return str(info.value)


# -- what a URL means --------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://127.0.0.1:8093", ("127.0.0.1", 8093)),
        ("tcp://localhost:0", ("localhost", 0)),
        ("TCP://localhost:1", ("localhost", 1)),
        ("tcp://[::1]:8093", ("::1", 8093)),
        ("tcp://[::]:65535", ("::", 65535)),
        ("tcp://[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("tcp://[fe80::1%25eth0]:80", ("fe80::1%eth0", 80)),
        ("tcp://a%2Dname:80", ("a-name", 80)),
        ("tcp://b%C3%BCcher:80", ("bücher", 80)),
        ("tcp://bücher:80", ("bücher", 80)),
        ("unix:///run/app.sock", "/run/app.sock"),
        ("unix:///run/my%20app%3F%23.sock", "/run/my app?#.sock"),
        ("unix:///a:80", "/a:80"),
        ("unix:///a@b", "/a@b"),
        ("unix:///a//b/", "/a//b/"),
    ],
)
def test_a_url_stands_for_a_tuple_or_a_path(url, address):
    assert listened(url) == connected(url) == address


def test_an_empty_host_is_every_ipv4_interface():
    assert listened("tcp://:8093") == ("", 8093)


@pytest.mark.skipif(sys.platform == "win32", reason="its paths are text")
def test_a_path_that_is_not_utf_8_can_be_written():
    assert os.fsencode(listened("unix:///tmp/%FF")) == b"/tmp/\xff"


@linux
@pytest.mark.parametrize("name", ["name", "a/b", "n%61me"])
def test_an_at_sign_is_an_abstract_name(name):
    assert listened(f"unix://@{name}") == "\0" + name.replace("%61", "a")


@pytest.mark.parametrize(
    "path", ["./a://b", "/a://b", "../tcp://x", "1a://b", "a_b://c", "unix:/run/x"]
)
def test_any_other_str_is_a_path(path):
    assert listened(path) == path


def test_a_path_object_is_never_a_url(tmp_path):
    path = Path("tcp://127.0.0.1:8093")
    assert listened(path) is path


# -- what can be no URL ------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://localhost:80", "unknown scheme 'http'"),
        ("a://b", "unknown scheme 'a'"),
        ("tcp://localhost", "no port"),
        ("tcp://localhost:", "no port"),
        ("tcp://[::1]", "no port"),
        ("tcp://[::1]:", "no port"),
        ("tcp://", "no port"),
        ("tcp://localhost:http", "the port 'http'"),
        ("tcp://localhost:65536", "the port '65536'"),
        ("tcp://localhost:000080", "the port '000080'"),
        ("tcp://localhost:-1", "the port '-1'"),
        ("tcp://localhost:+1", "the port '+1'"),
        ("tcp://localhost:\u0661", "the port '\u0661'"),
        ("tcp://localhost:80/", "a path"),
        ("tcp://localhost:80/path", "a path"),
        ("tcp://localhost:80?a=b", "a query"),
        ("tcp://localhost:80#a", "a fragment"),
        ("tcp://user@localhost:80", "a user name"),
        ("tcp://user:password@localhost:80", "a user name"),
        ("tcp://::1:80", "without brackets"),
        ("tcp://[::1]80", "without brackets"),
        ("tcp://[localhost]:80", "'localhost' in brackets"),
        ("tcp://[127.0.0.1]:80", "'127.0.0.1' in brackets"),
        ("tcp://[]:80", "'' in brackets"),
        ("tcp://a b:80", "a space"),
        ("tcp://localhost:80\n", "a control character"),
        ("tcp://a%2:80", "'%' without two hexadecimal digits"),
        ("tcp://a%zz:80", "'%' without two hexadecimal digits"),
        ("tcp://a%00b:80", "a NUL"),
        ("tcp://a%FF:80", "not UTF-8"),
        ("unix://", "no path"),
        ("unix://@", "no path"),
        ("unix://run/app.sock", "the host 'run'"),
        ("unix://./app.sock", "the host '.'"),
        ("unix://user@host/app.sock", "the host 'user@host'"),
        ("unix:///app.sock?a=b", "a query"),
        ("unix:///app.sock#a", "a fragment"),
        ("unix:///a b", "a space"),
        ("unix:///a%", "'%' without two hexadecimal digits"),
        ("unix:///a%00b", "NUL"),
        ("unix:///" + "a" * 200, "201 bytes"),
        ("ws://user@localhost/", "a user name"),
        ("ws://localhost/#a", "a fragment"),
        ("ws://localhost:http/", "the port 'http'"),
        ("wss://localhost:80/a b", "a space"),
        ("udp://localhost", "no port"),
        ("udp://localhost:80/a", "a path"),
        ("tls://localhost", "no port"),
        ("tls://localhost:80?a", "a query"),
    ],
)
def test_a_malformed_url_is_a_value_error_that_names_its_fault(url, fault):
    text = refusal(pymux.Endpoint, url)
    assert fault in text
    if fault not in ("a user name", "NUL", "201 bytes"):
        assert repr(url) in text
    assert refusal(listen_settings, url) == refusal(connect_settings, url) == text


def test_the_error_of_a_user_name_shows_no_password():
    text = refusal(pymux.Endpoint, "tcp://user:password@localhost:80")
    assert "'tcp://...@localhost:80' has a user name" in text
    assert "password" not in text


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("tcp://localhost", "tcp://HOST:PORT"),
        ("tls://localhost", "tls://HOST:PORT"),
        ("udp://localhost", "udp://HOST:PORT"),
        ("unix://localhost", "unix:///PATH or unix://@NAME"),
        ("ws://u@localhost", "ws://HOST:PORT/PATH"),
        ("wss://u@localhost", "wss://HOST:PORT/PATH"),
        ("tpc://localhost:80", "tcp, tls, unix, udp, ws, wss"),
        ("tpc://localhost:80", "'./tpc://localhost:80'"),
    ],
)
def test_the_error_shows_the_right_form(url, form):
    assert form in refusal(pymux.Endpoint, url)


def test_a_host_and_port_without_a_scheme_is_shown_both_right_forms():
    text = refusal(pymux.Endpoint, "localhost:8093")
    assert "('localhost', 8093)" in text
    assert "'tcp://localhost:8093'" in text


def test_a_url_without_a_host_cannot_be_connected_to():
    assert "has no host" in refusal(connected, "tcp://:8093")


@pytest.mark.skipif(sys.platform == "linux", reason="Linux has them")
def test_an_abstract_name_is_refused_where_the_system_has_none():
    assert "only Linux" in refusal(pymux.Endpoint, "unix://@name")


# -- schemes that are known and not served -----------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "udp://localhost:8093",
        "ws://localhost:8093",
        "ws://localhost:8093/chat?room=1",
        "wss://localhost:8093/chat",
    ],
)
def test_a_scheme_that_is_not_served_yet_is_refused_by_the_call(url):
    end = pymux.Endpoint(url)
    for call in listen_settings, connect_settings:
        assert f"does not serve {url.partition(':')[0]}:// yet" in refusal(call, end)
        assert refusal(call, url) == refusal(call, end)


def test_a_web_address_needs_a_port_to_listen_and_none_to_connect():
    for url, port in ("ws://localhost/chat", 80), ("wss://localhost?a=b", 443):
        assert parse_url(url).address(listen=False) == ("localhost", port)
        with pytest.raises(ValueError, match="has no port, which is needed to listen"):
            parse_url(url).address(listen=True)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("ws://localhost", "/"),
        ("ws://localhost:1/", "/"),
        ("ws://localhost/chat?room=1&a=/b", "/chat?room=1&a=/b"),
        ("ws://localhost?room=1/2", "/?room=1/2"),
    ],
)
def test_a_web_address_has_a_path_and_a_query(url, path):
    assert parse_url(url).path == path
