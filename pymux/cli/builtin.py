"""The handlers that the command provides."""

from __future__ import annotations

from ..handlers.marks import batched
from ..objects.batch import Batch

__all__ = ["HANDLERS"]


@batched
def upper(batch: Batch) -> None:
    """Answer with the message in upper case."""
    batch.reply_data(bytes(batch.data).upper())


@batched
def echo(batch: Batch) -> None:
    """Answer with the message."""
    batch.reply_data(batch.data)


@batched
def discard(batch: Batch) -> None:
    """Take messages and answer nothing."""


HANDLERS = {"upper": upper, "echo": echo, "discard": discard}
