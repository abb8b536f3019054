"""Find the clips of a corpus below a folder, by their names alone."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import BadClipError, UserError
from ..remote import Location, Remote, below
from .clip import CLIP_COLUMNS, Clip
from .corpus import Corpus, NameOutsideSchemeError
from .csv_table import nfc


@dataclass(frozen=True)
class Scan:
    """The clips of a corpus below a folder."""

    #: The usable clips, sorted by name.
    clips: tuple[Clip, ...]
    #: The files that look like clips and cannot be used, sorted by path.
    bad: tuple[BadClipError, ...]
    #: Number of well-named files that are not clips of this corpus, by what they are.
    omitted: dict[str, int]


def scan(folder: Location, corpus: Corpus) -> Scan:
    """Find the clips of ``corpus`` below ``folder``, at any depth, as :func:`audio_files` does.

    Of clips with the same name, the first by path is kept and the others are bad. Raise UserError
    if ``folder`` is no folder or has no audio files.
    """
    if not folder.is_dir():
        raise not_a_folder(folder, corpus.title)
    labels = corpus.read_labels(folder)
    own = PurePosixPath(folder.resolve().name)
    clips: dict[str, Clip] = {}
    bad: list[BadClipError] = []
    omitted: Counter[str] = Counter()

    def refuse(path: PurePosixPath, problem: str, expected: str, fix: str) -> None:
        # On POSIX systems a path may be any bytes.
        text = str(folder / path).encode(errors="backslashreplace").decode()
        bad.append(BadClipError(text, problem, expected, fix))

    for path in sorted(audio_files(folder, corpus.suffixes)):
        if not _is_text(str(folder / path)):
            refuse(path, "has a path that is not UTF-8", "", "rename the file or its folder")
            continue
        try:
            # With the name of the folder itself: it may be that of a speaker.
            fields = corpus.read_name(PurePosixPath(nfc(str(own / path))))
        except NameOutsideSchemeError as error:
            problem = f"named outside the scheme ({error})"
            refuse(path, problem, corpus.scheme, "rename or remove it")
            continue
        if isinstance(fields, str):
            omitted[fields] += 1
            continue
        needs_labels = bool(labels) or not {"speaker", "emotion"} <= fields.keys()
        if needs_labels and fields["name"] not in labels:
            if corpus.unlabelled:
                omitted[corpus.unlabelled] += 1
                continue
            problem = "has no label in the label files of the release"
            refuse(path, problem, "", "get the label files again or remove the clip")
            continue
        clip = _clip(folder, path, corpus, {**fields, **labels.get(fields["name"], {})})
        first = clips.setdefault(clip.name, clip)
        if first is not clip:
            fix = "remove one copy, or give --data the folder of one copy"
            refuse(path, f"occurs twice, first as {first.file}", "", fix)
    if not clips and not bad:
        skipped = "".join(f"; {count} x {what} omitted" for what, count in sorted(omitted.items()))
        raise UserError(
            f"{folder}: no clips ({'/'.join(corpus.suffixes)}) at any depth{skipped}; "
            f"expected {corpus.scheme}; check --data"
        )
    ordered = tuple(clips[name] for name in sorted(clips))
    return Scan(ordered, tuple(bad), dict(sorted(omitted.items())))


def missing(clips: Sequence[Clip], corpus: Corpus) -> dict[str, tuple[int, int]]:
    """Return, for emotions with missing clips, their number and that in the release."""
    counts = Counter(clip.emotion for clip in clips)
    return {
        emotion: (counts[emotion], expected)
        for emotion, expected in corpus.expected.items()
        if counts[emotion] < expected
    }


def not_a_folder(folder: Location, title: str) -> UserError:
    """Return the error for the folder of a corpus that is a file or does not exist."""
    problem = "is a file" if folder.exists() else "no such folder"
    return UserError(
        f"{folder}: {problem}; give the folder of {title} with --data DIR, or use the built-in "
        "sample: --data sample"
    )


def _clip(
    folder: Location, path: PurePosixPath, corpus: Corpus, fields: Mapping[str, str | float]
) -> Clip:
    known = {"language": corpus.language} | {
        name: str(value) for name, value in fields.items() if name in CLIP_COLUMNS
    }
    name = corpus.corpus or corpus.name
    return Clip(
        file=folder / path,
        path=str(path),
        corpus=name,
        speaker_id=f"{name}:{known['speaker']}",
        shared_emotion=corpus.shared[known["emotion"]],
        more={name: value for name, value in fields.items() if name not in CLIP_COLUMNS},
        **known,
    )


def audio_files(folder: Location, suffixes: tuple[str, ...]) -> Iterator[PurePosixPath]:
    """Yield the files below a folder with some suffixes (in lower case), relative to it.

    Files of this machine are yielded in the order of their paths, without listing more than one
    folder at each depth. Links to folders are followed, each folder once; hidden files are ignored.
    """
    if isinstance(folder, Remote):
        yield from map(PurePosixPath, below(folder, suffixes))
        return

    def listed(path: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return iter(sorted(entries, key=lambda entry: entry.name))
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be listed ({error.strerror}); check its permissions and "
                "the disk"
            ) from None

    seen = {os.path.realpath(folder)}
    waiting = [("", listed(str(folder)))]
    while waiting:
        parent, entries = waiting[-1]
        entry = next(entries, None)
        if entry is None:
            waiting.pop()
        elif entry.name.startswith("."):
            continue
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            # A link to a parent folder would never end.
            if not entry.name.startswith("__MACOSX") and real not in seen:
                seen.add(real)
                waiting.append((f"{parent}{entry.name}/", listed(entry.path)))
        elif entry.name.lower().endswith(suffixes):
            yield PurePosixPath(f"{parent}{entry.name}")


def _is_text(path: str) -> bool:
    """Whether a path is valid UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
