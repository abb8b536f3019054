"""Find the clips of the corpora that ``--data`` and ``--manifest`` name."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BadClipError, BadClipsError, UserError, counted
from ..mirror import local
from ..progress import Say, say_nothing
from ..provenance import join_words
from ..remote import Location, as_location
from . import CORPORA, missing
from .clip import Clip
from .corpus import Corpus, NameOutsideSchemeError
from .manifest import read_manifest
from .scan import Scan, audio_files, not_a_folder, scan
from .speakers import describe_similar, similar_speakers
from .table_formats import is_dataset

#: Value of ``--data`` for the sample that ships with the package.
SAMPLE = "sample"


@dataclass(frozen=True)
class Source:
    """A folder and its corpus."""

    folder: Location
    corpus: Corpus
    #: For files; the title is for tables.
    name: str
    title: str


@dataclass(frozen=True)
class Data:
    """The clips of all sources."""

    #: For files; the title is for tables.
    name: str
    title: str
    #: The usable clips.
    clips: tuple[Clip, ...]
    #: Why the others are not usable.
    bad: tuple[BadClipError, ...]
    #: For provenance and model cards, as is the citation.
    licence: str
    citation: str
    #: How a manifest was read, if it has peculiarities.
    description: str = ""

    @property
    def provenance(self) -> dict[str, str]:
        """The provenance of numbers that come from the clips."""
        return {"corpus": self.title, "licence": self.licence, "citation": self.citation}


def find_source(data: str) -> Source:
    """Return the folder and the corpus of one value of ``--data``.

    That is ``"sample"`` for the built-in sample; a folder, whose clips identify the corpus by their
    names; or ``"CORPUS=DIR"``, which is necessary for corpora of other packages. A folder may be a
    remote address. Raise UserError if there is no such folder, or its names follow the scheme of no
    corpus.
    """
    if data == SAMPLE:
        corpus = CORPORA["ravdess"]
        own = Path(__file__).parent / SAMPLE
        return Source(own, corpus, SAMPLE, f"{corpus.title} (built-in sample)")
    name, equals, rest = data.partition("=")
    if equals and name.lower() in CORPORA:
        corpus, folder = CORPORA[name.lower()], as_location(rest)
    else:
        folder = as_location(data)
        if equals and isinstance(folder, Path) and not folder.exists():
            raise UserError(
                f"--data {data}: no corpus {name!r} and no such folder; give DIR, or CORPUS=DIR "
                f"with one of {', '.join(CORPORA)}"
            )
        corpus = _corpus_of_names(folder)
    return Source(folder, corpus, corpus.name, corpus.title)


def join(sources: Sequence[Source], scans: Sequence[Scan]) -> Data:
    """Combine the clips of several sources, given with the scan of each.

    Raise UserError if two sources hold a clip of the same corpus and name, or at the same path.
    """
    first: dict[tuple[str, str], Clip] = {}
    for scanned in scans:
        for clip in scanned.clips:
            for what, value in (("name", f"{clip.corpus} {clip.name}"), ("path", clip.path)):
                if (what, value) in first:
                    raise UserError(
                        f"{clip.file}: has the {what} of {first[what, value].file}; give each "
                        "folder once, or the folder above both"
                    )
                first[what, value] = clip

    def each(field: str) -> str:
        values = dict.fromkeys(getattr(source.corpus, field) for source in sources)
        return "; ".join(values)

    return Data(
        name="+".join(dict.fromkeys(source.name for source in sources)),
        title=", ".join(dict.fromkeys(source.title for source in sources)),
        clips=tuple(clip for scanned in scans for clip in scanned.clips),
        bad=tuple(error for scanned in scans for error in scanned.bad),
        licence=each("licence"),
        citation=each("citation"),
    )


def listed(manifest: Location, root: Location | None = None) -> Data:
    """Return the clips of a manifest; its paths are relative to ``root`` or else to its folder."""
    if isinstance(manifest, Path) and is_dataset(manifest):
        read = read_manifest(manifest, root)
    else:
        read = read_manifest(local(manifest, file=True), root or manifest.parent)
    unknown = f"as the clips of {manifest}"
    return Data(read.name, read.name, read.clips, (), unknown, unknown, read.description)


def find_data(data: Sequence[str]) -> tuple[tuple[Source, ...], tuple[Scan, ...]]:
    """Return the sources of the values of ``--data``, and a scan of each."""
    sources = tuple(find_source(each) for each in data)
    return sources, tuple(scan(source.folder, source.corpus) for source in sources)


def gather(
    data: Sequence[str],
    manifest: str | Location | None = None,
    *,
    skip_bad: bool = False,
    say: Say = say_nothing,
) -> Data:
    """Return the clips of ``--data`` and ``--manifest``, and report how many there are.

    Each of ``data`` is as :func:`find_source` takes it; without any, the sample is used. With a
    manifest there may be one: the folder that its paths are relative to. ``skip_bad`` omits clips
    with wrong names.

    Raise BadClipsError if names are wrong, unless ``skip_bad``, or if all are, and UserError as
    :func:`find_source` does.
    """
    if manifest:
        if len(data) > 1:
            raise UserError(
                f"--data: {len(data)} folders with --manifest; give the one that its paths are "
                "relative to"
            )
        table = as_location(manifest)
        listed_data = listed(table, as_location(data[0]) if data else None)
        speakers = {clip.speaker for clip in listed_data.clips}
        say(f"clips    {len(listed_data.clips)} of {counted(len(speakers), 'speaker')} in {table}")
        if listed_data.description:
            say(f"         {listed_data.description}")
        similar = similar_speakers(speakers)
        if similar:
            say(
                f"note     speaker ids differ only in spelling: {describe_similar(similar)}; "
                "correct the table, or decide with `serpipe fit --similar-speakers`"
            )
        return listed_data
    sources, scans = find_data(data or [SAMPLE])
    for source, scanned in zip(sources, scans, strict=True):
        say(f"corpus   {source.title}: {counted(len(scanned.clips), 'clip')} in {source.folder}")
        for what, count in scanned.omitted.items():
            say(f"         {count} x {what} omitted: not a clip of {source.title}")
        short = {} if source.name == SAMPLE else missing(scanned.clips, source.corpus)
        if short:
            counts = ", ".join(f"{emotion} {n} of {of}" for emotion, (n, of) in short.items())
            say(f"         not the whole release: {counts}")
    joined = join(sources, scans)
    if joined.bad and (not skip_bad or not joined.clips):
        others = counted(len(joined.clips), "other")
        raise BadClipsError(joined.bad, f"{others} can, to judge by names")
    return joined


def _corpus_of_names(folder: Location) -> Corpus:
    """Return the corpus whose scheme most names below a folder follow."""
    if not folder.is_dir():
        raise not_a_folder(folder, "a corpus")
    built_in = CORPORA.built_in.values()
    suffixes = tuple({suffix for corpus in built_in for suffix in corpus.suffixes})
    files = list(audio_files(folder, suffixes))
    if not files:
        raise UserError(
            f"{folder}: no audio files ({'/'.join(sorted(suffixes))}) at any depth; check --data"
        )
    own = folder.resolve().name
    # A part of a corpus, such as its songs, is considered only if no whole corpus matches.
    whole = [corpus for corpus in built_in if not corpus.corpus]
    parts = [corpus for corpus in built_in if corpus.corpus]
    for candidates in (whole, parts):
        named = {corpus.name: _named_as(corpus, own, files) for corpus in candidates}
        _refuse_several(folder, named)
        most = max(map(len, named.values()))
        if most:
            return CORPORA[next(name for name, paths in named.items() if len(paths) == most)]
    schemes = "; ".join(corpus.scheme for corpus in whole)
    raise UserError(
        f"{folder}: {counted(len(files), 'audio file')}, the first {files[0]}, "
        f"none named as in a corpus that serpipe reads; expected {schemes}; name the corpus with "
        "--data CORPUS=DIR to see what is wrong with each name, or describe the clips in a table: "
        "--manifest clips.csv"
    )


def _named_as(corpus: Corpus, own: str, files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Return the files that are named as clips of a corpus; ``own`` is the name of the folder."""
    named = []
    for path in files:
        if not path.name.lower().endswith(corpus.suffixes):
            continue
        try:
            if not isinstance(corpus.read_name(own / path), str):
                named.append(path)
        except NameOutsideSchemeError:
            continue
    return named


def _refuse_several(folder: Location, named: Mapping[str, Sequence[PurePosixPath]]) -> None:
    """Refuse a folder with several corpora, each in a folder of its own."""
    tops = {
        name: PurePosixPath(posixpath.commonpath([path.parent for path in paths]))
        for name, paths in named.items()
        if paths
    }
    # A few names that another scheme also allows are within the folder of their corpus.
    apart = [
        name
        for name, top in tops.items()
        if not any(
            top.is_relative_to(other) or other.is_relative_to(top)
            for others_name, other in tops.items()
            if others_name != name
        )
    ]
    if len(apart) > 1:
        held = ", ".join(f"{name} in {folder / tops[name]}" for name in apart)
        options = [part for name in apart for part in ("--data", str(folder / tops[name]))]
        raise UserError(
            f"{folder}: holds several corpora: {held}; give each its own --data: "
            f"{join_words(options)}"
        )
