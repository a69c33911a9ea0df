"""pymux: all messages of a harvest as one NumPy array, without a copy."""

import numpy as np
from pymux_common import serve

import pymux

UPPER = np.uint8(ord("a") - ord("A"))


@pymux.batched
def handler(batch):
    data = np.frombuffer(batch.data, np.uint8)
    is_lower = data - np.uint8(ord("a")) < np.uint8(26)
    batch.reply_data(data - is_lower * UPPER)


serve(handler)
