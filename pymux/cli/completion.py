"""Completion in the shell, if the package argcomplete is installed.

The shell runs the command with `_ARGCOMPLETE` set, and takes what argcomplete prints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

__all__ = ["complete", "completes"]


def completes(action: argparse.Action, words: Iterable[str]) -> None:
    """Offer words for an argument; none at all for an empty `words`."""
    found = list(words)
    # argcomplete looks for this attribute, which argparse knows nothing of.
    setattr(action, "completer", lambda prefix, **_: found)  # noqa: B010


def complete(parser: argparse.ArgumentParser) -> None:
    """If the shell asks for a completion, print it and exit."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    finder: Any = argcomplete
    finder.autocomplete(parser)
