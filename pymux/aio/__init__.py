"""pymux inside asyncio: servers and connections in a loop that already runs.

The loop may be asyncio's own or uvloop's, and may run anything else. A coroutine
handler is an asyncio task here: `asyncio.sleep`, timeouts, task groups and every
asyncio library work in a handler.

>>> import asyncio, pymux
>>> async def handler(conn):
...     async for line in conn:
...         await asyncio.sleep(0)
...         conn.send(line.upper())
>>> async def main():
...     lines = pymux.Lines()
...     async with pymux.aio.serve(handler, ("127.0.0.1", 0), framing=lines) as server:
...         conn = await pymux.aio.connect(server.address, framing=lines)
...         conn.send(b"hello")
...         print(await conn.recv())
...         conn.close()
>>> asyncio.run(main())
b'HELLO'

A loop cannot watch poll and select: with these backends, `serve` and `connect` raise
`BackendUnavailable`.
"""

from .connect import connect
from .connection import LoopConnection as Connection
from .server import Server, serve

__all__ = ["Connection", "Server", "connect", "serve"]


def __dir__() -> list[str]:
    """List the public names, not the modules that make them."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
