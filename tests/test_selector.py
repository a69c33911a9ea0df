"""`pymux.Selector` is a selector of the standard library's kind, on every backend.

`python -m tests.stdlib` runs the standard library's own tests on it.
"""

import gc
import os
import select
import selectors
import socket
import sys
import tempfile
import time

import pytest

import pymux

from .processes import descriptors_allowed, descriptors_taken
from .util import ready

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
BOTH = READ | WRITE


# --- the choice of a backend ----------------------------------------------------


def test_a_selector_is_a_standard_one(selector, backend):
    assert isinstance(selector, selectors.BaseSelector)
    assert selector.backend == backend


def test_without_a_name_the_best_is_taken(monkeypatch):
    monkeypatch.delenv("PYMUX_BACKEND", raising=False)
    with pymux.Selector() as selector:
        assert selector.backend == pymux.backends()[0]


def test_the_environment_names_the_default(monkeypatch, backend):
    monkeypatch.setenv("PYMUX_BACKEND", backend)
    with pymux.Selector() as selector:
        assert selector.backend == backend


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"devpoll.*epoll, kqueue, poll, select"):
        pymux.Selector("devpoll")


def test_a_backend_that_is_missing_says_why():
    missing = {"epoll", "kqueue"} - set(pymux.backends())
    if not missing:
        pytest.skip("every backend works here")
    name = missing.pop()
    with pytest.raises(pymux.BackendUnavailable, match=f"backend {name} is unavail"):
        pymux.Selector(name)


# --- what the standard library's do ---------------------------------------------


def test_what_is_ready_is_told_until_it_is_taken(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, READ, "data")
    assert selector.select(0) == []
    theirs.send(b"x")
    assert selector.select() == [(key, READ)]
    assert selector.select() == [(key, READ)]
    ours.recv(1)
    assert selector.select(0) == []


@pytest.mark.parametrize("events", [READ, WRITE, BOTH])
def test_only_what_is_wanted_is_told(selector, pair, events):
    ours, theirs = pair
    theirs.send(b"x")
    selector.register(ours, events)
    assert ready(selector) == {ours: events}


@pytest.mark.parametrize("events", [READ, WRITE, BOTH])
def test_a_hang_up_is_told_as_what_is_wanted(selector, pair, events):
    ours, theirs = pair
    selector.register(ours, events)
    theirs.close()
    assert ready(selector) == {ours: events}


def test_modify_changes_what_is_wanted(selector, pair):
    ours, theirs = pair
    theirs.send(b"x")
    selector.register(ours, READ, "first")
    for events in (WRITE, BOTH, READ, BOTH, WRITE, READ):
        key = selector.modify(ours, events, "second")
        assert key == selector.get_key(ours) == (ours, ours.fileno(), events, "second")
        assert ready(selector) == {ours: events}


def test_modify_of_the_data_alone_shows_in_select(selector, pair):
    ours, _ = pair
    selector.register(ours, WRITE, "first")
    key = selector.modify(ours, WRITE, "second")
    assert key.data == "second"
    assert selector.select(0) == [(key, WRITE)]
    assert selector.modify(ours, WRITE, "second") is key


def test_unregister_ends_it(selector, pair):
    ours, _ = pair
    key = selector.register(ours, WRITE)
    assert selector.unregister(ours) == key
    assert selector.select(0) == []
    assert ours not in selector.get_map()


def test_a_number_and_a_file_object_are_the_same(selector, pair):
    ours, _ = pair
    key = selector.register(ours.fileno(), WRITE)
    assert selector.get_key(ours) is key
    with pytest.raises(KeyError):
        selector.register(ours, WRITE)
    selector.unregister(ours)


@pytest.mark.parametrize("events", [0, 4, 999999, -1])
def test_wrong_events_are_a_value_error_and_change_nothing(selector, pair, events):
    ours, theirs = pair
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(ours, events)
    key = selector.register(theirs, WRITE)
    with pytest.raises(ValueError, match="Invalid events"):
        selector.modify(theirs, events)
    assert dict(selector.get_map()) == {theirs.fileno(): key}


@pytest.mark.parametrize("fileobj", [-1, -10, None, "x", object()])
def test_what_is_no_file_object_is_a_value_error(selector, fileobj):
    for call in (
        lambda: selector.register(fileobj, READ),
        lambda: selector.unregister(fileobj),
        lambda: selector.modify(fileobj, READ),
        lambda: selector.get_key(fileobj),
    ):
        with pytest.raises(ValueError, match="Invalid file"):
            call()


def test_wrong_types_are_type_errors(selector, pair):
    ours, _ = pair
    with pytest.raises(TypeError):
        selector.register(ours, "r")
    with pytest.raises(TypeError):
        selector.select("1")


def test_what_is_not_registered_is_a_key_error(selector, pair):
    ours, _ = pair
    for call in (
        lambda: selector.unregister(ours),
        lambda: selector.modify(ours, READ),
        lambda: selector.get_key(ours),
        lambda: selector.get_map()[999999],
    ):
        with pytest.raises(KeyError, match="is not registered"):
            call()


