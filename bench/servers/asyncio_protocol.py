"""asyncio, callbacks: the fastest way the standard library has."""

from protocols import run, serve_protocol

run(serve_protocol)
