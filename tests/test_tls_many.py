"""Many handshakes, by handshakes.py in a size that takes seconds; how long one takes;
and what arrives of 200 clients that only send, by tickets.py."""

import contextlib
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import pymux

from . import handshakes, tickets, util
from .tls import ends, secure

DELAY = 0.04  # seconds: the least that Linux delays an acknowledgement for


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("secured_by")
def test_many_handshakes_leave_no_growth():
    figures = handshakes.handshakes(650)
    assert figures["handshakes"] == 400
    assert figures["failed"] == 250


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("secured_by")
def test_muxes_of_several_threads_shake_hands_at_once(papers):
    # What they share inside OpenSSL must not change: flags that did failed one
    # handshake in some hundreds.
    ours, theirs = papers.server(), papers.client(check_hostname=False)

    def visit(server):
        for _ in range(250):
            with pymux.connect(server.address, ssl=theirs, timeout=20) as client:
                client.send(b"x")
                assert client.recv() == b"x"

    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        servers = [
            stack.enter_context(util.serving(lambda conn, data: data, ssl=ours))
            for _ in range(3)
        ]
        for _ in pool.map(visit, servers):
            pass
        assert [server.stats().tls_failed for server in servers] == [0] * 3


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_handshake_that_needs_no_answer_is_acknowledged_at_once(
    version, secured_by, backend, papers
):
    # The client's last flight gets no answer, and its first message is not sent
    # before that flight is acknowledged: these clients have no TCP_NODELAY.
    ours = papers.server()
    if version == "TLSv1_3" and secured_by == "portable":
        ours.num_tickets = 0  # tickets would be an answer
    theirs = papers.client(maximum_version=ssl.TLSVersion[version])
    with util.serving(lambda conn, data: data, backend, ssl=ours) as server:
        session = None
        for number in range(200):
            begun = time.monotonic()
            peer = secure(server.address, theirs, session=session)
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
            took = time.monotonic() - begun
            if version == "TLSv1_2":
                session = peer.session  # a resumed one ends with the client's flight
            ends(peer)
            if number and took < DELAY:
                return  # one of many is enough, whatever else the machine does
    pytest.fail("each answer waited for a delayed acknowledgement")


@pytest.mark.timeout(180)
def test_peers_that_only_send_lose_nothing_here_and_a_part_with_each_loop(
    secured_by, loop, papers
):
    size = 200, 200_000
    without = 0 if secured_by == "portable" else None
    assert tickets.of_pymux(papers, *size, num_tickets=without) == 200 * 200_000
    # else the clients did not do what loses bytes
    assert tickets.of_loop(loop.name, papers, *size) < 200 * 200_000
