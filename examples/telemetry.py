r"""Many sensors over pymux, their readings over HTTP, in one asyncio loop.

    pip install aiohttp
    python examples/telemetry.py [SENSORS_PORT [HTTP_PORT]]

A sensor connects, sends its name as the first line and readings as the lines
after it. `GET /` shows the last reading of each as JSON; what is POSTed to
`/sensors/NAME` is sent to that sensor as a line. Both sides share one dictionary,
and no lock, since there is one thread:

    $ python examples/telemetry.py &
    $ printf 'attic\n21.5\n' | python -m pymux connect 127.0.0.1:9000
    $ curl 127.0.0.1:9001/
    {"attic": {"reading": 21.5, "connected": false}}
"""

import asyncio
import sys

from aiohttp import web

import pymux


class Sensor:
    conn: pymux.aio.Connection | None = None
    reading: float | None = None


sensors: dict[str, Sensor] = {}


async def sensor(conn: pymux.aio.Connection) -> None:
    """One sensor's connection, as long as it lives."""
    name = await conn.recv(timeout=10)
    if name is None:
        return
    entry = sensors.setdefault(name.decode(errors="replace"), Sensor())
    entry.conn = conn
    try:
        async for line in conn:
            try:
                entry.reading = float(line)
            except ValueError:
                conn.send(b"a number is needed")
    finally:
        if entry.conn is conn:
            entry.conn = None


async def show(request: web.Request) -> web.Response:
    return web.json_response(
        {
            name: {"reading": entry.reading, "connected": entry.conn is not None}
            for name, entry in sensors.items()
        }
    )


async def tell(request: web.Request) -> web.Response:
    entry = sensors.get(request.match_info["name"])
    if entry is None or entry.conn is None:
        raise web.HTTPNotFound(text="no such sensor is connected\n")
    entry.conn.send((await request.text()).encode())
    return web.Response(text="sent\n")


async def main(sensors_port: int = 9000, http_port: int = 9001) -> None:
    app = web.Application()
    app.add_routes([web.get("/", show), web.post("/sensors/{name}", tell)])
    http = web.AppRunner(app)
    await http.setup()
    try:
        await web.TCPSite(http, "127.0.0.1", http_port).start()
        async with pymux.aio.serve(
            sensor,
            ("127.0.0.1", sensors_port),
            framing=pymux.Lines(),
            limits=pymux.Limits(idle_timeout=600),
        ) as server:
            print("sensors on port", server.address[1])
            print("http on port", http.addresses[0][1], flush=True)
            await asyncio.Event().wait()
    finally:
        await http.cleanup()


if __name__ == "__main__":
    if len(sys.argv) > 3 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/telemetry.py [SENSORS_PORT [HTTP_PORT]]")
    try:
        asyncio.run(main(*map(int, sys.argv[1:])))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
