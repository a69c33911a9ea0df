"""What a balancer and Prometheus ask of the supervisor: two small addresses.

`health` answers an HTTP request with 200 or 503, and a peer that says nothing for
SILENCE, as HAProxy's agent-check does, with a word for HAProxy. `metrics` answers with
the figures of all workers. At most MOST peers are served at once, each for PATIENCE
seconds; others wait in the backlog.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..values.addresses import Address
from ..values.endpoint import listen_settings
from .sockets import Place, bind_all

__all__ = ["Answer", "Status", "http"]

MOST = 16  # peers at once
PATIENCE = 2.0  # seconds for a peer
SILENCE = 0.05  # seconds without a byte, after which a peer is an agent-check
LONGEST = 8192  # bytes of a request
PAUSE = 0.5  # seconds without accepting, when there is no descriptor or memory
SHORTAGES = errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM

Answer = Callable[[bool], bytes]
"""Makes the whole answer; the argument tells whether the peer speaks HTTP."""


class _Peer:
    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self.sock = sock
        self.answer = answer
        self.asked = b""
        self.out: bytes | None = None  # None: it is still asking
        self.by = time.monotonic() + PATIENCE
        self.silent = time.monotonic() + SILENCE

    @property
    def time(self) -> float:
        """When something is to be done with the peer."""
        return self.by if self.asked or self.out is not None else self.silent


class Status:
    """Listens on the addresses, and answers.

    Args:
        selector: the supervisor's; its data are functions to call with the events.
        answers: (address, what makes the answer).

    Raises:
        OSError: an address cannot be bound.
    """

    def __init__(self, selector: Any, answers: list[tuple[Address, Answer]]) -> None:
        self._selector = selector
        self._places: list[Place] = []
        self._listeners: list[tuple[socket.socket, Answer]] = []
        self._peers: set[_Peer] = set()
        self._accepts = False
        self._again: float | None = None  # when to accept again; None: now
        try:
            for address, answer in answers:
                self._listen(address, answer)
        except BaseException:
            self.close()
            raise
        self._watch_listeners()

    def _listen(self, address: Address, answer: Answer) -> None:
        (place,) = bind_all(listen_settings(address))
        self._places.append(place)
        socks = place.shared or place.bind_slot()
        self._listeners += [(sock, answer) for sock in socks]
        place.listen(socks)

    def _watch_listeners(self) -> None:
        """Accept, unless there are as many peers as there may be, or a shortage."""
        accepts = len(self._peers) < MOST and self._again is None
        if accepts is self._accepts:
            return
        self._accepts = accepts
        for sock, answer in self._listeners:
            if accepts:
                self._selector.register(
                    sock, selectors.EVENT_READ, partial(self._accept, sock, answer)
                )
            else:
                self._selector.unregister(sock)

    def _accept(self, listener: socket.socket, answer: Answer, events: int) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:  # else the peer has gone
            if error.errno in SHORTAGES:  # it waits in the backlog, and wakes us
                self._again = time.monotonic() + PAUSE
                self._watch_listeners()
            return
        sock.setblocking(False)
        peer = _Peer(sock, answer)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._go_on, peer))
        self._watch_listeners()

    def _go_on(self, peer: _Peer, events: int) -> None:
        """Read what has come, or send what is left."""
        try:
            if peer.out is None:
                data = peer.sock.recv(LONGEST)
                peer.asked += data
                whole = b"\r\n\r\n" in peer.asked or b"\n\n" in peer.asked
                if whole or not data or len(peer.asked) > LONGEST:
                    self._answer(peer)
            else:
                self._send(peer)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)

    def _answer(self, peer: _Peer) -> None:
        asks = peer.asked.startswith(b"GET ")
        if peer.asked and not asks:
            self._drop(peer)
            return
        peer.out = peer.answer(asks)
        self._selector.modify(
            peer.sock, selectors.EVENT_WRITE, partial(self._go_on, peer)
        )
        self._send(peer)

    def _send(self, peer: _Peer) -> None:
        assert peer.out is not None
        try:
            peer.out = peer.out[peer.sock.send(peer.out) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if not peer.out:
            self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._selector.unregister(peer.sock)
        peer.sock.close()
        self._peers.discard(peer)
        self._watch_listeners()

    @property
    def next_time(self) -> float | None:
        """When `tick` has something to do; None: never."""
        times = [peer.time for peer in self._peers]
        if self._again is not None:
            times.append(self._again)
        return min(times, default=None)

    def tick(self) -> None:
        """Answer silent peers, and drop slow ones."""
        now = time.monotonic()
        if self._again is not None and self._again <= now:
            self._again = None
            self._watch_listeners()
        for peer in [one for one in self._peers if one.time <= now]:
            if peer.asked or peer.out is not None:
                self._drop(peer)
                continue
            # It may have spoken while the supervisor did something else.
            self._go_on(peer, 0)
            if peer in self._peers and not peer.asked and peer.out is None:
                self._answer(peer)

    def close(self) -> None:
        """Close every socket."""
        listeners, self._listeners = self._listeners, []
        for peer in list(self._peers):
            self._drop(peer)
        for sock, _ in listeners:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            sock.close()
        for place in self._places:
            place.close()
        self._places.clear()


def http(status: str, kind: str, body: str) -> bytes:
    """One whole answer of HTTP."""
    data = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data
