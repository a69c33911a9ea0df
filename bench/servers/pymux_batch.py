"""pymux: all messages of a harvest in one go, as one buffer."""

from pymux_common import serve

import pymux


@pymux.batched
def handler(batch):
    batch.reply_data(bytes(batch.data).upper())


@pymux.batched
def echo(batch):
    batch.reply_data(batch.data)


serve(handler, echo)
