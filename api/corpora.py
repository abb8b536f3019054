"""Get, check and convert corpora."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .shared import addresses, thread_count, with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.report.report import Report
    from ..corpora.download import Downloaded
    from ..features.convert import Converted


def list_corpora() -> "Report":
    """List the supported corpora, and how to get each.

    Returns
    -------
    Report
        Printed, it is Markdown.

    Raises
    ------
    UserError
        If a corpus of another package cannot be loaded.

    Examples
    --------
    >>> import serpipe
    >>> "ravdess" in str(serpipe.list_corpora())
    True
    """
    from ..artifacts.report.corpus_info import list_corpora as made

    return made()


@with_typed_errors
def describe_corpora(
    folders: str | Location | Sequence[str | Location],
    *,
    jobs: int | None = None,
    track: Track[Any] = no_track,
) -> "Iterator[Report]":
    """Decode every clip of corpora and report what is present, missing or wrong.

    Parameters
    ----------
    folders : str, Path or sequence of them
        Folders of corpora, each as ``DIR`` or ``CORPUS=DIR``.
    jobs : int, optional
        Number of threads; by default all available cores.
    track : callable
        Shows progress.

    Returns
    -------
    iterator of Report
        One for each corpus.

    Raises
    ------
    UserError
        If a folder is missing or is not recognised.

    Examples
    --------
    >>> import serpipe
    >>> (described,) = serpipe.describe_corpora("sample")  # doctest: +SKIP
    """
    from ..corpora.data import find_data

    sources, scans = find_data(addresses(folders))
    return _describe_each(sources, scans, thread_count(jobs), track)


def _describe_each(
    sources: Sequence[Any], scans: Sequence[Any], threads: int, track: Track[Any]
) -> "Iterator[Report]":
    from ..artifacts.report.corpus_info import describe_source
    from ..features.survey import survey

    for source, scan in zip(sources, scans, strict=True):
        yield describe_source(source, scan, survey(scan.clips, workers=threads, track=track))


@with_typed_errors
def write_clip_table(
    folders: str | Location | Sequence[str | Location],
    out: str | Path,
    *,
    jobs: int | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Write a table with a row for each clip: speaker, emotion, text, duration, rate, hash.

    Parameters
    ----------
    folders, jobs, track
        As :func:`describe_corpora` takes them.
    out : str or Path
        CSV file to write.
    say : callable
        Takes lines of text that report clips that cannot be used.

    Returns
    -------
    Path
        The table.

    Raises
    ------
    UserError
        If a folder is missing or is not recognised.
    MachineError
        If the disk is full.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.write_clip_table("sample", "clips.csv")  # doctest: +SKIP
    """
    from ..artifacts.report.corpus_info import write_clip_table as write
    from ..corpora.data import find_data, join
    from ..features.survey import survey

    joined = join(*find_data(addresses(folders)))
    surveyed = survey(joined.clips, workers=thread_count(jobs), track=track)
    path = Path(out)
    write(surveyed, path)
    for error in (*joined.bad, *(each.error for each in surveyed if each.error)):
        say(f"bad      {error}")
    say(f"table    {counted(len(surveyed), 'clip')} in:")
    return path


@with_typed_errors
def write_rater_table(
    folder: str | Location,
    out: str | Path,
    *,
    say: Say = say_nothing,
) -> Path:
    """Write the ratings of single raters, if a corpus has them: a row for each clip and rater.

    Parameters
    ----------
    folder : str or Path
        Folder of the corpus, as ``DIR`` or ``CORPUS=DIR``.
    out : str or Path
        CSV file to write: name (of the clip), rater, emotion and, if the raters gave any, columns
        of numbers such as valence. Of several ratings of a clip by one rater it has the first.
    say : callable
        Takes lines of text: the number of ratings, and how many were omitted.

    Returns
    -------
    Path
        The table.

    Raises
    ------
    UserError
        If the folder is missing or is not recognised, or the corpus has no ratings of single
        raters.
    MachineError
        If the disk is full.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.write_rater_table("msp-podcast=MSP", "raters.csv")  # doctest: +SKIP
    """
    from ..artifacts.report.corpus_info import write_rater_table as write
    from ..corpora import CORPORA
    from ..corpora.data import find_source

    (address,) = addresses(folder)
    source = find_source(address)
    if source.corpus.read_ratings is None:
        rated = [name for name, each in CORPORA.items() if each.read_ratings]
        raise UserError(
            f"{source.folder}: {source.title} has no ratings of single raters that serpipe reads, "
            f"only {', '.join(rated)}; write a table with the columns name, rater and emotion"
        )
    ratings, repeated = write(source.corpus.read_ratings(source.folder), Path(out))
    omitted = f"; {repeated} repeated by the same rater omitted" if repeated else ""
    say(f"raters   {counted(ratings, 'rating')}{omitted} in:")
    return Path(out)


