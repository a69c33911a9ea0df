"""An I/O multiplexer: Python decides, C moves the bytes.

>>> import pymux
>>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as server:
...     with pymux.connect(server.address) as client:
...         client.send(b"hello")
...         client.recv()
b'HELLO'

Names

    serve, Server         serve a handler, in this thread or in a new one
    batched               marks a handler that takes a whole batch at once
    sleep, to_thread, dial
                          awaitables for a coroutine handler
    timeout               a block of a coroutine that must end in time
    spawn, Spawned        another coroutine for the same connection
    Event, Queue          what coroutines wait for each other with
    connect, Client       a blocking client
    Mux, Listener, Timer, Watch
                          for a loop of your own: listen, connect, harvest
    Batch                 one harvest: messages as rows and as columns
    Detached              a connection that has left its mux, for another one
    Later                 its answers, where another thread gives them later
    Connection            send, close, pause; one object for the whole life
    Raw, Lines, LengthPrefix, Varint, Fixed, Scanner, Splitter
                          framings, which cut streams into messages; with
                          `reply_framing` answers have another than questions
    Workers               how many processes serve, and how they are replaced
    Group, Nats, Redis    a room: connections that get the same messages, in one
                          worker or, by a broker, in many
    Limits                limits of memory, time and connections
    Proxy                 balancers that say, by the PROXY protocol, for whom they are
    Credentials           the process at the other end of a Unix socket
    from_systemd          the listening sockets that systemd has passed
    Endpoint              an address with its framing, limits and handler
    Stats                 the figures of a mux
    aio                   servers and connections in an asyncio loop
    Selector              a `selectors.BaseSelector`, for loops that take one
    backends              names the backends that work here: epoll, kqueue, ...
    Handler, Address, Framing
                          types, for annotations: what `serve` and `connect` take
    ConnectionClosed, Cancelled, BackendUnavailable
                          pymux's own errors

A handler has one of four forms. ``def handler(conn, data)`` is called for each message
and returns the answer or None. ``async def handler(conn)`` runs once for each
connection. ``@batched def handler(batch)`` is called once in each harvest. An object
has any of the methods `opened`, `received`, `blocked`, `drained`, `draining` and
`closed`; `draining` is called by `stop(linger=)`.
`Server` says which handlers are refused, since they could never work.

Hooks
    A handler that listens may have two more methods: ``started(mux)``, to set timers or
    to connect, and ``stopping(mux)``, to say good-bye. A batch function has them as
    attributes. The mux's thread calls `started` in the first harvest, before any
    connection is reported, and `stopping` once, before a server drains, or ends by an
    error, or before a mux closes. What `stopping` sends is delivered as answers are.
    Connections that were in the backlog are opened after it. Their errors are reported
    as errors of a batch.

Empty batches
    A harvest may return with nothing to report: at its timeout, at a `wakeup`, after
    a timer or a threadsafe call. Such a batch is false; harvest again. Other spurious
    events do not occur: each list of a batch holds only connections with that event.

End of stream
    A handler's connection closes by itself once its answers are flushed. In a
    coroutine `recv` returns None and iteration ends; the coroutine may still send.
    ``b""`` is always an empty message. Every connection shows up in `closed` once,
    with None for an orderly end, else with the OSError that ended the connection.

Backpressure
    A peer may read its answers too slowly. Over `Limits.high_water` queued bytes the
    mux stops reading from that peer, and `blocked` reports the connection. Under
    `low_water` reading goes on, and `drained` reports the connection. Past `max_output`
    the connection ends. `pause` and `resume` are for your own use. `Connection.queued`
    is the number of queued bytes.

Threads
    A mux belongs to the thread of its first harvest, and to its process. In any other
    thread or process every call raises RuntimeError. Any thread may call `wakeup`,
    `call_threadsafe`, a server's `retire`, `stop`, `stats` and `address`, and answer a
    batch by its `Later`. Handlers run in the mux's thread, so a blocking call blocks
    every connection; use `to_thread`, or `Batch.later`.
"""

from typing import TYPE_CHECKING, Any

from .client.client import Client
from .client.connect import connect
from .engine.backends import backends
from .engine.timers import Timer
from .engine.watches import Watch
from .groups.group import Group
from .groups.nats import Nats
from .groups.redis import Redis
from .handlers.dial import dial
from .handlers.marks import batched
from .handlers.nursery import Spawned, spawn
from .handlers.sync import Event, Queue
from .handlers.tasks import sleep
from .handlers.threads import to_thread
from .handlers.timeouts import timeout
from .mux import Mux
from .objects.batch import Batch
from .objects.connection import Connection
from .objects.handler import Handler
from .objects.later import Later
from .objects.listener import Listener
from .run import serve
from .selector import Selector
from .server.server import Server
from .systemd import from_systemd
from .values.addresses import Address
from .values.credentials import Credentials
from .values.detached import Detached
from .values.endpoint import Endpoint
from .values.errors import BackendUnavailable, Cancelled, ConnectionClosed
from .values.framing import (
    Fixed,
    Framing,
    LengthPrefix,
    Lines,
    Raw,
    Scanner,
    Splitter,
    Varint,
)
from .values.limits import Limits
from .values.proxy import Proxy
from .values.stats import Stats
from .values.workers import Workers

if TYPE_CHECKING:
    from . import aio

__version__ = "0.1.0"

__all__ = [
    "Address",
    "BackendUnavailable",
    "Batch",
    "Cancelled",
    "Client",
    "Connection",
    "ConnectionClosed",
    "Credentials",
    "Detached",
    "Endpoint",
    "Event",
    "Fixed",
    "Framing",
    "Group",
    "Handler",
    "Later",
    "LengthPrefix",
    "Limits",
    "Lines",
    "Listener",
    "Mux",
    "Nats",
    "Proxy",
    "Queue",
    "Raw",
    "Redis",
    "Scanner",
    "Selector",
    "Server",
    "Spawned",
    "Splitter",
    "Stats",
    "Timer",
    "Varint",
    "Watch",
    "Workers",
    "aio",
    "backends",
    "batched",
    "connect",
    "dial",
    "from_systemd",
    "serve",
    "sleep",
    "spawn",
    "timeout",
    "to_thread",
]


def __getattr__(name: str) -> Any:
    """Import `pymux.aio` at its first use, since that imports asyncio too."""
    if name == "aio":
        import importlib

        return importlib.import_module(".aio", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, not the modules that make them."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
