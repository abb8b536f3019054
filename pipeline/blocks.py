"""Embeddings in a file, of which at most a block of rows is in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError

#: Rows that are in memory at once.
BLOCK = 4096
#: Embeddings, float32, shape (n_clips, n_features): an array, or :class:`FileMatrix` for heads that
#: stream.
Matrix = Any


@dataclass(frozen=True)
class FileMatrix:
    """Some rows of a float32 matrix in a file. Selecting among them copies nothing.

    Attributes
    ----------
    path : Path
        The file: the rows of the matrix one after the other, and nothing else.
    stored : tuple of int
        The shape of the matrix in the file.
    rows : ndarray of int, shape (n_clips,)
        Which of its rows.
    """

    path: Path
    stored: tuple[int, int]
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape that an array of these rows would have."""
        return len(self.rows), self.stored[1]

    @property
    def ndim(self) -> int:
        """Two, as for an array."""
        return 2

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "FileMatrix":
        """Select some of these rows."""
        return FileMatrix(self.path, self.stored, self.rows[rows])

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the file is found here, with all of its rows."""
        n_rows, width = self.stored
        try:
            return self.path.stat().st_size == n_rows * width * np.dtype(np.float32).itemsize
        except OSError:
            return False

    def read(self) -> NDArray[np.float32]:
        """Read all of the rows, shape (n_clips, n_features): select a block of them first."""
        X = np.empty(self.shape, np.float32)
        # Not a memory map, which would load whole pages around scattered rows.
        with self.path.open("rb", buffering=0) as file:
            for number, row in zip(self.rows.tolist(), X, strict=True):
                file.seek(number * X.strides[0])
                if file.readinto(row.data) != row.nbytes:
                    raise MachineError(
                        f"{self.path}: ends before row {number} of {self.stored[0]}; "
                        "run the same command again"
                    )
        return X


def take(X: Matrix, rows: NDArray[np.intp]) -> Matrix:
    """Select clips of one layer or of several."""
    return X[rows] if isinstance(X, FileMatrix) else X[..., rows, :]


def read(X: Matrix, rows: Any) -> NDArray[np.float32]:
    """Read clips of one layer into an array: at most a block of them."""
    selected = X[rows]
    return selected.read() if isinstance(selected, FileMatrix) else np.asarray(selected)


def blocks(n_rows: int) -> Iterator[slice]:
    """Yield slices of at most :data:`BLOCK` rows, in order."""
    for start in range(0, n_rows, BLOCK):
        yield slice(start, min(start + BLOCK, n_rows))


def by_block(function: Callable[[NDArray[np.float32]], NDArray[Any]], X: Matrix) -> NDArray[Any]:
    """Apply a function to one block of clips after another, and join the results."""
    parts = [function(read(X, part)) for part in blocks(len(X))]
    return np.concatenate(parts) if parts else function(read(X, slice(0, 0)))
