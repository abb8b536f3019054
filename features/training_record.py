"""What a model was trained on, kept as hashes in a file of its own beside the model.

=================== ==============================================================================
``corpora``         names of all corpora of which clips were trained on
``unlisted``        those among them of which not every clip is listed below
``clips``           hashes of decoded audio, 16 hexadecimal digits each
``speakers``        hashes of the speakers' names, 16 hexadecimal digits each
=================== ==============================================================================

A hash reveals nothing of the audio, but whoever has a clip can learn whether it was trained on.
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

FILE_NAME = "training_record.json"
FORMAT_VERSION = 1
#: Column of the clip table: how the encoder's training concerns a clip.
COLUMN = "contamination"
#: 64 bits: among a million clips two share a hash with a probability of 3e-8.
_DIGITS = 16
_HASH = re.compile(r"[0-9a-f]{16}")
#: A record comes from anybody: room for about three million clips, and for names of corpora.
_MAX_BYTES = 64 << 20
_MAX_CORPORA, _MAX_NAME = 100_000, 200


@dataclass(frozen=True)
class TrainingRecord:
    """What a model was trained on.

    Attributes
    ----------
    corpora : frozenset of str
        Corpora of which clips were trained on.
    unlisted : frozenset of str
        Those among them of which not every clip is in ``clips``.
    clips : frozenset of str
        From :func:`hash_clip`.
    speakers : frozenset of str
        From :func:`hash_speaker`.
    """

    corpora: frozenset[str] = frozenset()
    unlisted: frozenset[str] = frozenset()
    clips: frozenset[str] = frozenset()
    speakers: frozenset[str] = frozenset()

    def contains_clip(self, audio_sha256: str) -> bool | None:
        """Say whether a recording was trained on.

        Parameters
        ----------
        audio_sha256 : str
            Hash of its decoded samples; empty if it is not known.

        Returns
        -------
        bool or None
            None where that cannot be told: the hash is not known, or clips are not listed.
        """
        if audio_sha256 and hash_clip(audio_sha256) in self.clips:
            return True
        return False if audio_sha256 and self.clips and not self.unlisted else None


def hash_clip(audio_sha256: str) -> str:
    """Return the short hash of a clip, from that of its decoded samples and their rate."""
    return audio_sha256[:_DIGITS]


def hash_speaker(corpus: str, speaker: str) -> str:
    """Hash a speaker's name, so that the same person has the same hash wherever that can be told.

    Parameters
    ----------
    corpus : str
        Its name in the clip table. Speakers of a built-in corpus are hashed with its name: 01 of
        one is not 01 of another. Those of other clips are hashed by their names alone, so that
        they are recognised in another manifest.
    speaker : str
        Compared by :func:`~serpipe.corpora.speakers.canonical_speaker`, without its spelling.

    Returns
    -------
    str
        16 hexadecimal digits.
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
    """Record that a model was trained on some clips.

    Parameters
    ----------
    corpora, speakers, paths : sequence of str
        Of each clip. Speakers of a manifest whose files are named like those of a built-in corpus
        are recorded as speakers of that corpus, too.
    audio_sha256 : sequence of str
        Hashes of the decoded audio; empty where a cache is too old to have them.

    Returns
    -------
    TrainingRecord
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
    """Return what all of them were trained on; None if nothing is known of any."""
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
    """Write a record into the folder of its model."""
    content = {
        "serpipe_training_record": FORMAT_VERSION,
        "corpora": sorted({_as_proper_name(name) for name in record.corpora}),
        "unlisted": sorted({_as_proper_name(name) for name in record.unlisted}),
        "clips": sorted(record.clips),
        "speakers": sorted(record.speakers),
    }
    write_text(folder / FILE_NAME, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> TrainingRecord | None:
    """Read the record of a model, which may come from anybody.

    Parameters
    ----------
    path : Path
        The file ``training_record.json`` of a model.

    Returns
    -------
    TrainingRecord or None
        None if there is no such file.

    Raises
    ------
    UserError
        If it is damaged, too large, or no regular file.
    """
    fix = "get the model again, or delete the file to go by the names of the corpora alone"
    try:
        if not os.path.lexists(path):
            return None
        content = parse_json(read_bytes(path, _MAX_BYTES))
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
            raise ValueError("its corpora do not fit together")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole training record ({error}); expected the file as serpipe wrote "
            f"it; {fix}"
        ) from None
    return record


def read_corpora(told: Any) -> frozenset[str]:
    """Return the names of corpora that a model's configuration lists; none if it lists none."""
    names = told.get("corpora") if isinstance(told, Mapping) else None
    try:
        return _names(names) if names is not None else frozenset()
    except (TypeError, ValueError):
        return frozenset()


def find_contamination(
    record: TrainingRecord | None, table: Mapping[str, NDArray[Any]]
) -> NDArray[np.str_]:
    """Compare clips with what a model was trained on.

    Where a record lists the clips of a corpus, these and their speakers decide, so that speakers
    who were held out are not contaminated. Where it does not, the name of the corpus decides. Clips
    of a manifest whose files are named like those of a built-in corpus count as clips of it, too.

    Parameters
    ----------
    record : TrainingRecord or None
        Of the model.
    table : mapping of str to ndarray, shape (n_clips,)
        The clip table: ``corpus``, ``speaker``, ``path`` and, where it has it, ``audio_sha256``.

    Returns
    -------
    ndarray of str, shape (n_clips,)
        ``"clip"``: the model was trained on this very clip; ``"speaker"``: on other clips of its
        speaker; ``"corpus"``: on its corpus, as far as is known; ``""``: none of these is known.
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
    # A speaker of whom one clip is recognised is recognised, whatever the speaker is called here.
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
    """Return corpus and speaker of a clip of a manifest by the name of its file.

    Parameters
    ----------
    corpus, speaker, path : str
        As the clip table has them.

    Returns
    -------
    corpus, speaker : str
        Of the built-in corpus whose naming scheme the file follows; as given if there is none. If
        ``corpus`` is itself a built-in one, only its own scheme counts.
    """
    for known in [CORPORA[corpus]] if corpus in CORPORA else CORPORA.built_in.values():
        try:
            told = known.read_name(PurePosixPath(path))
        except NameOutsideSchemeError:
            continue
        if not isinstance(told, str):
            return known.corpus or known.name, told["speaker"]
    return corpus, speaker


def _as_proper_name(name: str) -> str:
    """Return a name that can be read back: a hash where a manifest gives another."""
    if _is_proper_name(name):
        return name
    return f"sha256 {hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"


def _is_proper_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable()


def _names(values: Any) -> frozenset[str]:
    if not isinstance(values, list) or len(values) > _MAX_CORPORA:
        raise ValueError(f"expected a list of at most {_MAX_CORPORA} corpora")
    for name in values:
        if not _is_proper_name(name):
            raise ValueError("a corpus without a proper name")
    return frozenset(values)


def _hashes(values: Any) -> frozenset[str]:
    if not isinstance(values, list):
        raise TypeError("expected a list of hashes")
    if not all(isinstance(each, str) and _HASH.fullmatch(each) for each in values):
        raise ValueError(f"a hash that is not {_DIGITS} hexadecimal digits")
    return frozenset(values)
