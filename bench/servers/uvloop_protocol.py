"""uvloop, callbacks."""

import uvloop
from protocols import run, serve_protocol

run(serve_protocol, uvloop.new_event_loop)
