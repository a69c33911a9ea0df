"""pymux: all messages of a harvest in one call, each by itself."""

from pymux_common import serve

import pymux


@pymux.batched
def handler(batch):
    batch.reply([message.upper() for message in batch.messages])


@pymux.batched
def echo(batch):
    batch.reply(batch.messages)


serve(handler, echo)
