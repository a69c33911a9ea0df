"""A load generator in C: connections that send messages and check every answer.

The load has a mux of its own. `pymux bench` is its only user.
"""

from __future__ import annotations

from typing import Any

from .._core import ffi, lib
from ..values.framing import Framing, Raw
from ..values.limits import Limits
from .backends import choose, unavailable
from .os_errors import meaning
from .structs import MOST_ENDPOINTS, endpoints, policy

__all__ = ["Load"]

NS = 1_000_000_000
# A load never stops to read because of what it has sent: a server that answers before
# it reads on would wait for ever.
LIMITS = Limits(max_output=2**62, high_water=2**62, close_timeout=None)


class Load:
    """Connections to a server, each with some messages in flight.

    Args:
        address: of the server; a name is resolved, which blocks.
        framing: of the connections; an answer is one message.
        questions: messages of one size, which every connection sends in turn.
        answers: what is due for each of them, of the same size.
        conns: how many connections.
        depth: how many messages of a connection are in flight.
        backend: a name of `backends()`; None takes the best that works.
        timeout: seconds that connecting may take.

    Raises:
        OSError: the name does not resolve, or memory or descriptors are missing.
    """

    def __init__(
        self,
        address: Any,
        framing: Framing,
        questions: list[bytes],
        answers: list[bytes],
        *,
        conns: int,
        depth: int,
        backend: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        where, count, keep = endpoints(address, listen=False)
        plan = ffi.new("pmx_load_plan *")
        plan.conns, plan.depth = conns, depth
        plan.framed = not isinstance(framing, Raw)
        plan.count, plan.size = len(questions), len(questions[0])
        texts = [ffi.from_buffer(b"".join(ring)) for ring in (questions, answers)]
        plan.questions, plan.answers = (ffi.cast("uint8_t *", one) for one in texts)
        plan.endpoints, plan.endpoint_count = where, min(count, MOST_ENDPOINTS)
        rules = policy((framing, None), LIMITS, half_open=False, timeout=timeout)
        plan.policy = rules
        place = ffi.new("pmx_load **")
        name = choose(backend) or ffi.NULL
        error = lib.pmx_load_open(place, name, plan)
        if error:
            raise unavailable(backend, -error)
        self._c: Any = ffi.gc(place[0], lib.pmx_load_close)
        self._keep = (where, keep, texts, rules)
        self.figures: Any = lib.pmx_load_counts(self._c)

    def connect(self, seconds: float) -> None:
        """Connect for some seconds, until every connection is open or lost."""
        self._run(lib.PMX_LOAD_CONNECT, seconds)

    def send(self, seconds: float) -> None:
        """Send for some seconds: an answer is followed by the next message."""
        self._run(lib.PMX_LOAD_SEND, seconds)

    def finish(self, seconds: float) -> None:
        """Send nothing more, and wait for answers for some seconds at most."""
        self._run(lib.PMX_LOAD_FINISH, seconds)

    def _run(self, mode: int, seconds: float) -> None:
        error = lib.pmx_load_run(self._c, mode, int(seconds * NS))
        if error:
            raise OSError(-error, meaning(-error))

    def clear(self) -> None:
        """Forget the answers that were counted, and their latencies."""
        lib.pmx_load_clear(self._c)

    def latency(self, share: float) -> float:
        """Return the seconds that this share of the answers took at most."""
        return int(lib.pmx_load_quantile(self._c, share)) / NS

    def close(self) -> None:
        """Close every connection."""
        ffi.release(self._c)
