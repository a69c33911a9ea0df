"""The work of the NumPy servers: a vector in, its product with a matrix out.

Entries and products are small integers, so float32 is exact in whatever order
a library sums: the load generator compares every byte (see ../pattern.c).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core, as all others

import numpy as np

ORDER = 256
SIZE = 4 * ORDER  # bytes of a message and of its answer
ROWS, COLUMNS = np.indices((ORDER, ORDER))
MATRIX = ((ROWS * 7 + COLUMNS * 13) % 11 - 5).astype(np.float32)


def product(data):
    """One message or many, back to back; their answers likewise."""
    vectors = np.frombuffer(data, np.float32).reshape(-1, ORDER)
    return (vectors @ MATRIX).tobytes()
