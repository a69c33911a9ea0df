"""NumPy behind pymux: one message at a time."""

from matmul import SIZE, product
from pymux_common import serve

import pymux

serve(lambda conn, data: product(data), framing=pymux.Fixed(SIZE), payload="matmul")
