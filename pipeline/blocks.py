"""Embeddings in a file, of which no more than a block of rows is in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError

#: Rows that are in memory at once.
BLOCK = 4096
#: Embeddings, float32, shape (n_clips, n_features): an array, or :class:`Rows` for heads that
#: stream.
Matrix = Any


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix of float32 in a file. To take some of them copies none.

    Attributes
    ----------
    path : Path
        The file: the rows one after the other, and nothing else.
    stored : tuple of int
        The shape of the matrix in the file.
    rows : ndarray of int, shape (n_clips,)
        Positions in it.
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
        """Two, as of an array."""
        return 2

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "Rows":
        """Take some of the rows, by their positions among these."""
        return Rows(self.path, self.stored, self.rows[rows])

    def read(self) -> NDArray[np.float32]:
        """Read all of the rows, shape (n_clips, n_features): take a block of them first."""
        X = np.empty(self.shape, np.float32)
        # Not mapped into memory: of rows here and there the system would map their surroundings.
        with self.path.open("rb", buffering=0) as file:
            for place, row in zip(self.rows.tolist(), X, strict=True):
                file.seek(place * X.strides[0])
                if file.readinto(row.data) != row.nbytes:
                    raise MachineError(
                        f"{self.path}: ends before row {place}; expected {self.stored[0]} rows; "
                        "run the same command again"
                    )
        return X


def take(X: Matrix, rows: NDArray[np.intp]) -> Matrix:
    """Take some clips of one layer or of several."""
    return X[rows] if isinstance(X, Rows) else X[..., rows, :]


def read(X: Matrix, rows: Any) -> NDArray[np.float32]:
    """Read some clips of one layer into an array: no more of them than a block."""
    taken = X[rows]
    return taken.read() if isinstance(taken, Rows) else np.asarray(taken)


def blocks(n_rows: int) -> Iterator[slice]:
    """Yield the parts of at most :data:`BLOCK` rows, in order."""
    for start in range(0, n_rows, BLOCK):
        yield slice(start, min(start + BLOCK, n_rows))


def by_block(said: Callable[[NDArray[np.float32]], NDArray[Any]], X: Matrix) -> NDArray[Any]:
    """Ask of one block of clips after another what a function says of them, and join it."""
    parts = [said(read(X, part)) for part in blocks(len(X))]
    return np.concatenate(parts) if parts else said(read(X, slice(0, 0)))