@with_typed_errors
def download_corpus(
    name: str,
    to: str | Path,
    *,
    track: Track[bytes] = no_track,
    say: Say = say_nothing,
) -> "tuple[Downloaded, ...]":
    """Download and unpack a corpus that is freely available; a stopped download resumes.

    Parameters
    ----------
    name : str
        Name of the corpus, as ``serpipe corpora list`` prints it.
    to : str or Path
        Folder to download to.
    track : callable
        Shows progress in bytes, such as :func:`serpipe.corpora.download.track_bytes`.
    say : callable
        Takes lines of text: the licence, how to cite the corpus, checksums.

    Returns
    -------
    tuple of Downloaded
        One for each archive.

    Raises
    ------
    UserError
        If there is no such corpus, or it must be requested from its owners.
    MachineError
        If the network or the disk fails, or a checksum is wrong.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.download_corpus("ravdess", "corpora/ravdess", say=print)  # doctest: +SKIP
    """
    from ..corpora import CORPORA
    from ..corpora.download import download

    if name not in CORPORA:
        raise UserError(f"{name}: no such corpus; expected one of {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    if not corpus.archives:
        raise UserError(
            f"{name}: not freely available ({corpus.licence}); request it yourself: {corpus.access}"
        )
    say(f"corpus   {corpus.title}, {corpus.homepage}")
    say(f"licence  {corpus.licence}; by downloading you agree to it. Please cite:")
    say(f"         {corpus.citation}")
    done = download(corpus.archives, Path(to), track=track)
    for each in done:
        checked = "as published" if each.verified else f"sha256 {each.sha256}, none is published"
        say(f"archive  {each.path}: {each.size} bytes, checksum {checked}")
    return done


@with_typed_errors
def convert(
    inputs: str | Path | Sequence[str | Path],
    to: str | Path,
    *,
    rate: int = 16000,
    file_format: str = "wav",
    channels: str = "mean",
    overwrite: bool = False,
    jobs: int | None = None,
    track: Track[Any] = no_track,
) -> "Converted":
    """Convert recordings of any format, sampling rate and channels to mono 16-bit files.

    Parameters
    ----------
    inputs : str, Path or sequence of them
        Recordings, or folders of them.
    to : str or Path
        Folder to write to; the folder structure of the inputs is kept.
    rate : int
        Sampling rate of the written files, in Hz.
    file_format : {"wav", "flac"}
        Format of the written files.
    channels : {"mean", "left", "right"}
        How several channels are reduced to one.
    overwrite : bool
        Write all files again, even existing ones.
    jobs : int, optional
        Number of threads; by default all available cores.
    track : callable
        Shows progress.

    Returns
    -------
    Converted
        Files that were written, and recordings that could not be converted (``bad``).

    Raises
    ------
    UserError
        If an option is invalid, or a file would replace one that is not a conversion.
    MachineError
        If the disk is full.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.convert("recordings", "converted", rate=16000).bad  # doctest: +SKIP
    ()
    """
    from ..features.convert import convert as run

    several = [inputs] if isinstance(inputs, str | Path) else inputs
    return run(
        [Path(each) for each in several],
        Path(to),
        sampling_rate=rate,
        format=file_format,
        channels=channels,
        workers=thread_count(jobs),
        overwrite=overwrite,
        track=track,
    )
