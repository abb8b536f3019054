"""The embeddings of perturbed clips, in caches of their own beside that of the clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .cache import Cache, check_table, difference, open_cache
from .joined_cache import JoinedCache
from .perturbation import REVISION, Perturbation

#: Entries of a key that may differ between perturbed and unperturbed clips: the perturbation and
#: what computed it; the name of the encoder, which its hashes identify; and versions and hardware,
#: on which only the last digits depend.
_MAY_DIFFER = (
    "perturbation", "perturbation_seed", "perturbation_revision", "perturbed_by", "encoder",
    "revision", "device", "torch", "transformers", "serpipe", "resampler",
)  # fmt: skip


@dataclass(frozen=True)
class PerturbedCache:
    """The cache of perturbed clips, and the row of each clip in it.

    Attributes
    ----------
    perturbation : Perturbation
        What was done to every clip.
    cache : Cache
        Their embeddings.
    rows : ndarray of int, shape (n_clips,)
        For each clip of the cache beside it, the row of the same clip, perturbed.
    """

    perturbation: Perturbation
    cache: Cache
    rows: NDArray[np.intp]


def perturbed_path(cache: Path, perturbation: Perturbation) -> Path:
    """Return where the embeddings of perturbed clips are, beside the cache of the clips.

    The folder is not searched for the newest cache, which is that of the clips as they are.
    """
    name = str(perturbation).replace(":", "-")
    return cache.with_suffix(".perturbed") / f"{name}.h5"


def same_embedding(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a key that must agree between perturbed and unperturbed clips."""
    return {name: value for name, value in key.items() if name not in _MAY_DIFFER}


def open_perturbed(cache: Cache, perturbation: Perturbation) -> PerturbedCache:
    """Open the cache of perturbed clips beside another cache, and match the clips.

    Raises
    ------
    UserError
        If there is none, or it was made with another encoder or other options, or it lacks a clip.
    """
    if isinstance(cache, JoinedCache):
        raise UserError(
            f"{perturbation}: perturbed copies belong to a single cache; name one with --cache"
        )
    path = perturbed_path(cache.path, perturbation)
    remedy = f"run `serpipe extract` with --augment {perturbation}"
    if not path.exists():
        raise UserError(f"{path}: no such file; {remedy}, which makes it")
    perturbed = open_cache(path)
    check_table(perturbed)
    differs = difference(same_embedding(perturbed.key), same_embedding(cache.key))
    made = perturbed.key.get("perturbation"), perturbed.key.get("perturbation_revision")
    if differs or made != (str(perturbation), REVISION):
        raise UserError(
            f"{path}: does not belong to {cache.path} ({differs or 'another perturbation'}); "
            f"{remedy} again"
        )
    row_of = {clip: row for row, clip in enumerate(_identities(perturbed))}
    clips = _identities(cache)
    missing = [clip for clip in clips if clip not in row_of]
    if missing:
        raise UserError(f"{path}: lacks {missing[0][1]} of {cache.path}; {remedy} again")
    rows = np.array([row_of[clip] for clip in clips], np.intp)
    return PerturbedCache(perturbation, perturbed, rows)


def _identities(cache: Cache) -> list[tuple[str, str, str]]:
    columns = (cache.clips[name].tolist() for name in ("corpus", "name", "sha256"))
    return list(zip(*columns, strict=True))
