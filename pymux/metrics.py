"""Figures for Prometheus, in a program that has `prometheus_client` already.

`pymux serve --metrics ADDRESS` and `Workers(metrics=)` answer Prometheus by
themselves, and need neither this module nor that library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from .figures.exposition import families
from .figures.pages import own_file
from .figures.reading import NoFigures, Reader

if TYPE_CHECKING:
    from .values.stats import Stats

__all__ = ["Collector"]


class HasStats(Protocol):
    """A server."""

    def stats(self) -> Stats:
        """Return its figures; any thread may ask."""
        ...


class Collector:
    """Collects the figures of a server, of all its workers, for `prometheus_client`.

    The workers are not asked: a worker that is stuck shows. Needs `prometheus_client`:
    ``pip install 'pymux-io[metrics]'``.

    Args:
        source: the file of a server's figures; None is that of this process, or of
            the supervisor that has started it, else the newest of this user's
            servers, which is looked for at each collection; or a `Server` of this
            process, which has no histograms.

    Raises:
        ImportError: `prometheus_client` is not installed.
        TypeError: the source is something else.

    >>> from prometheus_client import REGISTRY                   # doctest: +SKIP
    >>> REGISTRY.register(pymux.metrics.Collector())             # doctest: +SKIP
    """

    def __init__(self, source: str | os.PathLike[str] | HasStats | None = None) -> None:
        try:
            from prometheus_client.core import Metric
        except ImportError:
            raise ImportError(
                "Collector needs prometheus_client: pip install 'pymux-io[metrics]'"
            ) from None
        self._metric: Any = Metric
        self._server: HasStats | None = None
        self._path: str | None = None
        if isinstance(source, (str, os.PathLike)):
            self._path = os.fspath(source)
        elif callable(getattr(source, "stats", None)):
            self._server = source
        elif source is not None:
            raise TypeError(f"source is {source!r}; a path, a server or None is needed")

    def describe(self) -> list[Any]:
        """Return nothing: the server may not have started when this is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; none while there is no server."""
        for family in families(self._read()):
            metric = self._metric(family.name, family.help, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, labels, value)
            yield metric

    def _read(self) -> list[dict[str, Any]]:
        if self._server is not None:
            return [{"worker": 0, **asdict(self._server.stats())}]
        try:
            with Reader(self._path or own_file()) as reader:
                return reader.read()
        except NoFigures:
            return []
