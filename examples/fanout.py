r"""Market data: prices from few feeds to many subscribers, each at its own pace.

    python examples/fanout.py [FEED_PORT [SUBSCRIBER_PORT]]

A feed sends lines `SYMBOL PRICE`. A subscriber sends symbols, one a line, and gets
the last price of each, and then the new ones. A subscriber that reads more slowly than
prices come gets fewer of them and never an old one: while its output waits, only the
last price of each symbol is kept for it.

    $ python examples/fanout.py &
    $ printf 'ACME 17.2\n' | python -m pymux connect 127.0.0.1:9000
    $ printf 'ACME\n' | python -m pymux connect 127.0.0.1:9001
    ACME 17.2
"""

import sys

import pymux

SLOW = 65536  # bytes that wait for a subscriber that is slow
MOST = 1000  # symbols of a subscriber


class Market:
    """What feeds and subscribers share."""

    def __init__(self) -> None:
        self.last: dict[bytes, bytes] = {}  # the line of each symbol
        self.subscribers: dict[bytes, set[pymux.Connection]] = {}
        self.due: dict[pymux.Connection, set[bytes]] = {}  # of those that are slow

    def publish(self, mux: pymux.Mux, symbol: bytes, line: bytes) -> None:
        self.last[symbol] = line
        subscribers = self.subscribers.get(symbol, set())
        slow = subscribers & self.due.keys()
        for conn in slow:
            self.due[conn].add(symbol)
        mux.send_many(subscribers - slow if slow else subscribers, line)


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

    def blocked(self, conn: pymux.Connection) -> None:
        self.market.due[conn] = set()

    def drained(self, conn: pymux.Connection) -> None:
        for symbol in self.market.due.pop(conn):
            conn.send(self.market.last[symbol])

    def closed(self, conn: pymux.Connection, error: OSError | None) -> None:
        self.market.due.pop(conn, None)
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
    with pymux.Server(
        None,
        endpoints,
        framing=pymux.Lines(max_size=100),
        limits=pymux.Limits(high_water=SLOW),
    ) as server:
        feeds, subscribers = server.addresses
        print("feeds on port", feeds[1])
        print("subscribers on port", subscribers[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 3 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/fanout.py [FEED_PORT [SUBSCRIBER_PORT]]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
