"""asyncio, streams: what its documentation shows first."""

from protocols import run, serve_streams

run(serve_streams)
