"""pymux: an asyncio task for each connection, in a loop of uvloop's."""

import uvloop
from pymux_guest import serve


async def handler(conn):
    async for data in conn:
        conn.send(data.upper())


serve(handler, uvloop.run)
