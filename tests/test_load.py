"""The loads of load.py in a size that takes seconds."""

import pytest

from . import load, util


@pytest.mark.parametrize("form", util.FORMS)
def test_every_client_of_many_gets_every_byte_back_in_order(backend, form):
    figures = load.many(backend, form, clients=100, messages=20, resets=0)
    assert figures["messages"] == 2000


def test_random_resets_harm_nobody_else(backend):
    figures = load.many(backend, clients=100, messages=30, resets=50)
    assert figures["resets"] > 10


@pytest.mark.parametrize("form", ["function", "coroutine", "batch"])
def test_64_mib_to_a_slow_reader_arrive_whole_in_bounded_memory(backend, form):
    load.slow(backend, form)


def test_a_hundred_senders_that_are_always_ready_are_served_alike(backend):
    load.fair(backend)
