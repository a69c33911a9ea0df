"""examples/rpc.py for asyncio or uvloop: `[--uvloop] [PORT]`. Streams and tasks."""

import asyncio
import contextlib
import inspect
import json
import operator
import sys

AT_ONCE = 32  # calls of one connection that run
TIMEOUT = 30.0  # seconds that a call may take
BACKLOG = 4096  # asyncio's 100 is too few for connects that come together


async def wait(seconds):
    await asyncio.sleep(seconds)
    return seconds


# Coroutine functions run in the loop, all others in a thread.
METHODS = {"add": operator.add, "upper": str.upper, "wait": wait}


async def answer(writer, call, slots):
    """Make one call, and send its result or error."""
    reply = {"id": call.get("id")}
    try:
        fn, params = METHODS[call["method"]], call["params"]
        in_thread = not inspect.iscoroutinefunction(fn)
        async with asyncio.timeout(TIMEOUT):
            begun = asyncio.to_thread(fn, *params) if in_thread else fn(*params)
            reply["result"] = await begun
    except Exception as error:
        reply["error"] = f"{type(error).__name__}: {error}"
    finally:  # also after a cancel, which is no Exception: nobody wants an answer
        slots.release()
    writer.write(json.dumps(reply).encode() + b"\n")


async def calls(reader, writer):
    """Start the calls of one connection as they come."""
    slots = asyncio.Semaphore(AT_ONCE)
    running = {}
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            try:
                call = dict(json.loads(line))
            except (TypeError, ValueError):
                writer.write(b'{"error": "a JSON object is needed"}\n')
                continue
            if "cancel" in call:
                if one := running.get(str(call["cancel"])):
                    one.cancel()
                continue
            await writer.drain()
            await slots.acquire()  # while AT_ONCE calls run, nothing more is read
            running = {key: one for key, one in running.items() if not one.done()}
            task = group.create_task(answer(writer, call, slots))
            running[str(call.get("id"))] = task


async def handler(reader, writer):
    try:
        await calls(reader, writer)
    except (OSError, ValueError):  # a peer that is gone, or a line over the limit
        writer.transport.abort()
    finally:
        writer.close()


async def main(port=9000):
    server = await asyncio.start_server(
        handler, "127.0.0.1", port, limit=1 << 20, backlog=BACKLOG
    )
    print("calls on port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    words, run = sys.argv[1:], asyncio.run
    if "--uvloop" in words:
        import uvloop

        words.remove("--uvloop")
        run = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        run(main(*map(int, words)))
