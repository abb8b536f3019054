"""A fusion of fitted heads as one head, to be saved and to predict with."""

import io
import json
import math
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ...errors import UserError, first_line
from ...files import check_regular, write_bytes
from .head import Head, Params
from .sklearn_file import MAX_HEAD_BYTES

#: Smaller probabilities of a member count as this one.
SMALLEST = 1e-12


def log_probabilities(head: type[Head], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-probabilities from the scores of a head, shape (n_clips, n_labels).

    Decision values are taken as logits. A mapping with more parameters, such as that of Platt,
    would be learnt from the same clips as the weights, which would then prefer the members that it
    overfits. A label that a member was not fitted on gets the smallest probability.
    """
    if head.scores_are != "probability":
        scores = softmax(np.nan_to_num(scores, nan=-np.inf), axis=1)
    return np.log(np.clip(np.nan_to_num(scores), SMALLEST, None))


def weigh_members(
    members: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probabilities of a fusion, shape (n_clips, n_labels).

    Parameters
    ----------
    members : ndarray of float64, shape (n_members, n_clips, n_labels)
        Log-probabilities.
    weights : ndarray of float64, shape (n_members,)
        Their weights, at least 0.
    """
    return np.asarray(softmax(np.tensordot(weights, members, axes=1), axis=1))


@dataclass(frozen=True)
class FusedMember:
    """A head of a fusion, the features that it reads, ``start`` to ``stop``, and its weight."""

    head: Head
    start: int
    stop: int
    weight: float


class FusedHead(Head):
    """The softmax of a weighted sum of the log-probabilities of other heads.

    ``model`` is a tuple of :class:`FusedMember`. Its file is a ZIP archive of the members' own
    files, numbered, and ``fusion.json``, which names the heads.
    """

    name = "fuse"
    title = "fusion"
    parameters = {}
    probabilities_are = "calibrated by the weights, which were learnt on held-out speakers"
    suffix = ".zip"

    def __init__(self, params: Params, seed: int = 0, members: Sequence[FusedMember] = ()) -> None:
        super().__init__(params, seed)
        self.model: tuple[FusedMember, ...] = tuple(members)
        self.classes: NDArray[np.str_] = np.array([], str)

    def fit(self, X: NDArray[np.float32], y: NDArray[np.str_], speakers: NDArray[np.str_]) -> Self:
        """Fit each member to its features; their weights stay as they are."""
        self.classes = np.unique(y)
        for member in self.model:
            member.head.fit(X[:, member.start : member.stop], y, speakers)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return probabilities, shape (n_clips, n_classes)."""
        members = [
            log_probabilities(
                type(each.head), each.head.decision_scores(X[:, each.start : each.stop])
            )
            for each in self.model
        ]
        return weigh_members(np.stack(members), np.array([each.weight for each in self.model]))

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.str_]:
        """Return the most probable labels, shape (n_clips,)."""
        return np.asarray(self.classes[self.predict_proba(X).argmax(axis=1)])

    def predict_and_score(
        self, X: NDArray[np.float32]
    ) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
        """Return the most probable labels and the probabilities."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes[probabilities.argmax(axis=1)]), probabilities

    @property
    def converged(self) -> bool:
        """Whether all members reached their optimum."""
        return all(member.head.converged for member in self.model)

    def save(self, path: Path) -> None:
        """Write the fitted members; equal members give equal bytes."""
        content = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as archive:
            about = {
                "classes": self.classes.tolist(),
                "members": [
                    [each.head.name, each.start, each.stop, each.weight] for each in self.model
                ],
            }
            archive.writestr(zipfile.ZipInfo("fusion.json"), json.dumps(about))
            for number, member in enumerate(self.model):
                file = Path(folder, str(number))
                member.head.save(file)
                archive.writestr(zipfile.ZipInfo(str(number)), file.read_bytes())
        write_bytes(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a fusion that :meth:`save` wrote; no code in the file is run.

        Raises
        ------
        UserError
            If the file is damaged, or a member asks for types other than those of its head.
        """
        from . import HEADS

        try:
            check_regular(path, MAX_HEAD_BYTES)
            with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
                if sum(each.file_size for each in archive.infolist()) > MAX_HEAD_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_HEAD_BYTES >> 20} MiB")
                about = json.loads(archive.read("fusion.json"))
                members, unpacked = [], 0
                for number, (name, start, stop, weight) in enumerate(about["members"]):
                    if not (0 <= int(start) < int(stop) and 0 <= float(weight) < math.inf):
                        raise ValueError(f"member {number} has impossible features or weight")
                    file = Path(folder, str(number))
                    file.write_bytes(archive.read(str(number)))
                    unpacked += _unpacked_size(file)
                    if unpacked > MAX_HEAD_BYTES:
                        raise ValueError(f"it unpacks to more than {MAX_HEAD_BYTES >> 20} MiB")
                    head = HEADS[name].load(file)
                    members.append(FusedMember(head, int(start), int(stop), float(weight)))
                fused = cls({}, members=members)
                fused.classes = np.array(about["classes"], np.str_)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged archive makes the reader raise
            raise UserError(
                f"{path}: cannot be read as a head saved by serpipe ({first_line(error)}); "
                "run `serpipe fit` again"
            ) from error
        return fused


def _unpacked_size(file: Path) -> int:
    """Return the size of a saved head when it is unpacked, in bytes."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        return sum(each.file_size for each in archive.infolist())
