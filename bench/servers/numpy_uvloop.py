"""NumPy behind uvloop: one message at a time."""

import asyncio

import uvloop
from common import arguments
from matmul import SIZE, product
from protocols import Raw, serve_protocol


class Vectors(Raw):
    """Cuts the stream every SIZE bytes."""

    tail = b""

    def data_received(self, data):
        data = self.tail + data
        whole = len(data) - len(data) % SIZE
        self.tail = data[whole:]
        for at in range(0, whole, SIZE):
            self.transport.write(product(data[at : at + SIZE]))


args = arguments(("matmul",))
loop = uvloop.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(serve_protocol(args, Vectors))
