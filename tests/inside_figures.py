"""What the tests of figures and of balance use of the package that is not public."""

from pymux.engine.balancing import OPEN, SEAT
from pymux.figures import pages as figures_pages
from pymux.figures.exposition import exposition
from pymux.figures.fields import KINDS, OTHER, places, read_places, write_places
from pymux.figures.files import live_files
from pymux.figures.layout import PAGE, VERSION
from pymux.figures.pages import attach, create
from pymux.figures.reading import NoFigures, Reader
from pymux.objects.base import engine_of
from pymux.server import balance
from pymux.server.base import count_in

__all__ = [
    "KINDS",
    "OPEN",
    "OTHER",
    "PAGE",
    "SEAT",
    "VERSION",
    "NoFigures",
    "Reader",
    "attach",
    "balance",
    "changing",
    "count_in",
    "create",
    "engine_of",
    "exposition",
    "figures_pages",
    "live_files",
    "places",
    "read_places",
    "write_places",
]


def changing(pages, slot):
    """A block in which the figures of a slot are being changed."""
    return pages._changing(slot)
