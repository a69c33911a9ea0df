"""The figures of a server, where other processes can read them."""

from __future__ import annotations

from ..engine.notices import tell
from ..figures.pages import Pages, attach, create
from .base import Plan

__all__ = ["open_pages"]


def open_pages(plan: Plan) -> Pages | None:
    """Let a bound server, the only one of its process, count in a file of pages.

    Returns:
        The pages, for their close; None if there can be none, which ends no server.
    """
    engine = plan.engine
    assert engine is not None
    try:
        pages = create()
    except OSError as error:
        tell("figures", "no figures for other processes: %s", error)
        return None
    try:
        page = attach(pages.slot(0), pages.fileno())
        page.sign(engine.name)
        engine.count_in(page.fd, page.offset)
        page.close()
    except BaseException:
        pages.close()
        raise
    tell("figures", "the figures are in %s", pages.path)
    return pages
