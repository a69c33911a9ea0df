"""Arrow arrays: those of others, and the columns of a batch."""

from __future__ import annotations

from typing import Any, Protocol

from ..engine.arrow import export, export_stream

__all__ = ["ArrowArray", "ArrowColumn"]


class ArrowArray(Protocol):
    """An array of any library that exports Arrow's PyCapsule interface."""

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the capsules of the schema and of the array."""


class ArrowColumn:
    """A column of a batch, made by `Batch.arrow_messages` and `Batch.arrow_ids`.

    A consumer of Arrow takes the column without a copy, as binary or uint64. The object
    keeps the memory of the column as long as the object lives, so the column may be
    taken after the next harvest too, and in any thread.
    """

    __slots__ = ("_arena", "_column", "_lease", "_rows", "_view")

    def __init__(self, arena: Any, column: int, rows: int, view: memoryview) -> None:
        self._arena = arena
        self._column = column
        self._rows = rows
        # While this view lives, the mux does not use the memory again.
        self._view = view
        self._lease = arena.lend()  # made here, where no other thread makes it

    def __len__(self) -> int:
        return self._rows

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the column as an Arrow array.

        Args:
            requested_schema: ignored; the consumer casts the array if it wants another
                type.

        Returns:
            The capsules of the schema and of the array.

        Raises:
            NotImplementedError: PyPy has no such capsules.
        """
        return export(self._arena, self._column, self._rows)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the column as an Arrow stream of one array.

        Args:
            requested_schema: ignored, as for an array.

        Returns:
            The capsule of the stream.

        Raises:
            NotImplementedError: PyPy has no such capsules.
        """
        return export_stream(self._arena, self._column, self._rows)
