"""What the servers here share that are guests of a loop."""

import asyncio

from common import HOST, announce, arguments
from pymux_common import FRAMINGS

import pymux


def serve(handler, run):
    """Serve by pymux.aio, in a loop of asyncio's or of uvloop's, until killed."""
    args = arguments()

    async def main():
        async with pymux.aio.serve(
            handler,
            (HOST, args.port),
            framing=FRAMINGS[args.framing],
            backend=args.backend,
            backlog=args.backlog or None,
        ) as server:
            announce(server.address)
            await asyncio.Event().wait()

    run(main())
