"""How Sphinx builds these pages: `sphinx-build -W -b html docs build/docs`."""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import pymux

project = "pymux"
author = "the pymux authors"
copyright = author
release = pymux.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "py:obj"  # a name in a docstring leads to what it names

html_theme = "furo"
html_title = f"pymux {release}"
html_copy_source = False

MADE_BY_PYMUX = {
    "Batch",
    "Client",
    "Connection",
    "Listener",
    "Spawned",
    "Timer",
    "Watch",
}
pymux.aio.Connection.__name__ = "Connection"  # else it would be shown as an alias


def without_what_no_user_calls(
    app: Sphinx, what: str, name: str, found: object, *rest: object
) -> tuple[str, None] | None:
    """Show no signature of a class whose objects only pymux makes."""
    made = what == "class" and getattr(found, "__name__", "") in MADE_BY_PYMUX
    return ("", None) if made else None


def without_what_pages_say(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Drop the text of a module: the pages of the guide say it, and more."""
    if what == "module":
        lines.clear()


def without_fields_of_tuples(
    app: Sphinx, what: str, name: str, found: object, skip: bool, options: object
) -> bool | None:
    """Skip the fields of a named tuple: its docstring has them as attributes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def link_to_files_of_the_repository(app: Sphinx, doctree: nodes.document) -> None:
    """Let a link to Markdown outside of docs/ lead to the file, as to other files.

    MyST looks for a page of that name, and there is none.
    """
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        path = Path(link["reftarget"] + ".md")
        if link.get("refdomain") == "doc" and path.is_absolute() and path.is_file():
            target = os.path.relpath(path, here)
            file = addnodes.download_reference(reftarget=target, refdoc=link["refdoc"])
            file += link.children
            link.replace_self(file)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-skip-member", without_fields_of_tuples)
    app.connect("autodoc-process-signature", without_what_no_user_calls)
    app.connect("autodoc-process-docstring", without_what_pages_say)
    # Before Sphinx collects the files that are linked to.
    app.connect("doctree-read", link_to_files_of_the_repository, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