def test_the_map_is_a_live_view_that_cannot_be_changed(selector, pair):
    ours, theirs = pair
    view = selector.get_map()
    assert (len(view), list(view), view.get(ours, "no")) == (0, [], "no")
    key = selector.register(ours, READ)
    assert (len(view), list(view), view[ours]) == (1, [ours.fileno()], key)
    assert ours in view
    assert theirs not in view
    with pytest.raises(TypeError):
        del view[ours]


def test_a_file_closed_since_can_be_unregistered(selector):
    ours, theirs = socket.socketpair()
    with theirs:
        key = selector.register(ours, READ)
        ours.close()
        assert selector.get_key(ours) is key
        assert selector.unregister(ours) is key
        assert selector.select(0) == []


def test_a_number_used_again_can_be_registered_again(selector):
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with theirs:
            selector.register(ours, READ)
            theirs.send(b"x")
            assert ready(selector) == {ours: READ}
            selector.unregister(ours)
            ours.close()


def test_a_backend_that_refuses_registers_nothing(selector, backend):
    if backend not in ("epoll", "kqueue"):
        pytest.skip("takes any number")
    number = os.dup(0)
    os.close(number)
    with pytest.raises(OSError) as caught:
        selector.register(number, READ)
    assert caught.value.errno == 9
    with pytest.raises(KeyError):
        selector.get_key(number)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here")
def test_epoll_refuses_a_regular_file():
    with pymux.Selector("epoll") as selector, tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            selector.register(file, READ)
        assert len(selector.get_map()) == 0


def test_modify_that_the_backend_refuses_unregisters(selector, backend):
    if backend not in ("epoll", "kqueue"):
        pytest.skip("takes any number")
    ours, theirs = socket.socketpair()
    with theirs:
        selector.register(ours, READ)
        number = ours.fileno()
        ours.close()
        with pytest.raises(OSError):
            selector.modify(number, WRITE)
        assert number not in selector.get_map()


@pytest.mark.skipif(sys.platform == "win32", reason="select counts descriptors there")
def test_select_names_its_limit(pair):
    ours, _ = pair
    with pymux.Selector("select") as selector, descriptors_taken(1024):
        number = os.dup(ours.fileno())
        try:
            with pytest.raises(OSError, match=r"1024.*FD_SETSIZE"):
                selector.register(number, READ)
            with pytest.raises(KeyError):
                selector.get_key(number)
        finally:
            os.close(number)


def test_a_selector_tells_all_that_are_ready_at_once(selector, backend):
    emulated = backend == "kqueue" and sys.platform == "linux"
    count = 400 if backend == "select" or emulated else 3000
    with descriptors_allowed(count + 100):
        reading, writing = os.pipe()
        held = [os.dup(writing) for _ in range(count)]
        try:
            for number in held:
                selector.register(number, WRITE)
            assert ready(selector) == dict.fromkeys(held, WRITE)
            for number in held[1:]:
                selector.unregister(number)
            assert ready(selector) == {held[0]: WRITE}
        finally:
            for number in (reading, writing, *held):
                os.close(number)


def test_the_descriptor_is_readable_when_select_has_something(selector, backend, pair):
    if not hasattr(selector, "fileno"):
        assert backend != "epoll"
        pytest.skip("has no descriptor")
    ours, theirs = pair
    selector.register(ours, READ)
    assert select.select([selector], [], [], 0)[0] == []
    theirs.send(b"x")
    assert select.select([selector], [], [], 5)[0] == [selector]


# --- closing --------------------------------------------------------------------


def test_a_closed_selector_has_nothing_and_does_nothing(backend, pair):
    ours, _ = pair
    selector = pymux.Selector(backend)
    selector.register(ours, WRITE)
    view = selector.get_map()
    selector.close()
    selector.close()
    assert selector.get_map() is None
    assert view.get(ours) is None
    with pytest.raises(RuntimeError, match="closed"):
        selector.get_key(ours)
    with pytest.raises(KeyError):
        selector.unregister(ours)
    for call in (
        lambda: selector.register(ours, WRITE),
        lambda: selector.select(0),
        lambda: selector.select(),
    ):
        with pytest.raises(ValueError, match="closed selector"):
            call()
    assert len(view) == 0
    assert "closed" in repr(selector)


def test_a_selector_that_is_dropped_frees_its_descriptor(backend):
    """The fixture that counts descriptors looks after the test."""
    selector = pymux.Selector(backend)
    assert repr(selector) == f"<pymux.Selector {backend}, 0 registered>"
    del selector
    gc.collect()


# --- time -----------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, False])
def test_zero_and_less_do_not_wait(selector, pair, timeout):
    ours, _ = pair
    assert selector.select(timeout) == []
    selector.register(ours, READ)
    assert selector.select(timeout) == []


@pytest.mark.parametrize("timeout", [1e-9, 0.000_3, 0.001, 0.0234, 1])
def test_a_wait_is_never_shorter_than_asked(selector, timeout):
    start = time.monotonic()
    assert selector.select(timeout) == []
    assert time.monotonic() - start >= timeout


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e30])
def test_a_time_that_is_none_is_an_error(selector, timeout):
    with pytest.raises((OverflowError, ValueError)):
        selector.select(timeout)


def test_a_wait_may_be_very_long(selector, pair):
    ours, _ = pair
    selector.register(ours, WRITE)
    assert ready(selector, 9e9) == {ours: WRITE}
