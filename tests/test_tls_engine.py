"""Which engine drives TLS, and the portable one by itself."""

import ctypes
import os
import ssl
import subprocess
import sys

import pytest

import pymux

from . import inside, util
from .tls import NAME

ADOPTABLE = (
    "adopted"
    in subprocess.run(
        [sys.executable, "-m", "pymux", "info"],
        env=dict(os.environ, PYMUX_TLS="adopt"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
)
needs_adoption = pytest.mark.skipif(
    not ADOPTABLE, reason="this Python does not show its OpenSSL"
)


@pytest.fixture
def wish(monkeypatch):
    """Sets PYMUX_TLS, and has the engine chosen again."""

    def choose(value):
        if value is None:
            monkeypatch.delenv("PYMUX_TLS", raising=False)
        else:
            monkeypatch.setenv("PYMUX_TLS", value)
        inside.choose_tls_again()
        return inside.tls_engine()

    yield choose
    monkeypatch.undo()
    inside.choose_tls_again()


@needs_adoption
def test_an_interpreter_that_is_verified_adopts(wish):
    engine = wish(None)
    assert engine.name == "adopted"
    assert "is verified" in engine.reason


def test_the_portable_engine_can_be_asked_for(wish):
    engine = wish("portable")
    assert (engine.name, engine.reason) == ("portable", "PYMUX_TLS is portable")


@needs_adoption
def test_an_interpreter_that_is_not_verified_is_portable(wish, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    engine = wish(None)
    assert engine.name == "portable"
    assert "3.99 is not verified yet (CPython 3.11 to" in engine.reason
    assert "PYMUX_TLS=adopt tries" in engine.reason


@needs_adoption
def test_adoption_can_be_tried_where_it_is_not_verified(wish, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    engine = wish("adopt")
    assert (engine.name, engine.reason) == ("adopted", "PYMUX_TLS is adopt")


@pytest.mark.parametrize("value", ["Adopt", "yes", "openssl"])
def test_another_value_is_refused_with_those_that_are_accepted(value, wish):
    with pytest.raises(ValueError, match=f"{value}.*adopt and portable are accepted"):
        wish(value)


def test_a_required_function_that_is_missing_makes_it_portable(wish):
    with inside.openssl_lacks("SSL_read"):
        engine = wish(None)
    assert engine.name == "portable"
    assert "SSL_read" in engine.reason


def test_adopt_says_what_makes_adoption_impossible(wish):
    with (
        inside.openssl_lacks("SSL_read"),
        pytest.raises(pymux.BackendUnavailable, match=r"adopt, but .*no SSL_read"),
    ):
        wish("adopt")


@needs_adoption
def test_a_second_openssl_in_the_process_is_noticed(wish):
    with inside.openssl_is_another():
        engine = wish(None)
    assert engine.name == "portable"
    assert "another OpenSSL" in engine.reason


def test_a_python_that_cannot_look_up_is_portable(wish, monkeypatch):
    def refuse(path):
        raise OSError("no ctypes here")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with inside.openssl_lacks(""):
        engine = wish(None)
    assert engine.name == "portable"
    assert "no ctypes here" in engine.reason


def test_a_python_without_ssl_says_so(wish, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssl", None)
    with pytest.raises(pymux.BackendUnavailable, match="without the ssl module"):
        wish(None)


def test_a_server_raises_what_makes_its_tls_impossible(papers, wish, monkeypatch):
    wish("portable")
    inside.choose_tls_again()
    monkeypatch.setenv("PYMUX_TLS", "nonsense")
    with (
        pytest.raises(ValueError, match="PYMUX_TLS"),
        util.serving(lambda conn, data: data, ssl=papers.server()),
    ):
        pass


def test_importing_pymux_loads_no_ssl():
    code = (
        "import pymux, sys; assert 'ssl' not in sys.modules and 'pymux' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plain_server_loads_no_ssl():
    code = (
        "import pymux, sys\n"
        "with pymux.Server(lambda c, d: d, ('127.0.0.1', 0)) as server:\n"
        "    with pymux.connect(server.address) as client:\n"
        "        client.send(b'x')\n"
        "        assert client.recv() == b'x'\n"
        "assert 'ssl' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", ["adopt", "portable"])
def test_info_names_openssl_the_engine_and_the_reason(value, pymux_command):
    if value == "adopt" and not ADOPTABLE:
        pytest.skip("this Python does not show its OpenSSL")
    process = pymux_command("info", env={"PYMUX_TLS": value})
    rows = dict(
        line.split(None, 1) for line in process.stdout.read().decode().splitlines()
    )
    process.wait()
    name = {"adopt": "adopted"}.get(value, value)
    assert rows["openssl"].strip() == ssl.OPENSSL_VERSION
    assert rows["tls"].strip() == f"{name}: PYMUX_TLS is {value}"


def test_info_says_what_is_wrong_with_the_wish(pymux_command):
    process = pymux_command("info", env={"PYMUX_TLS": "x"})
    text = process.stdout.read().decode()
    assert process.wait() == 0
    assert "unavailable: PYMUX_TLS is 'x'; adopt and portable are accepted" in text


# --- the portable engine by itself ---------------------------------------------------


@pytest.fixture
def two(papers):
    """A portable object of a server, and one of a client, that have shaken hands."""
    ours = inside.Portable(papers.server(), True, None)
    theirs = inside.Portable(papers.client(), False, NAME)
    done = False
    while not done:
        done = theirs.shake()
        ours.feed(theirs.take(1 << 20))
        done = ours.shake() and done
        theirs.feed(ours.take(1 << 20))
    return ours, theirs


def received(portable, room=1 << 16):
    """(bytes, whether the stream is over) that an object has."""
    to = bytearray(room)
    over = portable.read(memoryview(to))
    return bytes(to[: portable.got]), over


def test_what_one_writes_the_other_reads(two):
    ours, theirs = two
    for size in (1, 16384, 16384, 5):
        theirs.write(memoryview(b"x" * size))
    ours.feed(theirs.take(1 << 20))
    assert received(ours) == (b"x" * 32774, False)
    assert received(ours) == (b"", False)


def test_a_small_room_is_filled_and_the_rest_waits(two):
    ours, theirs = two
    theirs.write(memoryview(b"0123456789"))
    ours.feed(theirs.take(1 << 20))
    assert received(ours, 4) == (b"0123", False)
    assert received(ours, 4) == (b"4567", False)
    assert received(ours, 4) == (b"89", False)


def test_output_is_taken_in_pieces(two):
    ours, theirs = two
    theirs.write(memoryview(b"x" * 10000))
    pieces = []
    while piece := theirs.take(999):
        pieces.append(piece)
    assert len(pieces) == 11
    for piece in pieces:
        ours.feed(piece)
    assert received(ours) == (b"x" * 10000, False)


def test_the_end_comes_behind_the_last_bytes(two):
    ours, theirs = two
    theirs.write(memoryview(b"last"))
    theirs.say_bye()
    ours.feed(theirs.take(1 << 20))
    assert received(ours) == (b"last", True)
    assert received(ours) == (b"", True)


def test_a_bye_leaves_the_input_that_has_come_as_it_is(two):
    ours, theirs = two
    theirs.write(memoryview(b"0123456789"))
    theirs.write(memoryview(b"abc"))
    ours.feed(theirs.take(1 << 20))
    assert received(ours, 4) == (b"0123", False)  # the object has the rest
    ours.say_bye()
    theirs.write(memoryview(b"def"))
    ours.feed(theirs.take(1 << 20))
    assert received(ours, 3) == (b"456", False)
    assert received(ours) == (b"789abcdef", False)
    theirs.feed(ours.take(1 << 20))
    assert received(theirs) == (b"", True)
    theirs.say_bye()
    ours.feed(theirs.take(1 << 20))
    assert received(ours) == (b"", True)


def test_bytes_before_a_bad_record_are_counted(two):
    ours, theirs = two
    theirs.write(memoryview(b"good"))
    ours.feed(theirs.take(1 << 20) + b"\x17\x03\x03\x00\x20" + b"z" * 32)
    with pytest.raises(ssl.SSLError):
        received(ours)
    assert ours.got == 4


# --- the name in a hello -------------------------------------------------------------


def hello(papers, name, **settings):
    """What a client sends first."""
    client = papers.client(check_hostname=False, **settings)
    outgoing = ssl.MemoryBIO()
    made = client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["localhost", "a.b.example", "x" * 60 + ".example"])
def test_the_name_in_a_hello_is_found(name, papers):
    assert inside.server_name_in(hello(papers, name)) == name


def test_a_hello_without_a_name_has_none(papers):
    assert inside.server_name_in(hello(papers, None)) is None


def test_a_hello_in_several_records_is_put_together(papers):
    body = hello(papers, NAME)[5:]
    cut = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (body[:3], body[3:100], body[100:])
    )
    assert inside.server_name_in(cut) == NAME


def test_a_hello_that_ends_anywhere_or_is_changed_raises_nothing(papers):
    whole = hello(papers, NAME)
    for end in range(len(whole)):
        assert inside.server_name_in(whole[:end]) is None
    for at in range(len(whole)):
        for byte in (0, 255):
            inside.server_name_in(whole[:at] + bytes([byte]) + whole[at + 1 :])
