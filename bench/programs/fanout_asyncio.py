"""examples/fanout.py for asyncio or uvloop: `[--uvloop] [FEED_PORT [SUBSCRIBER_PORT]]`.

Callbacks, as the prices need no order of awaits. What one receive of a feed brought is
put together for each subscriber, so that it costs one `write`.
"""

import asyncio
import contextlib
import sys

SLOW = 65536  # bytes that wait for a subscriber that is slow
MOST = 1000  # symbols of a subscriber
LINE = 100  # bytes
BACKLOG = 4096  # asyncio's 100 is too few for connects that come together


class Lines(asyncio.Protocol):
    """Cuts what comes into lines."""

    transport: asyncio.Transport
    tail = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *lines, self.tail = (self.tail + data).split(b"\n")
        if len(self.tail) > LINE or any(len(line) > LINE for line in lines):
            self.transport.abort()
            return
        self.received(lines)


class Market:
    """What feeds and subscribers share."""

    def __init__(self):
        self.last = {}  # the line of each symbol
        self.subscribers = {}

    def publish(self, lines):
        due = {}
        for symbol, line in lines.items():
            self.last[symbol] = line
            for subscriber in self.subscribers.get(symbol, ()):
                if subscriber.missed is not None:
                    subscriber.missed.add(symbol)
                elif subscriber in due:
                    due[subscriber].append(line)
                else:
                    due[subscriber] = [line]
        for subscriber, prices in due.items():
            subscriber.send(prices)


class Feed(Lines):
    def __init__(self, market):
        self.market = market

    def received(self, lines):
        # Of the prices that have come together, the last of each symbol counts.
        self.market.publish({line.partition(b" ")[0]: line for line in lines})


class Subscriber(Lines):
    def __init__(self, market):
        self.market = market
        self.symbols = set()
        self.missed = None  # symbols, while the subscriber is slow

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=SLOW)

    def send(self, lines):
        self.transport.write(b"\n".join(lines) + b"\n")

    def received(self, lines):
        for symbol in lines:
            self.symbols.add(symbol)
            if len(self.symbols) > MOST:
                self.transport.abort()
                return
            self.market.subscribers.setdefault(symbol, set()).add(self)
        known = [self.market.last[s] for s in lines if s in self.market.last]
        if known:
            self.send(known)

    def pause_writing(self):
        self.missed = set()
        self.transport.pause_reading()

    def resume_writing(self):
        missed, self.missed = self.missed, None
        self.transport.resume_reading()
        if missed:
            self.send([self.market.last[symbol] for symbol in missed])

    def connection_lost(self, error):
        for symbol in self.symbols:
            members = self.market.subscribers.get(symbol, set())
            members.discard(self)
            if not members:
                self.market.subscribers.pop(symbol, None)


async def main(feed_port=9000, subscriber_port=9001):
    loop = asyncio.get_running_loop()
    market = Market()
    for name, protocol, port in (
        ("feeds", Feed, feed_port),
        ("subscribers", Subscriber, subscriber_port),
    ):
        server = await loop.create_server(
            lambda p=protocol: p(market), "127.0.0.1", port, backlog=BACKLOG
        )
        print(name, "on port", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    words, run = sys.argv[1:], asyncio.run
    if "--uvloop" in words:
        import uvloop

        words.remove("--uvloop")
        run = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        run(main(*map(int, words)))
