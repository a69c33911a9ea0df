"""Arrow arrays: those of others, and the ids of a batch."""

from __future__ import annotations

from typing import Any, Protocol

from ..engine.arena import IDS as IDS_COLUMN
from ..engine.arrow import IDS, export

__all__ = ["ArrowArray", "ArrowIds"]


class ArrowArray(Protocol):
    """An array of any library that exports Arrow's PyCapsule interface."""

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the capsules of the schema and of the array."""


class ArrowIds:
    """The connection ids of a batch's messages, made by `Batch.arrow_ids`.

    A consumer of Arrow takes the ids without a copy, as uint64. The object keeps the
    memory of the ids as long as the object lives.
    """

    __slots__ = ("_arena", "_rows", "_view")

    def __init__(self, arena: Any, rows: int) -> None:
        self._arena = arena
        self._rows = rows
        # While this view lives, the mux does not use the memory again.
        self._view: memoryview = arena.view(IDS_COLUMN, 8 * rows)

    def __len__(self) -> int:
        return self._rows

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the ids as an Arrow array of type uint64.

        Args:
            requested_schema: ignored; the consumer casts the array if it wants another
                type.

        Returns:
            The capsules of the schema and of the array.

        Raises:
            TypeError: the messages of a `Splitter` have no columns.
            NotImplementedError: PyPy has no such capsules.
        """
        return export(self._arena, IDS, self._rows)
