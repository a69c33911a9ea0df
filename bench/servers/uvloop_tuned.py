"""uvloop, callbacks, and a line split tuned by hand."""

import uvloop
from protocols import run, serve_protocol

run(serve_protocol, uvloop.new_event_loop, tuned=True)
