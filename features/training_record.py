"""What a model was trained on, kept as hashes in a file of its own beside the model.

=================== ==============================================================================
``corpora``         names of all corpora with clips in the training data
``unlisted``        the corpora of which not every clip is listed below
``clips``           hashes of decoded audio, 16 hexadecimal digits each
``speakers``        hashes of the speakers' names, 16 hexadecimal digits each
=================== ==============================================================================

A hash reveals nothing about the audio, but anybody with a clip can check whether it was included.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import CORPORA
from ..corpora.corpus import NameOutsideSchemeError
from ..corpora.speakers import canonical_speaker
from ..errors import UserError
from ..files import read_bytes, write_text
from ..integrity import parse_json
from .recordings import Table

FILE_NAME = "training_record.json"
FORMAT_VERSION = 1
#: Column of the clip table: how a clip relates to the training data of the encoder.
COLUMN = "contamination"
#: 64 bits: among a million clips two share a hash with a probability of 3e-8.
_DIGITS = 16
_HASH = re.compile(r"[0-9a-f]{16}")
#: A record can come from anybody: room for about three million clips, and for names of corpora.
MAX_BYTES = 64 << 20
_MAX_CORPORA, _MAX_NAME = 100_000, 200


@dataclass(frozen=True)
class TrainingRecord:
    """What a model was trained on."""

    #: Corpora with clips in the training data.
    corpora: frozenset[str] = frozenset()
    #: The corpora of which not every clip is in ``clips``.
    unlisted: frozenset[str] = frozenset()
    #: From :func:`hash_clip`.
    clips: frozenset[str] = frozenset()
    #: From :func:`hash_speaker`.
    speakers: frozenset[str] = frozenset()

    def contains_clip(self, audio_sha256: str) -> bool | None:
        """Whether a recording, by the hash of its samples, was in the training data.

        None if that is unknown: the hash is empty, or clips are not listed.
        """
        if audio_sha256 and hash_clip(audio_sha256) in self.clips:
            return True
        return False if audio_sha256 and self.clips and not self.unlisted else None


def hash_clip(audio_sha256: str) -> str:
    """Return the short hash of a clip, from that of its decoded samples and their rate."""
    return audio_sha256[:_DIGITS]


def hash_speaker(corpus: str, speaker: str) -> str:
    """Return the hash of a speaker's name, 16 hexadecimal digits.

    Speakers of a built-in corpus are hashed with its name: 01 of one is not 01 of another. Other
    speakers are hashed by name alone, so that they are recognised in another manifest. The name is
    reduced by :func:`~serpipe.corpora.speakers.canonical_speaker`: spelling does not matter.
    """
    plain = canonical_speaker(speaker)
    name = f"{corpus}:{plain}" if corpus in CORPORA else plain
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]


def record_clips(
    corpora: Sequence[str],
    speakers: Sequence[str],
    paths: Sequence[str],
    audio_sha256: Sequence[str],
) -> TrainingRecord:
    """Return the record of a model that was trained on some clips.

    Each argument has a value for each clip; the hashes of decoded audio are empty if the cache is
    too old to have them. Speakers of a manifest with file names of a built-in corpus are also
    recorded as speakers of that corpus.
    """
    people = set(zip(corpora, speakers, strict=True))
    people |= {original_speaker(*row) for row in zip(corpora, speakers, paths, strict=True)}
    return TrainingRecord(
        corpora=frozenset(corpora),
        unlisted=frozenset(
            corpus for corpus, audio in zip(corpora, audio_sha256, strict=True) if not audio
        ),
        clips=frozenset(hash_clip(audio) for audio in audio_sha256 if audio),
        speakers=frozenset(hash_speaker(corpus, speaker) for corpus, speaker in people),
    )


def unite(records: Iterable[TrainingRecord | None]) -> TrainingRecord | None:
    """Return the union of some records; None if all are None."""
    known = [record for record in records if record]
    if not known:
        return None
    return TrainingRecord(
        *(
            frozenset[str]().union(*(getattr(record, name) for record in known))
            for name in ("corpora", "unlisted", "clips", "speakers")
        )
    )


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record of a model into its folder."""
    content = {
        "serpipe_training_record": FORMAT_VERSION,
        "corpora": sorted({_as_proper_name(name) for name in record.corpora}),
        "unlisted": sorted({_as_proper_name(name) for name in record.unlisted}),
        "clips": sorted(record.clips),
        "speakers": sorted(record.speakers),
    }
    write_text(folder / FILE_NAME, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> TrainingRecord | None:
    """Return the record in a file ``training_record.json``; None if there is no such file.

    Raise UserError if it is damaged, too large, or no regular file.
    """
    fix = "get the model again, or delete the file to use the names of the corpora alone"
    try:
        if not os.path.lexists(path):
            return None
        content = parse_json(read_bytes(path, MAX_BYTES))
        version = content["serpipe_training_record"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: format {str(version)[:40]}; expected {FORMAT_VERSION}; use the version "
                "of serpipe that made it"
            )
        record = TrainingRecord(
            corpora=_names(content["corpora"]),
            unlisted=_names(content["unlisted"]),
            clips=_hashes(content["clips"]),
            speakers=_hashes(content["speakers"]),
        )
        if not record.unlisted <= record.corpora or (record.clips and not record.corpora):
            raise ValueError("its corpora are inconsistent")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a valid training record ({error}); {fix}") from None
    return record


def read_corpora(settings: Any) -> frozenset[str]:
    """Return the names of corpora in the settings of serpipe in a model's configuration."""
    names = settings.get("corpora") if isinstance(settings, Mapping) else None
    try:
        return _names(names) if names is not None else frozenset()
    except (TypeError, ValueError):
        return frozenset()


def find_contamination(record: TrainingRecord | None, table: Table) -> NDArray[np.str_]:
    """Compare clips with the training data of a model; return a level for each, shape (n_clips,).

    A level is ``"clip"``: the model was trained on this clip; ``"speaker"``: on other clips of its
    speaker; ``"corpus"``: on its corpus, as far as is known; ``""``: none of these.

    If a record lists the clips of a corpus, these and their speakers decide, so that held-out
    speakers are not contaminated. Otherwise the name of the corpus decides. Clips of a manifest
    with file names of a built-in corpus also count as clips of that corpus.
    """
    corpora = table["corpus"].tolist()
    if record is None:
        return np.array([""] * len(corpora), dtype=str)
    people = list(zip(corpora, table["speaker"].tolist(), strict=True))
    originals = [
        original_speaker(corpus, speaker, path)
        for (corpus, speaker), path in zip(people, table["path"].tolist(), strict=True)
    ]
    audio = table.get("audio_sha256", np.array([""] * len(corpora))).tolist()
    is_clip = [bool(record.contains_clip(each)) for each in audio]
    # One recognised clip identifies its speaker, whatever the name here.
    known = {person for person, is_known in zip(people, is_clip, strict=True) if is_known}
    known |= {each for each in {*people, *originals} if hash_speaker(*each) in record.speakers}

    def level(clip: bool, person: tuple[str, str], original: tuple[str, str]) -> str:
        if clip:
            return "clip"
        if person in known or original in known:
            return "speaker"
        return "corpus" if {person[0], original[0]} & record.unlisted else ""

    rows = zip(is_clip, people, originals, strict=True)
    return np.array([level(*row) for row in rows], dtype=str)


def original_speaker(corpus: str, speaker: str, path: str) -> tuple[str, str]:
    """Return the corpus and speaker of a clip according to the name of its file.

    They are those of the built-in corpus whose naming scheme the file follows, or as given if there
    is none, or its names do not give the speaker. If ``corpus`` is itself built in, only its own
    scheme counts.
    """
    for known in [CORPORA[corpus]] if corpus in CORPORA else CORPORA.built_in.values():
        try:
            fields = known.read_name(PurePosixPath(path))
        except NameOutsideSchemeError:
            continue
        if not isinstance(fields, str) and "speaker" in fields:
            return known.corpus or known.name, fields["speaker"]
    return corpus, speaker


def _as_proper_name(name: str) -> str:
    """Return a name that :func:`read_record` accepts: a hash if it does not accept the name."""
    if _is_proper_name(name):
        return name
    return f"sha256 {hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"


def _is_proper_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable()


def _names(values: Any) -> frozenset[str]:
    if not isinstance(values, list) or len(values) > _MAX_CORPORA:
        raise ValueError(f"not a list of at most {_MAX_CORPORA} corpora")
    for name in values:
        if not _is_proper_name(name):
            raise ValueError("a corpus without a valid name")
    return frozenset(values)


def _hashes(values: Any) -> frozenset[str]:
    if not isinstance(values, list):
        raise TypeError("not a list of hashes")
    if not all(isinstance(each, str) and _HASH.fullmatch(each) for each in values):
        raise ValueError(f"a hash that is not {_DIGITS} hexadecimal digits")
    return frozenset(values)
