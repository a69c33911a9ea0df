"""pymux: a function, called once a message."""

from pymux_common import serve

serve(lambda conn, data: data.upper(), lambda conn, data: data)
