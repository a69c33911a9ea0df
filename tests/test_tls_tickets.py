"""Session tickets, which a server sends unasked: peers that only send lose nothing.

A peer that closes with unread bytes in its kernel resets the connection, and what the
server has not read by then is lost. Tickets are such bytes, unless they come with the
first answer.
"""

import asyncio
import contextlib
import ctypes
import socket
import ssl
import time

import pytest

from .tickets import Counts, send_only
from .tls import NAME, secure
from .util import connect, serving, wait_until

CLIENTS, SIZE = 100, 200_000


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_all_that_peers_send_arrives_though_they_never_read(
    version, secured_by, backend, papers
):
    ours = papers.server()
    if secured_by == "portable":
        ours.num_tickets = 0  # as the documentation says
    theirs = papers.client(maximum_version=ssl.TLSVersion[version])
    counts = Counts()
    with serving(counts, backend, ssl=ours) as server:
        send_only(server.address, theirs, CLIENTS, SIZE)
        wait_until(lambda: counts.ended == CLIENTS, timeout=30)
    assert counts.bytes == CLIENTS * SIZE


def test_asyncio_loses_a_part_of_the_same(papers):
    # what this proves is that the clients above do close with unread bytes
    total = ended = 0

    class Counting(asyncio.Protocol):
        def data_received(self, data):
            nonlocal total
            total += len(data)

        def connection_lost(self, error):
            nonlocal ended
            ended += 1

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Counting, "127.0.0.1", 0, ssl=papers.server(), backlog=300
        )
        address = server.sockets[0].getsockname()
        await loop.run_in_executor(
            None, send_only, address, papers.client(), CLIENTS, SIZE
        )
        while ended < CLIENTS:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(asyncio.wait_for(main(), 50))
    assert total < CLIENTS * SIZE


def test_a_ticket_comes_with_the_first_answer(papers, secured_by):
    with serving(lambda conn, data: data, ssl=papers.server()) as server:
        context = papers.client()
        with secure(server.address, context) as peer:
            assert not peer.session.has_ticket or secured_by == "portable"
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
            assert peer.session.has_ticket


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="the OS decides")
@pytest.mark.usefixtures("secured_by")
def test_the_first_message_waits_for_no_acknowledgement(papers):
    # Nagle's algorithm holds it back until the handshake is acknowledged, which the
    # system may do 40 ms later.
    context, spans = papers.client(), []
    with serving(lambda conn, data: data, ssl=papers.server()) as server:
        for _ in range(20):
            with secure(server.address, context) as peer:
                began = time.monotonic()
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
                spans.append(time.monotonic() - began)
    assert min(spans) < 0.03


@pytest.mark.usefixtures("secured_by")
def test_a_context_without_tickets_sends_none(papers):
    ours = papers.server()
    ours.num_tickets = 0
    with (
        serving(lambda conn, data: data, ssl=ours) as server,
        secure(server.address, papers.client()) as peer,
    ):
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        assert not peer.session.has_ticket


@pytest.mark.usefixtures("secured_by")
def test_as_many_tickets_come_as_the_context_says(papers):
    ours = papers.server()
    ours.num_tickets = 5
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = papers.client().wrap_bio(incoming, outgoing, server_hostname=NAME)
    stream = b""
    with (
        serving(lambda conn, data: data, ssl=ours) as server,
        connect(server.address) as sock,
    ):
        while True:
            try:
                made.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        made.write(b"x")
        sock.sendall(outgoing.read())
        answered = False
        while not answered:
            data = sock.recv(65536)
            stream += data
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                answered = made.read(1) == b"x"
    records = 0
    while stream:  # each ticket has a record of its own, and the answer
        records += 1
        stream = stream[5 + int.from_bytes(stream[3:5], "big") :]
    assert records == 6


class Heap(ctypes.Structure):
    """What mallinfo2() of glibc returns."""

    _fields_ = (
        *((f"_{number}", ctypes.c_size_t) for number in range(7)),
        ("used", ctypes.c_size_t),
        ("_8", ctypes.c_size_t),
        ("_9", ctypes.c_size_t),
    )


def test_tickets_leave_no_buffer_with_a_connection(papers):
    heap = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if heap is None:
        pytest.skip("no mallinfo2(): glibc 2.33 has it")
    heap.restype = Heap
    count, grown = 30, []
    for tickets in (2, 0):
        ours = papers.server()
        ours.num_tickets = tickets
        theirs = papers.client()
        with (
            serving(lambda conn, data: data, ssl=ours) as server,
            contextlib.ExitStack() as peers,
        ):
            before = 0
            for number in range(count + 5):
                peer = peers.enter_context(secure(server.address, theirs))
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
                if number == 4:  # what is set up once, is by now
                    before = heap().used
            grown.append((heap().used - before) / count)
    # OpenSSL's buffers are of 16 KiB. The client keeps one for its next message.
    assert grown[0] - grown[1] < 24 * 1024
