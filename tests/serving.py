"""Handlers of tests, and what a blocking client gets from them."""

import asyncio
import threading

import pymux

from .util import harvest_until, wait_until


def upper(conn, data):
    """A handler that answers in capitals."""
    return data.upper()


async def echo(conn):
    """A handler that sends back what it gets."""
    async for data in conn:
        conn.send(data)


async def reverse(conn):
    """A handler that sends back what it gets, reversed."""
    async for data in conn:
        conn.send(data[::-1])


class Notes:
    """An object handler that notes what it is told."""

    def __init__(self):
        self.opened_ones = []
        self.got = []
        self.ends = []

    def opened(self, conn):
        self.opened_ones.append(conn)

    def received(self, conn, data):
        self.got.append((conn, data))

    def closed(self, conn, error):
        self.ends.append((conn, error))

    def errors(self):
        """The errno of each end, None for an ordinary one."""
        return [error and error.errno for _, error in self.ends]


class Told:
    """What coroutines note, and what `on_error` is told."""

    def __init__(self):
        self.notes = []
        self.errors = []

    def on_error(self, conn, error):
        self.errors.append((conn is not None, type(error), str(error)))

    async def note_cancelled(self, name, wait=lambda: pymux.sleep(3600)):
        """Wait; note the name when that is cancelled."""
        try:
            await wait()
        except (pymux.Cancelled, asyncio.CancelledError):
            self.notes.append(name)
            raise


class Waits:
    """An event that is not set, and queues that are empty and full."""

    def __init__(self):
        self.event = pymux.Event()
        self.empty = pymux.Queue()
        self.full = pymux.Queue(maxsize=1)
        self.full.put_nowait("there")
        self.named = {
            "event": self.event.wait,
            "get": self.empty.get,
            "put": lambda: self.full.put("more"),
        }

    def go_on(self):
        """Let the coroutines that wait go on."""
        self.event.set()
        self.empty.put_nowait("late")
        self.full.get_nowait()


class Hooked:
    """An object handler that keeps its hooks' calls, and the open connections."""

    def __init__(self):
        self.told = []  # (what, the thread's name)
        self.conns = set()
        self.muxes = []

    def keep(self, what):
        self.told.append((what, threading.current_thread().name))

    def started(self, mux):
        self.muxes.append(mux)
        self.keep("started")

    def stopping(self, mux):
        self.muxes.append(mux)
        self.keep("stopping")

    def opened(self, conn):
        self.conns.add(conn)
        self.keep("opened")

    def received(self, conn, data):
        return data

    def closed(self, conn, error):
        self.conns.discard(conn)
        self.keep("closed")

    def names(self):
        return [what for what, _ in self.told]


class Parting(Hooked):
    """Says good-bye to every connection when its mux stops."""

    def stopping(self, mux):
        super().stopping(mux)
        mux.send_many(self.conns, b"good-bye")


def answer(where, sent, framing=None):
    """What a server answers to one message of a blocking client."""
    with pymux.connect(where, framing=framing, timeout=10) as client:
        client.send(sent)
        return client.recv()


def harvest_while(mux, condition):
    """Harvest until the condition no longer holds."""
    harvest_until(mux, lambda acc: not condition())


class Owed:
    """A handler that owes every batch, and keeps what it owes for the test."""

    def __init__(self):
        self.batches = []  # (messages, Later)

    @pymux.batched
    def received(self, batch):
        self.batches.append((batch.messages, batch.later()))

    def take(self, *messages):
        """The oldest `Later`, which must be of these messages."""
        wait_until(lambda: self.batches)
        found, later = self.batches.pop(0)
        assert found == list(messages)
        return later


class OwedAndTold(Owed):
    """The same, which hears of ends and errors."""

    def __init__(self):
        super().__init__()
        self.ends = []
        self.errors = []

    def closed(self, conn, error):
        self.ends.append(error)

    def on_error(self, conn, error):
        self.errors.append((conn, error))


def later_upper(later, *messages):
    """Answer these messages in capitals, later."""
    later.reply([data.upper() for data in messages])


def in_thread(fn, *args):
    """What fn(*args) raises or returns in another thread than the mux's or this."""
    found = []

    def call():
        try:
            found.append(fn(*args))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]
