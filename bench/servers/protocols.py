"""The protocols that asyncio and uvloop run alike, and how they are served."""

import asyncio
import functools
from typing import Any

from common import HOST, announce, answers, arguments, context


class Raw(asyncio.Protocol):
    """Answers the bytes as they come; reads no more while its peer does not."""

    transport: asyncio.Transport

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data.upper())

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class Echo(Raw):
    """Answers what came as it came."""

    def data_received(self, data):
        self.transport.write(data)


class Lines(Raw):
    """Answers each line; the transport puts them together."""

    tail = b""
    write: Any

    def connection_made(self, transport):
        super().connection_made(transport)
        self.write = transport.writelines
        if transport.get_extra_info("ssl_object"):  # of each it makes a record
            self.write = lambda lines: transport.write(b"".join(lines))

    def data_received(self, data):
        *lines, self.tail = (self.tail + data).split(b"\n")
        self.write([line.upper() + b"\n" for line in lines])


class TunedLines(Raw):
    """The same by hand: no copy where a line ends what was received, one write."""

    tail = b""

    def data_received(self, data):
        if self.tail:
            data = self.tail + data
        lines = data.split(b"\n")
        self.tail = lines[-1]
        if len(lines) > 1:
            lines[-1] = b""
            self.transport.write(b"\n".join([line.upper() for line in lines]))


def settings(args):
    """What a loop's server is made with; its own backlog, unless another is wanted."""
    chosen = {"ssl": context(args)}
    return {**chosen, "backlog": args.backlog} if args.backlog else chosen


async def serve_protocol(args, protocol):
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, HOST, args.port, **settings(args))
    announce(server.sockets[0].getsockname())
    await server.serve_forever()


async def serve_streams(args):
    """The same through asyncio's streams."""
    raw = functools.partial(talk_raw, answers(args))
    talk = talk_lines if args.framing == "lines" else raw
    server = await asyncio.start_server(talk, HOST, args.port, **settings(args))
    announce(server.sockets[0].getsockname())
    await server.serve_forever()


async def talk_raw(answer, reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(answer(data))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def talk_lines(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def run(serve, new_event_loop=asyncio.new_event_loop, tuned=False):
    """Run one of the two above on a loop of either kind."""
    args = arguments()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    if serve is serve_streams:
        main = serve_streams(args)
    else:
        raw = Echo if args.payload == "echo" else Raw
        lines = TunedLines if tuned else Lines
        main = serve_protocol(args, raw if args.framing == "raw" else lines)
    loop.run_until_complete(main)
