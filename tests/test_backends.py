"""Which backend a mux takes, and what select says where its size ends."""

import os
import select
import socket
import sys

import pytest

import pymux

from . import inside
from .processes import descriptors_taken
from .util import assert_idle, connect, harvest_until, recv_exactly, until_end

FD_SETSIZE = 1024


def test_backends_are_a_tuple_with_the_best_first():
    names = pymux.backends()
    order = ["epoll", "kqueue", "poll", "select"]
    assert isinstance(names, tuple)
    assert "select" in names
    assert sorted(names, key=order.index) == list(names)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here")
def test_linux_has_epoll_poll_and_select():
    assert {"epoll", "poll", "select"} <= set(pymux.backends())
    assert pymux.backends()[0] == "epoll"


def test_a_mux_tells_the_backend_it_was_given(mux, backend):
    assert mux.backend == backend
    assert mux.stats().backend == backend


def test_without_a_name_the_best_is_taken(monkeypatch):
    monkeypatch.delenv("PYMUX_BACKEND", raising=False)
    with pymux.Mux() as mux:
        assert mux.backend == pymux.backends()[0]


def test_the_environment_names_the_default(monkeypatch, backend):
    monkeypatch.setenv("PYMUX_BACKEND", backend)
    with pymux.Mux() as mux:
        assert mux.backend == backend


def test_an_argument_wins_over_the_environment(monkeypatch, backend):
    monkeypatch.setenv("PYMUX_BACKEND", "nonsense")
    with pymux.Mux(backend) as mux:
        assert mux.backend == backend


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError) as caught:
        pymux.Mux("io_uring")
    text = str(caught.value)
    assert "io_uring" in text
    for name in ("epoll", "kqueue", "poll", "select"):
        assert name in text


def test_an_unknown_name_in_the_environment_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("PYMUX_BACKEND", "epol")
    with pytest.raises(ValueError, match=r"epol.*epoll"):
        pymux.Mux()


def test_a_known_backend_that_is_missing_says_why():
    lacking = {"epoll", "kqueue"} - set(pymux.backends())
    if not lacking:
        pytest.skip("every backend works here")
    name = lacking.pop()
    with pytest.raises(pymux.BackendUnavailable) as caught:
        pymux.Mux(name)
    assert name in str(caught.value)
    assert len(str(caught.value)) > len(name) + 5  # a reason, not a name alone


@pytest.mark.parametrize("name", ["epoll", "kqueue"])
def test_solaris_is_told_what_pymux_does_not_use_there(name):
    reason = inside.missing_backend(name, "sunos5")
    assert "/dev/poll" in reason
    assert "event ports" in reason
    assert "poll serves there" in reason


def test_windows_is_told_that_select_serves_in_place_of_poll():
    assert "select" in inside.missing_backend("poll", "win32")


def test_elsewhere_a_missing_backend_is_the_systems_to_offer():
    assert (
        inside.missing_backend("kqueue", "linux")
        == "this operating system does not offer it"
    )


def test_an_empty_environment_variable_is_no_choice(monkeypatch):
    monkeypatch.setenv("PYMUX_BACKEND", "")
    with pymux.Mux() as mux:
        assert mux.backend == pymux.backends()[0]


@pytest.fixture
def select_mux():
    with pymux.Mux("select") as mux:
        yield mux


needs_number_limit = pytest.mark.skipif(
    sys.platform == "win32", reason="select counts descriptors there"
)


@needs_number_limit
def test_select_names_its_limit_and_suggests_another_when_listening(select_mux):
    with descriptors_taken(FD_SETSIZE), pytest.raises(OSError) as caught:
        select_mux.listen(("127.0.0.1", 0))
    text = str(caught.value)
    assert str(FD_SETSIZE) in text
    assert any(name in text for name in ("epoll", "kqueue", "poll"))
    assert select_mux.stats().listeners == 0


@needs_number_limit
def test_select_names_its_limit_when_connecting(select_mux):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with descriptors_taken(FD_SETSIZE), pytest.raises(OSError) as caught:
            select_mux.connect(server.getsockname())
        assert str(FD_SETSIZE) in str(caught.value)
        assert select_mux.stats().connections == 0


@needs_number_limit
def test_select_names_its_limit_when_a_mux_is_made():
    with descriptors_taken(FD_SETSIZE), pytest.raises(OSError) as caught:
        pymux.Mux("select")
    assert str(FD_SETSIZE) in str(caught.value)


@needs_number_limit
def test_over_the_limit_of_select_a_listener_refuses_and_goes_on(select_mux, logged):
    listener = select_mux.listen(("127.0.0.1", 0))
    with connect(listener.address) as early:
        acc = harvest_until(select_mux, lambda acc: acc.opened)
        (conn,) = acc.opened
        with descriptors_taken(FD_SETSIZE):
            # Its other end is accepted with a number that no fd_set holds.
            with connect(listener.address) as late:
                harvest_until(select_mux, lambda acc: select_mux.stats().accept_pauses)
                assert until_end(late)[0] == b""
            assert select_mux.stats().refused >= 1
            early.sendall(b"still here?")
            harvest_until(select_mux, lambda acc: acc.received(conn) == b"still here?")
            conn.send(b"yes")
            select_mux.harvest(0)
            assert recv_exactly(early, 3) == b"yes"
        with connect(listener.address):
            harvest_until(select_mux, lambda acc: acc.opened)


@needs_number_limit
def test_over_the_limit_of_select_nothing_spins(select_mux, logged):
    listener = select_mux.listen(("127.0.0.1", 0))
    with descriptors_taken(FD_SETSIZE):
        crowd = [connect(listener.address) for _ in range(5)]
        try:
            harvest_until(select_mux, lambda acc: select_mux.stats().accept_pauses)
            assert_idle(select_mux)
        finally:
            for sock in crowd:
                sock.close()


@pytest.mark.parametrize("name", [n for n in pymux.backends() if n != "select"])
def test_other_backends_pass_the_limit_of_select(name):
    with pymux.Mux(name) as mux:
        listener = mux.listen(("127.0.0.1", 0))
        with descriptors_taken(FD_SETSIZE + 50), connect(listener.address) as peer:
            assert peer.fileno() >= FD_SETSIZE
            (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
            peer.sendall(b"beyond")
            harvest_until(mux, lambda acc: acc.received(conn) == b"beyond")


def test_the_environment_is_read_when_a_mux_is_made(monkeypatch):
    for name in pymux.backends():
        monkeypatch.setitem(os.environ, "PYMUX_BACKEND", name)
        with pymux.Mux() as mux:
            assert mux.backend == name
