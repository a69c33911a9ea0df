"""Connecting from a task."""

from __future__ import annotations

import asyncio
import time
import weakref
from functools import partial
from typing import Any

from ..engine.structs import endpoints_to, policy_of
from ..handlers.dial import dial_in_asyncio
from ..values.addresses import is_numeric
from ..values.checks import duration
from ..values.endpoint import Connectable, connect_settings
from ..values.framing import Framing
from ..values.limits import Limits
from ..values.tls import SSLContext
from .connection import LoopConnection
from .outgoing import OutgoingConnection, engine_in

__all__ = ["connect"]

# The connections that each task has dialled. They end with the task.
_DIALLED: weakref.WeakKeyDictionary[asyncio.Task[Any], set[LoopConnection]]
_DIALLED = weakref.WeakKeyDictionary()


async def connect(
    address: Connectable,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | bool | None = None,
    limits: Limits | None = None,
    server_hostname: str | None = None,
    require_close_notify: bool = True,
    timeout: float | None = None,
    backend: str | None = None,
) -> LoopConnection:
    """Connect from a task of the running loop.

    Args:
        address: (host, port), the path of a Unix socket, a URL or an `Endpoint`.
            A name is resolved in a thread of the loop's executor, and its
            addresses are tried in order, each a quarter of a second after the one
            before if that has not failed sooner (RFC 8305).
        framing: None is `Raw()`.
        reply_framing: the framing of what is sent, if it is another than that of what
            is received; None is the same. A Scanner or Splitter is refused.
        ssl: an `ssl.SSLContext`, for TLS; True is one that verifies with the
            certificates that the system trusts; None is plain text.
        limits: None is `Limits()`.
        server_hostname: the name that the server's certificate is to have; None takes
            the host of the address. Only with TLS.
        require_close_notify: False takes an end of the stream without TLS'
            close_notify, which may be a cut, for an ordinary end.
        timeout: seconds that connecting may take, TLS included; None leaves the limit
            to the OS and `Limits.handshake_timeout`.
        backend: None takes the best that works. It must be epoll or kqueue.

    Returns:
        A `Connection`, open. `send` queues; `recv`, `drain` and iteration are
        awaited. `close()`, the end of an ``async with`` block, or an error closes
        the connection.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.
        TimeoutError: connecting took longer than `timeout`.
        BackendUnavailable: a loop cannot watch the backend.
        OSError: no server answers at the address, or the name does not resolve. It
            is an `ssl.SSLError` where the TLS handshake fails.
    """
    loop = asyncio.get_running_loop()
    timeout = duration("timeout", timeout)
    asked = connect_settings(
        address,
        framing=framing,
        reply_framing=reply_framing,
        ssl=ssl,
        limits=limits,
        server_hostname=server_hostname,
        require_close_notify=require_close_notify,
    )
    engine_in(loop, backend)  # raises if the loop cannot have one
    resolve = partial(endpoints_to, asked)
    if not is_numeric(asked.address):
        begun = time.monotonic()
        look_up = loop.run_in_executor(None, resolve)
        try:
            found = await asyncio.wait_for(look_up, timeout)
        except TimeoutError:
            raise TimeoutError(
                f"{asked.address[0]!r} was not resolved within {timeout} seconds"
            ) from None
        if timeout is not None:
            timeout = max(timeout - (time.monotonic() - begun), 0.001)
    else:
        found = resolve()
    engine = engine_in(loop, backend)  # the first may have closed meanwhile
    rules = policy_of(engine, asked, timeout=timeout)
    conn: OutgoingConnection | None = None
    opening = None
    try:
        conn = engine.dial(found, rules, asked.framings, str(asked))
        opening = conn.seat.opening = loop.create_future()
        await opening
    except OSError as error:
        # `conn` and `opening` hold the error, whose traceback holds this frame:
        # delete both, so that no cycle is left behind.
        del conn
        raise asked.not_connected(error) from None
    except BaseException:
        if conn is not None:
            conn.abort()
        raise
    finally:
        del opening
    assert conn is not None
    return conn


async def _dial(address: Connectable, **options: Any) -> LoopConnection:
    """`pymux.dial` in a task: the connection is closed when the task has ended."""
    conn = await connect(address, **options)
    task = asyncio.current_task()
    assert task is not None
    mine = _DIALLED.get(task)
    if mine is None:
        mine = _DIALLED[task] = set()
        task.add_done_callback(_close_dialled)
    mine.difference_update([one for one in mine if one.closed])
    mine.add(conn)
    return conn


def _close_dialled(task: asyncio.Task[Any]) -> None:
    for conn in _DIALLED.pop(task, ()):
        conn.close()


dial_in_asyncio(_dial)
