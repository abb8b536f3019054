"""The mark of scores on clips, speakers or corpora that the model was trained on."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.joined_cache import SEPARATOR
from ..features.known_models import known_training
from ..features.training_record import COLUMN, find_contamination, original_speaker
from .marks import Mark, MarkKind


def contamination_mark(model: str, clips: Mapping[str, NDArray[Any]]) -> Mark | None:
    """Return the mark of scores on the tested clips, if any contamination is known.

    It is such as ``"CONTAMINATED: MODEL was trained on 8 of the 40 clips; ..."``. Where the clip
    table has no column ``contamination``, as in an older cache, the known training data of
    ``model`` (the name of the encoder or model, or of several encoders) are used.
    """
    known = find_contamination(known_training(model.split(SEPARATOR)), clips)
    levels = np.where(clips[COLUMN] == "", known, clips[COLUMN]) if COLUMN in clips else known
    count = Counter(levels.tolist())
    total = f"of the {len(levels)} clips"
    parts = []
    if count["clip"]:
        parts.append(f"on {count['clip']} {total}")
    if count["speaker"]:
        parts.append(f"on other clips of the speakers of {count['speaker']} {total}")
    if count["corpus"]:
        rows = levels == "corpus"
        columns = (clips[name][rows].tolist() for name in ("corpus", "speaker", "path"))
        corpora = sorted({original_speaker(*row)[0] for row in zip(*columns, strict=True)})
        parts.append(f"on {', '.join(corpora)} ({count['corpus']} {total})")
    if not parts:
        return None
    return Mark(
        MarkKind.CONTAMINATED,
        f"{model} was trained {' and '.join(parts)}; these scores say nothing about a new speaker",
    )
