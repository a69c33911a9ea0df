"""The clock of the package in the hands of a test: no time goes by."""

import concurrent.futures
import select
from functools import partial

import pymux

from . import inside, util


class Clock:
    """Moves the clock on by which the package and its core reckon every limit.

    Made by the fixture `clock`, which takes the clock back when the test ends. A limit
    of a minute is tested at once: advance 59 seconds and nothing happens, 2 more and
    it is over. Threads that wait by the system's clock notice nothing, among them
    `Server.stop`, whose drain does; nor do the timers of an asyncio loop.
    """

    def __init__(self):
        self.ahead = 0.0

    def advance(self, seconds, *those):
        """Let so many seconds go by for muxes and servers, and let them look around.

        A mux is harvested before, since the time that its caller takes for a batch is
        not the peers': it must have nothing to report. Afterwards the test harvests
        it. A server (a `Server`, or one of `pymux.aio` whose loop runs in another
        thread) is waited for, before and after.
        """
        for one in those:
            if isinstance(one, pymux.Mux):
                util.assert_nothing(one)
            else:
                settle(one)
        self.ahead += seconds
        inside.shift_clock(self.ahead)
        for one in those:
            if not isinstance(one, pymux.Mux):
                settle(one)

    def outlast(self, sock, seconds, server):
        """Let so many seconds go by until a socket's stream is over; how it ended.

        More than once, since the kernel of a peer may take its time to acknowledge
        what the core waits for. What comes meanwhile is read.
        """
        for _ in range(100):
            self.advance(seconds, server)
            if select.select([sock], [], [], 0.02)[0]:
                return util.until_end(sock)
        raise AssertionError(f"still there after 100 times {seconds} s")

    def restore(self):
        """Take the clock back to the system's."""
        inside.shift_clock(0)


def settle(server):
    """Return once a server has taken in what had arrived, and said what it had to;
    at once when it has ended."""
    for _ in range(3):
        looked = concurrent.futures.Future()
        try:
            inside.engine_of(server).call_threadsafe(looked.set_result, None)
        except RuntimeError:  # it has ended
            return
        util.wait_until(partial(_has_looked, looked, server))


def _has_looked(looked, server):
    return looked.done() or inside.is_freed(server)
