"""Find the clips of a corpus below a folder, by their names alone."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BadClipError, UserError
from ..remote import Place, Remote, below
from .clip import CLIP_COLUMNS, Clip
from .corpus import Corpus, NameOutsideSchemeError
from .csv_table import nfc


@dataclass(frozen=True)
class Scan:
    """What was found below a folder.

    Attributes
    ----------
    clips : tuple of Clip
        The usable clips, sorted by name.
    bad : tuple of BadClipError
        The files that look like clips and cannot be used, sorted by path.
    left_out : mapping of str to int
        Well-named files that are not clips of this corpus: what they are, and how many.
    """

    clips: tuple[Clip, ...]
    bad: tuple[BadClipError, ...]
    left_out: dict[str, int]


def scan(folder: Place, corpus: Corpus) -> Scan:
    """Find the clips of ``corpus`` below ``folder``, at any depth.

    Parameters
    ----------
    folder : Path or Remote
        Where to look. Links to folders are followed, each folder once; hidden files are not read.
    corpus : Corpus
        Whose naming scheme to read by.

    Returns
    -------
    Scan
        Of clips that stand twice (same name), the first by path is kept and the rest are bad.

    Raises
    ------
    UserError
        If ``folder`` is no folder or has no audio files at all.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"{folder}: {what} there; expected the folder that holds {corpus.title}; "
            "give it with --data DIR, or take the built-in sample: --data sample"
        )
    labels = corpus.read_labels(folder)
    own = PurePosixPath(folder.resolve().name)
    clips: dict[str, Clip] = {}
    bad: list[BadClipError] = []
    left_out: Counter[str] = Counter()
    for path in sorted(audio_files(folder, corpus.suffixes)):
        if not _is_text(str(folder / path)):
            bad.append(
                BadClipError(
                    str(folder / path).encode(errors="backslashreplace").decode(),
                    "has a path that is not UTF-8",
                    "names that every machine can read",
                    "rename the file or its folder",
                )
            )
            continue
        try:
            # With the name of the folder itself: it may be that of a speaker.
            told = corpus.read_name(PurePosixPath(nfc(str(own / path))))
        except NameOutsideSchemeError as error:
            bad.append(
                BadClipError(
                    str(folder / path),
                    f"named outside the scheme ({error})",
                    corpus.scheme,
                    "rename or remove it",
                )
            )
            continue
        if isinstance(told, str):
            left_out[told] += 1
            continue
        if labels and told["name"] not in labels:
            bad.append(
                BadClipError(
                    str(folder / path),
                    "has no label in the label files of the release",
                    "one for every clip",
                    "get the label files again or remove the clip",
                )
            )
            continue
        clip = _clip(folder, path, corpus, {**told, **labels.get(told["name"], {})})
        first = clips.setdefault(clip.name, clip)
        if first is not clip:
            bad.append(
                BadClipError(
                    str(clip.file),
                    f"stands twice, first as {first.file}",
                    "each clip once",
                    "remove one copy, or give --data the folder of one copy",
                )
            )
    if not clips and not bad:
        aside = "".join(f"; {count} x {what} left out" for what, count in sorted(left_out.items()))
        raise UserError(
            f"{folder}: no clips ({'/'.join(corpus.suffixes)}) at any depth{aside}; "
            f"expected {corpus.scheme}; check --data"
        )
    ordered = tuple(clips[name] for name in sorted(clips))
    return Scan(ordered, tuple(bad), dict(sorted(left_out.items())))


def missing(clips: Sequence[Clip], corpus: Corpus) -> dict[str, tuple[int, int]]:
    """Compare the clips found with the release.

    Parameters
    ----------
    clips : sequence of Clip
        What was found.
    corpus : Corpus
        What the release holds.

    Returns
    -------
    dict of str to (int, int)
        Emotion to (found, expected), for the emotions of which clips are missing.
    """
    found = Counter(clip.emotion for clip in clips)
    return {
        emotion: (found[emotion], expected)
        for emotion, expected in corpus.expected.items()
        if found[emotion] < expected
    }


def _clip(
    folder: Place, path: PurePosixPath, corpus: Corpus, told: Mapping[str, str | float]
) -> Clip:
    known = {name: str(value) for name, value in told.items() if name in CLIP_COLUMNS}
    name = corpus.corpus or corpus.name
    return Clip(
        file=folder / path,
        path=str(path),
        corpus=name,
        speaker_id=f"{name}:{known['speaker']}",
        shared_emotion=corpus.shared[known["emotion"]],
        language=corpus.language,
        more={name: value for name, value in told.items() if name not in CLIP_COLUMNS},
        **known,
    )


def audio_files(folder: Place, suffixes: tuple[str, ...]) -> Iterator[PurePosixPath]:
    """Yield audio files below a folder, relative to it.

    Parameters
    ----------
    folder : Path or Remote
        Where to look. Links to folders are followed, each folder once; hidden files are not read.
    suffixes : tuple of str
        Of the files to look for, lower case.

    Yields
    ------
    PurePosixPath
    """
    if isinstance(folder, Remote):
        yield from map(PurePosixPath, below(folder, suffixes))
        return

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be listed ({error.strerror}); expected a readable folder; "
            "check its permissions and the disk"
        )

    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(root)
        if real in seen:  # a link back to a folder above would be walked without end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield PurePosixPath((Path(root) / name).relative_to(folder).as_posix())


def _is_text(path: str) -> bool:
    """Whether a path can be written into a file: on POSIX systems it may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
