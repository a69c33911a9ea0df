"""pymux: a function, called once a message, in an asyncio loop of uvloop's."""

import uvloop
from pymux_guest import serve

serve(lambda conn, data: data.upper(), uvloop.run)
