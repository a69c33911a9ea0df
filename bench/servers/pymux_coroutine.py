"""pymux: a coroutine for each connection."""

from pymux_common import serve


async def handler(conn):
    async for data in conn:
        conn.send(data.upper())


async def echo(conn):
    async for data in conn:
        conn.send(data)


serve(handler, echo)
