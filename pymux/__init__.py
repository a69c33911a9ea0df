"""An I/O multiplexer: Python decides, C moves the bytes.

>>> import pymux
>>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as server:
...     with pymux.connect(server.address) as client:
...         client.send(b"hello")
...         client.recv()
b'HELLO'

Names

    serve, Server         serve a handler, in this thread or one of its own
    batched               marks a handler that takes a whole batch at once
    sleep, to_thread, dial
                          what a coroutine handler awaits, beside its connection
    connect, Client       a blocking client
    Mux, Listener, Timer  for a loop of your own: listen, connect, harvest
    Batch                 one harvest: messages as rows and as columns
    Connection            send, close, pause; the same object from first to last
    Raw, Lines, LengthPrefix, Varint, Fixed, Scanner, Splitter
                          how a stream is cut into messages, both ways
    Limits                what a connection may use
    Endpoint              an address and how to speak there, wherever one is taken
    Stats                 the figures of a mux
    aio                   servers and connections in an asyncio loop
    Selector              a `selectors.BaseSelector`, for loops that take one
    backends              which of epoll, kqueue, poll and select work here
    ConnectionClosed, BackendUnavailable
                          the errors that are pymux's own

Handlers, in four forms: ``def handler(conn, data)``, called once a message, which
returns the answer or None; ``async def handler(conn)``, once a connection;
``@batched def handler(batch)``, once a harvest; an object with any of the methods
`opened`, `received`, `drained` and `closed`.

Empty batches
    A harvest may return with nothing to report: at its timeout, at a `wakeup`, after
    a timer or a threadsafe call. Such a batch is false; harvest again. There is no
    other spurious event: a connection in a list is there for the reason it says.

End of stream
    A handler's connection closes by itself once its answers are flushed. For a
    coroutine `recv` returns None and iteration ends, and what it still sends is sent.
    ``b""`` is always an empty message. Every connection shows up in `closed` once,
    with None for an orderly end, else with the OSError that ended it.

Backpressure
    While a peer reads slower than it is answered, over `Limits.high_water` queued
    bytes, nothing more is read from it; under `low_water` reading goes on, and
    `drained` tells. Past `max_output` the connection ends. `pause` and `resume` are
    yours, and `Connection.queued` tells how much waits.

Threads
    A mux belongs to the thread of its first harvest, and to its process: elsewhere
    every call raises RuntimeError. Any thread may call `wakeup`, `call_threadsafe`,
    and a server's `stop`, `stats` and `address`. Handlers run in the mux's thread, so
    what blocks there blocks all; `to_thread` is for that.
"""

from typing import TYPE_CHECKING, Any

from .client.client import Client
from .client.connect import connect
from .engine.backends import backends
from .engine.timers import Timer
from .handlers.dial import dial
from .handlers.marks import batched
from .handlers.tasks import sleep, to_thread
from .mux import Mux
from .objects.batch import Batch
from .objects.connection import Connection
from .objects.listener import Listener
from .run import serve
from .selector import Selector
from .server.server import Server
from .values.endpoint import Endpoint
from .values.errors import BackendUnavailable, ConnectionClosed
from .values.framing import Fixed, LengthPrefix, Lines, Raw, Scanner, Splitter, Varint
from .values.limits import Limits
from .values.stats import Stats

if TYPE_CHECKING:
    from . import aio

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "Batch",
    "Client",
    "Connection",
    "ConnectionClosed",
    "Endpoint",
    "Fixed",
    "LengthPrefix",
    "Limits",
    "Lines",
    "Listener",
    "Mux",
    "Raw",
    "Scanner",
    "Selector",
    "Server",
    "Splitter",
    "Stats",
    "Timer",
    "Varint",
    "aio",
    "backends",
    "batched",
    "connect",
    "dial",
    "serve",
    "sleep",
    "to_thread",
]


def __getattr__(name: str) -> Any:
    """`pymux.aio`, imported when it is first asked for, as it needs asyncio."""
    if name == "aio":
        import importlib

        return importlib.import_module(".aio", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
