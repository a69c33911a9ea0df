"""pymux: an I/O multiplexer. Python decides, C moves the bytes.

>>> import pymux
>>> with pymux.Server(lambda conn, data: data.upper(), ("127.0.0.1", 0)) as server:
...     with pymux.connect(server.address) as client:
...         client.send(b"hello")
...         client.recv()
b'HELLO'
"""

from typing import TYPE_CHECKING, Any

from .backends import backends
from .batch import Batch
from .client import Client, connect
from .connection import Connection
from .coroutines import sleep, to_thread
from .errors import BackendUnavailable, ConnectionClosed
from .framing import Fixed, LengthPrefix, Limits, Lines, Raw
from .handlers import batched
from .mux import Listener, Mux
from .selector import Selector
from .server import Server, serve
from .stats import Stats
from .timers import Timer

if TYPE_CHECKING:
    from . import aio

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "Batch",
    "Client",
    "Connection",
    "ConnectionClosed",
    "Fixed",
    "LengthPrefix",
    "Limits",
    "Lines",
    "Listener",
    "Mux",
    "Raw",
    "Selector",
    "Server",
    "Stats",
    "Timer",
    "aio",
    "backends",
    "batched",
    "connect",
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
