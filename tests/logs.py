"""What logger `pymux` writes, for tests."""

import contextlib
import logging


@contextlib.contextmanager
def at_debug():
    """What logger `pymux` writes in this block, from DEBUG on: a list of records."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("pymux")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
