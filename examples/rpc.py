r"""Calls whose answers leave as soon as they are ready, in any order.

    python examples/rpc.py [PORT]

A line is a call, in JSON, with an id of the caller's choice. Its answer has the same
id. What takes long holds up nothing else, and `{"cancel": ID}` gives a call up:

    $ python examples/rpc.py &
    $ printf '%s\n' '{"id": 1, "method": "wait", "params": [0.5]}' \
        '{"id": 2, "method": "add", "params": [20, 3]}' |
        python -m pymux connect 127.0.0.1:9000
    {"id": 2, "result": 23}
    {"id": 1, "result": 0.5}
"""

import inspect
import json
import operator
import sys
from collections.abc import Callable
from typing import Any

import pymux

AT_ONCE = 32  # calls of one connection that run
TIMEOUT = 30.0  # seconds that a call may take


async def wait(seconds: float) -> float:
    await pymux.sleep(seconds)
    return seconds


# Coroutine functions run on the mux, all others in a thread.
METHODS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "upper": str.upper,
    "wait": wait,
}


async def answer(conn: pymux.Connection, call: Any, slots: pymux.Queue[None]) -> None:
    """Make one call, and send its result or error."""
    reply = {"id": call.get("id")}
    try:
        fn, params = METHODS[call["method"]], call["params"]
        in_thread = not inspect.iscoroutinefunction(fn)
        async with pymux.timeout(TIMEOUT):
            begun = pymux.to_thread(fn, *params) if in_thread else fn(*params)
            reply["result"] = await begun
    except Exception as error:
        reply["error"] = f"{type(error).__name__}: {error}"
    finally:  # also after a cancel, which is no Exception: nobody wants an answer
        slots.get_nowait()
    conn.send(json.dumps(reply).encode())


async def handler(conn: pymux.Connection) -> None:
    """Start the calls of one connection as they come."""
    slots: pymux.Queue[None] = pymux.Queue(maxsize=AT_ONCE)
    running: dict[str, pymux.Spawned] = {}
    async for line in conn:
        try:
            call = dict(json.loads(line))
        except (TypeError, ValueError):
            conn.send(b'{"error": "a JSON object is needed"}')
            continue
        if "cancel" in call:
            if one := running.get(str(call["cancel"])):
                one.cancel()
            continue
        await slots.put(None)  # while AT_ONCE calls run, nothing more is received
        running = {key: one for key, one in running.items() if not one.done()}
        running[str(call.get("id"))] = pymux.spawn(answer(conn, call, slots))


def main(port: int = 9000) -> None:
    lines = pymux.Lines(max_size=1 << 20)
    with pymux.Server(handler, ("127.0.0.1", port), framing=lines) as server:
        print("calls on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/rpc.py [PORT]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
