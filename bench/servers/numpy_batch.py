"""NumPy behind pymux: micro-batches, one matrix product for each."""

from matmul import SIZE, product
from pymux_common import serve

import pymux


@pymux.batched(min_messages=64, max_delay=0.002)
def handler(batch):
    batch.reply_data(product(batch.data))


serve(handler, framing=pymux.Fixed(SIZE), payload="matmul")
