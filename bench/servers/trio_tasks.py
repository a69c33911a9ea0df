"""trio: a task for each connection."""

import trio
from common import HOST, announce, answers, arguments

args = arguments()


async def talk(stream):
    """Serve one connection to its end; trio sets TCP_NODELAY itself."""
    answer = answers(args)
    try:
        async for data in stream:
            reply = answer(data)
            if reply:
                await stream.send_all(reply)
    except trio.BrokenResourceError:
        pass


async def main():
    """Listen, announce, serve until killed."""
    listeners = await trio.open_tcp_listeners(
        args.port, host=HOST, backlog=args.backlog or None
    )
    announce(listeners[0].socket.getsockname())
    await trio.serve_listeners(talk, listeners)


trio.run(main)
