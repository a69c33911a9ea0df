"""uvloop under asyncio's streams."""

import uvloop
from protocols import run, serve_streams

run(serve_streams, uvloop.new_event_loop)
