"""Market data: prices from few feeds to many subscribers, each at its own pace.

    python examples/fanout.py [FEED_PORT [SUBSCRIBER_PORT]]

A feed sends lines `SYMBOL PRICE`. A subscriber sends symbols, one a line, and gets
the last price of each, and then the new ones. A subscriber that reads more slowly than
prices come gets fewer of them and never an old one: while its output waits, only the
last price of each symbol is kept for it.

    $ printf 'ACME 17.2\n' | nc -q1 127.0.0.1 9000
    $ printf 'ACME\n' | nc 127.0.0.1 9001
    ACME 17.2
"""

import contextlib
import sys

import pymux

SLOW = 65536  # bytes that wait for a subscriber: from there on it is slow
MOST = 1000  # symbols of a subscriber
LATER = 0.02  # seconds until slow subscribers are looked at again


class Market:
    """What feeds and subscribers share."""

    def __init__(self) -> None:
        self.last: dict[bytes, bytes] = {}  # the line of each symbol
        self.subscribers: dict[bytes, set[pymux.Connection]] = {}
        self.slow: dict[pymux.Connection, set[bytes]] = {}  # symbols that are due

    def publish(self, mux: pymux.Mux, symbol: bytes, line: bytes) -> None:
        self.last[symbol] = line
        subscribers = self.subscribers.get(symbol)
        if not subscribers:
            return
        fast = [conn for conn in subscribers if conn.queued <= SLOW]
        if len(fast) < len(subscribers):
            if not self.slow:
                mux.call_later(LATER, self.catch_up, mux)
            for conn in subscribers.difference(fast):
                self.slow.setdefault(conn, set()).add(symbol)
        for conn in fast:
            if conn in self.slow:
                self.slow[conn].discard(symbol)
        mux.send_many(fast, line)

    def catch_up(self, mux: pymux.Mux) -> None:
        """Send what is due to those that have read on."""
        for conn, symbols in list(self.slow.items()):
            if conn.queued <= SLOW:
                del self.slow[conn]
                for symbol in symbols:
                    conn.send(self.last[symbol])
        if self.slow:
            mux.call_later(LATER, self.catch_up, mux)


class Feed:
    def __init__(self, market: Market) -> None:
        self.market = market

    @pymux.batched
    def received(self, batch: pymux.Batch) -> None:
        # Of the prices that have come together, the last of each symbol counts.
        lines = {line.partition(b" ")[0]: line for line in batch.messages}
        for symbol, line in lines.items():
            self.market.publish(batch.conns[0].mux, symbol, line)


class Subscriber:
    def __init__(self, market: Market) -> None:
        self.market = market

    def opened(self, conn: pymux.Connection) -> None:
        conn.state = set()

    def received(self, conn: pymux.Connection, symbol: bytes) -> bytes | None:
        conn.state.add(symbol)
        if len(conn.state) > MOST:
            conn.abort()
            return None
        self.market.subscribers.setdefault(symbol, set()).add(conn)
        return self.market.last.get(symbol)

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.market.slow.pop(conn, None)
        for symbol in conn.state:
            members = self.market.subscribers.get(symbol, set())
            members.discard(conn)
            if not members:
                self.market.subscribers.pop(symbol, None)


def main(feed_port: int = 9000, subscriber_port: int = 9001) -> None:
    market = Market()
    endpoints = [
        pymux.Endpoint(("127.0.0.1", feed_port), handler=Feed(market)),
        pymux.Endpoint(("127.0.0.1", subscriber_port), handler=Subscriber(market)),
    ]
    framing = pymux.Lines(max_size=100)
    with pymux.Server(None, endpoints, framing=framing) as server:
        feeds, subscribers = server.addresses
        print("feeds on port", feeds[1])
        print("subscribers on port", subscribers[1], flush=True)
        server.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*map(int, sys.argv[1:]))
