"""From what ``--data`` says to the clips of one or more corpora."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BadClipError, BadClipsError, UserError, counted
from ..mirror import local
from ..progress import Say, say_nothing
from ..provenance import join_words
from ..remote import Place, place
from . import CORPORA, missing
from .clip import Clip
from .corpus import Corpus, NameOutsideSchemeError
from .manifest import read_manifest
from .scan import Scan, audio_files, scan
from .speakers import describe_similar, similar_speakers

#: What ``--data`` says for the sample that ships with the package.
SAMPLE = "sample"


@dataclass(frozen=True)
class Source:
    """A folder and the corpus that it is read as.

    Attributes
    ----------
    folder : Path or Remote
        Where the clips are.
    corpus : Corpus
        How they are named.
    name, title : str
        For files, and for tables.
    """

    folder: Place
    corpus: Corpus
    name: str
    title: str


@dataclass(frozen=True)
class Data:
    """The clips of all sources.

    Attributes
    ----------
    name, title : str
        For files, and for tables.
    clips : tuple of Clip
        Those that can be used.
    bad : tuple of BadClipError
        Those that cannot.
    licence, citation : str
        For provenance and model cards.
    description : str
        How a manifest was read, if there is anything to say.
    """

    name: str
    title: str
    clips: tuple[Clip, ...]
    bad: tuple[BadClipError, ...]
    licence: str
    citation: str
    description: str = ""

    @property
    def provenance(self) -> dict[str, str]:
        """What is stored beside numbers that come from the clips."""
        return {"corpus": self.title, "licence": self.licence, "citation": self.citation}


def find_source(data: str) -> Source:
    """Turn one value of ``--data`` into a folder and a corpus.

    Parameters
    ----------
    data : str
        ``"sample"`` for the built-in sample; a folder, whose corpus is told by the names of its
        clips; or ``"CORPUS=DIR"``, the only way to name a corpus that another package registers.
        A folder may be the address of one elsewhere.

    Returns
    -------
    Source

    Raises
    ------
    UserError
        If there is no such folder, or its names are those of no corpus.
    """
    if data == SAMPLE:
        corpus = CORPORA["ravdess"]
        own = Path(__file__).parent / SAMPLE
        return Source(own, corpus, SAMPLE, f"{corpus.title} (built-in sample)")
    name, equals, rest = data.partition("=")
    if equals and name.lower() in CORPORA:
        corpus, folder = CORPORA[name.lower()], place(rest)
    else:
        folder = place(data)
        if equals and isinstance(folder, Path) and not folder.exists():
            raise UserError(
                f"--data {data}: no corpus {name!r} and no such folder; expected DIR or CORPUS=DIR "
                f"with one of {', '.join(CORPORA)}; check its name"
            )
        corpus = _told_by_names(folder)
    return Source(folder, corpus, corpus.name, corpus.title)


def join(sources: Sequence[Source], scans: Sequence[Scan]) -> Data:
    """Put the clips of several sources together.

    Parameters
    ----------
    sources : sequence of Source
        Where from.
    scans : sequence of Scan
        What was found in each.

    Returns
    -------
    Data

    Raises
    ------
    UserError
        If two sources hold a clip of the same corpus and name, or at the same path.
    """
    first: dict[tuple[str, str], Clip] = {}
    for found in scans:
        for clip in found.clips:
            for what, value in (("name", f"{clip.corpus} {clip.name}"), ("path", clip.path)):
                if (what, value) in first:
                    raise UserError(
                        f"{clip.file}: has the {what} of {first[what, value].file}; expected each "
                        "clip once; give each folder once, or the folder above both"
                    )
                first[what, value] = clip

    def each(field: str) -> str:
        values = dict.fromkeys(getattr(source.corpus, field) for source in sources)
        return "; ".join(values)

    return Data(
        name="+".join(dict.fromkeys(source.name for source in sources)),
        title=", ".join(dict.fromkeys(source.title for source in sources)),
        clips=tuple(clip for found in scans for clip in found.clips),
        bad=tuple(error for found in scans for error in found.bad),
        licence=each("licence"),
        citation=each("citation"),
    )


def listed(manifest: Place, root: Place | None = None) -> Data:
    """Return the clips that a manifest lists.

    Parameters
    ----------
    manifest : Path or Remote
        As :func:`~serpipe.corpora.manifest.read_manifest` reads it.
    root : Path or Remote, optional
        The folder that its paths are relative to; that of the manifest by default.

    Returns
    -------
    Data
    """
    table = local(manifest, file=True)
    read = read_manifest(table, root or manifest.parent)
    unknown = f"as the clips of {table.name}"
    return Data(table.stem, table.stem, read.clips, (), unknown, unknown, read.description)


def find_data(data: Sequence[str]) -> tuple[tuple[Source, ...], tuple[Scan, ...]]:
    """Find and scan the folders that ``--data`` names.

    Parameters
    ----------
    data : sequence of str
        As :func:`find_source` reads each.

    Returns
    -------
    sources : tuple of Source
    scans : tuple of Scan
        One for each source.
    """
    sources = tuple(find_source(each) for each in data)
    return sources, tuple(scan(source.folder, source.corpus) for source in sources)


def gather(
    data: Sequence[str],
    manifest: str | Place | None = None,
    *,
    skip_bad: bool = False,
    say: Say = say_nothing,
) -> Data:
    """Find the clips of ``--data`` and ``--manifest``, and say what was found.

    Parameters
    ----------
    data : sequence of str
        As :func:`find_source` reads each; the built-in sample if empty. With a manifest at most
        one: the folder that its paths are relative to.
    manifest : str, Path or Remote, optional
        A table of clips, as :func:`listed` reads it.
    skip_bad : bool
        Leave clips out whose names are wrong.
    say : callable
        Takes the lines.

    Returns
    -------
    Data

    Raises
    ------
    BadClipsError
        If names are wrong, unless ``skip_bad``; if all are.
    UserError
        If there is no such folder, or its names are those of no corpus.
    """
    if manifest:
        if len(data) > 1:
            raise UserError(
                f"--data: {len(data)} folders with --manifest; expected one, that its paths are "
                "relative to; give the folder above all clips"
            )
        table = place(manifest)
        found = listed(table, place(data[0]) if data else None)
        speakers = {clip.speaker for clip in found.clips}
        say(f"clips    {len(found.clips)} of {counted(len(speakers), 'speaker')} in {table}")
        if found.description:
            say(f"         {found.description}")
        similar = similar_speakers(speakers)
        if similar:
            say(
                f"note     speaker ids differ only in spelling: {describe_similar(similar)}; "
                "correct the table, or decide with `serpipe fit --similar-speakers`"
            )
        return found
    sources, scans = find_data(data or [SAMPLE])
    for source, scanned in zip(sources, scans, strict=True):
        say(f"corpus   {source.title}: {counted(len(scanned.clips), 'clip')} in {source.folder}")
        for what, count in scanned.left_out.items():
            say(f"         {count} x {what} left out: not a clip of {source.title}")
        short = {} if source.name == SAMPLE else missing(scanned.clips, source.corpus)
        if short:
            told = ", ".join(f"{emotion} {n} of {of}" for emotion, (n, of) in short.items())
            say(f"         not the whole release: {told}")
    found = join(sources, scans)
    if found.bad and (not skip_bad or not found.clips):
        raise BadClipsError(
            found.bad, f"{counted(len(found.clips), 'other')} can, to judge by names"
        )
    return found


def _told_by_names(folder: Place) -> Corpus:
    """Return the corpus whose scheme most names below a folder follow."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"{folder}: {what} there; expected the folder of a corpus; "
            "give it with --data DIR, or take the built-in sample: --data sample"
        )
    built_in = CORPORA.built_in.values()
    suffixes = tuple({suffix for corpus in built_in for suffix in corpus.suffixes})
    files = list(audio_files(folder, suffixes))
    if not files:
        raise UserError(
            f"{folder}: no audio files ({'/'.join(sorted(suffixes))}) at any depth; expected the "
            "clips of a corpus; check --data"
        )
    own = folder.resolve().name
    # A part of a corpus, such as its songs, is taken for the folder only where nothing else is.
    whole = [corpus for corpus in built_in if not corpus.corpus]
    parts = [corpus for corpus in built_in if corpus.corpus]
    for candidates in (whole, parts):
        named = {corpus.name: _named_as(corpus, own, files) for corpus in candidates}
        _refuse_several(folder, named)
        most = max(map(len, named.values()))
        if most:
            return CORPORA[next(name for name, found in named.items() if len(found) == most)]
    schemes = "; ".join(corpus.scheme for corpus in whole)
    raise UserError(
        f"{folder}: {counted(len(files), 'audio file')}, the first {files[0]}, none named as in a "
        "corpus "
        f"that serpipe reads; expected {schemes}; name the corpus with --data CORPUS=DIR to see "
        "what is wrong with each name, or describe the clips in a table: --manifest clips.csv"
    )


def _named_as(corpus: Corpus, own: str, files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Return the files that are named as clips of a corpus; ``own`` is the name of the folder."""
    found = []
    for path in files:
        try:
            if not isinstance(corpus.read_name(own / path), str):
                found.append(path)
        except NameOutsideSchemeError:
            continue
    return found


def _refuse_several(folder: Place, named: Mapping[str, Sequence[PurePosixPath]]) -> None:
    """Refuse a folder that holds several corpora, each in a folder of its own."""
    tops = {
        name: PurePosixPath(posixpath.commonpath([path.parent for path in found]))
        for name, found in named.items()
        if found
    }
    # A few names that another scheme allows as well lie within the folder of their corpus.
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
            f"{folder}: holds several corpora: {held}; expected the folder of one corpus for each "
            f"--data; use {join_words(options)}"
        )
