"""The command line: parse arguments, call the stages, say what happened.

Results go to standard output, everything else to standard error. Exit code 2 is for what the user
gave, 1 for failures of the machine, 130 for a stop by the user.
"""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import choices, plugins
from ._version import __version__
from .errors import MachineError, SerpipeError, UserError, counted, disk_error
from .features.names import DEFAULT_ENCODER
from .remote import WAITING_THREADS, Place, Remote, place

# The commands import what they need when they run: `serpipe --help` must not wait for torch.

app = typer.Typer(
    name="serpipe",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  serpipe extract --encoder whisper-tiny.en; serpipe fit; serpipe report",
)


cache_app = typer.Typer(help="Look into a cache of embeddings.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
corpora_app = typer.Typer(help="Get, check and describe corpora.", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora")


class TableFormat(StrEnum):
    """How ``report`` prints."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


class ResultFormat(StrEnum):
    """How the other commands print."""

    TABLE = "table"
    JSON = "json"


class PredictionFormat(StrEnum):
    """How ``predict`` prints."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def _choice(option: str, allowed: Sequence[str], help: str, show_default: str | bool = True) -> Any:
    """Return an option that takes one of a few values, and refuses others where it is parsed."""
    return typer.Option(
        option,
        metavar="|".join(allowed),
        parser=partial(_check_choice, option, allowed),
        help=help,
        show_default=show_default,
    )


def _check_choice(option: str, allowed: Sequence[str], value: str) -> str:
    return choices.check_choice(option, value, allowed)


ResultFormatOption = Annotated[
    ResultFormat, typer.Option("--format", help="How to print the result: json is for scripts.")
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads.", show_default="the cores there are"),
]
CorpusFolders = Annotated[
    list[str],
    typer.Argument(metavar="DIR...", help="Folders of corpora, each a DIR or CORPUS=DIR."),
]
CacheFile = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE.h5",
        help="A cache of embeddings.",
        show_default="the newest in features/cache",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="COMMIT",
        help="Commit, tag or branch of a hub id.",
        show_default="pinned for the default encoder, else main",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without clips that cannot be used; list them.")
]
MergedLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="LABEL=LABEL",
        help="Count a label as another, such as calm=neutral. Can be given several times.",
        show_default=False,
    ),
]
MoreData = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR",
        help="As for extract: a folder, CORPUS=DIR or 'sample'. Can be given several times.",
        show_default="sample",
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="CLIPS.csv",
        help="A table of any labelled clips.",
        show_default=False,
    ),
]
KeptLabels = Annotated[
    str | None,
    typer.Option(metavar="LABEL,...", help="Labels to keep, after --map.", show_default="all"),
]
Task = Annotated[
    str,
    _choice(
        "--task",
        choices.TASKS,
        "How the target is read: auto takes numbers for ratings and words for labels.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Keep the speakers of each value of this column on one side of every fold, such as "
        "those of a session or a dialogue.",
        show_default="session for IEMOCAP, else speaker",
    ),
]
SpeakersPerCorpus = Annotated[
    bool,
    typer.Option(
        "--speakers-per-corpus",
        help="A speaker id that occurs in several corpora of a manifest is a different person in "
        "each; by default it is one person.",
    ),
]
SimilarSpeakers = Annotated[
    str,
    _choice(
        "--similar-speakers",
        choices.SIMILAR_SPEAKERS,
        "Speaker ids that differ only in spelling, such as Actor1 and actor01.",
    ),
]
RunFolder = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where to write the run.",
        show_default="artifacts/runs/NAME",
    ),
]
RunName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to call the run in tables and figures of a report.",
        show_default="its number",
    ),
]
ModelRevision = Annotated[
    str | None,
    typer.Option(
        metavar="COMMIT",
        help="Commit, tag or branch of a hub id: of --encoder, or of the model.",
        show_default="as recorded; else main",
    ),
]
OneDevice = Annotated[
    str, _choice("--device", choices.DEVICES, "Where it runs: auto is a GPU, if any.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="local:N|tcp://HOST:PORT|jobqueue.yaml",
        help="Workers of Dask that do the work; the numbers are the same (serpipe[cluster]).",
        show_default="none",
    ),
]
BundleEncoder = Annotated[
    str | None,
    typer.Option(
        metavar="ID_OR_DIR",
        help="Where the encoder of the bundle is, if that was a local folder.",
        show_default=False,
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"serpipe {__version__}")
        raise typer.Exit


@app.callback()
def serpipe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Speech emotion recognition from frozen speech encoders.

    Three commands, each of which finds what the one before it wrote:

    - extract runs a frozen encoder once over every clip and caches its layers,
    - fit trains heads on them and tests these on speakers whom they never heard,
    - report prints what they scored, with intervals.

    Clips, tables, caches and runs may be elsewhere: s3://BUCKET/NAME in place of a path.
    """


class _CommandWithPlugins(typer.core.TyperCommand):
    """A command whose help also lists what other packages register, without importing these."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        groups = {"head": plugins.HEAD_GROUP, "data": plugins.CORPUS_GROUP}
        for option in self.params:
            names = plugins.registered_names(groups.get(str(option.name), ""))
            if names and isinstance(option, typer.core.TyperOption):
                option.help = f"{option.help} Of other packages: {', '.join(names)}."
        super().format_help(ctx, formatter)


@app.command(cls=_CommandWithPlugins)
def extract(
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a corpus (`serpipe corpora list`), told by the names of its clips, or "
            "CORPUS=DIR; or 'sample': 192 clips that ship with serpipe. Can be given several "
            "times. With --manifest: the folder that its paths are relative to.",
            show_default="sample",
        ),
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            metavar="CLIPS.csv",
            help="A table of any labelled clips: path, speaker, and columns to predict.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_DIR",
            help="Hub id or local folder of a speech encoder "
            "(wav2vec 2.0, XLS-R, HuBERT, WavLM, data2vec-audio, Whisper), or "
            "'whisper-tiny.en': ships with serpipe, needs no network.",
        ),
    ] = DEFAULT_ENCODER,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.h5",
            help="Where to write the cache.",
            show_default="features/cache/CORPUS-ENCODER.h5",
        ),
    ] = None,
    pool: Annotated[
        str, _choice("--pool", choices.POOLINGS, "What to keep of each layer over time.")
    ] = "mean",
    revision: Revision = None,
    devices: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:0,cuda:1|mps",
            help="Where the encoder runs: auto and cuda take all GPUs, a copy on each.",
        ),
    ] = "auto",
    precision: Annotated[
        str,
        _choice(
            "--precision",
            choices.EXTRACTION_PRECISIONS,
            "Of weights and states. Only float32 is exact; auto is bf16 where the machine "
            "computes it natively.",
        ),
    ] = "float32",
    dtype: Annotated[
        str, _choice("--dtype", choices.DTYPES, "Of the stored embeddings.")
    ] = "float32",
    trim: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            min=1.0,
            help="Trim silence at both ends: what is quieter than the loudest part by more than DB "
            "decibels, such as 30.",
            show_default="none",
        ),
    ] = None,
    channels: Annotated[
        str, _choice("--channels", choices.CHANNELS, "How several channels become one.")
    ] = "mean",
    max_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            min=1.0,
            help="Cut longer clips into equal chunks, pooled together by their frames.",
            show_default="none; Whisper refuses clips past 30 s",
        ),
    ] = None,
    compile_blocks: Annotated[
        bool, typer.Option("--compile", help="Compile the encoder's blocks (torch.compile).")
    ] = False,
    batch_seconds: Annotated[
        float,
        typer.Option(
            metavar="S",
            min=0.0,
            help="Seconds of audio per batch on a GPU. On a CPU "
            "each clip is computed alone, one per core.",
        ),
    ] = 600.0,
    jobs: Threads = None,
    skip_bad: SkipBad = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where --out was made otherwise.")
    ] = False,
    drop_removed: Annotated[
        bool,
        typer.Option("--drop-removed", help="Drop clips of the cache that the corpus has no more."),
    ] = False,
    shard_clips: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="With more than N clips, write the cache as shard files of N clips each, "
            "under one index; shards that are there stay.",
        ),
    ] = 250_000,
    cluster: ClusterOption = None,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Run a frozen encoder once over every clip and cache the pooled states of every layer.

    A second run computes only what is missing; a stopped run goes on where it stopped.
    """
    from .api import extract as run
    from .artifacts.run.latest import CACHES
    from .pipeline.target import columns_to_predict
    from .progress import track
    from .provenance import command_line, provenance

    done = run(
        data or [],
        manifest=manifest,
        encoder=encoder,
        revision=revision,
        out=out,
        pooling=pool,
        devices=devices,
        precision=precision,
        dtype=dtype,
        trim=trim,
        channels=channels,
        max_seconds=max_seconds,
        compile_blocks=compile_blocks,
        batch_seconds=batch_seconds,
        jobs=jobs,
        skip_bad=skip_bad,
        overwrite=overwrite,
        drop_removed=drop_removed,
        shard_clips=shard_clips,
        cluster=cluster,
        provenance=provenance(),
        track=track,
        say=_say,
    )
    target = place(out or done.cache.path)
    for error in done.bad:
        _say(f"skipped  {error}")
    for group in done.same_recording:
        _say(f"note     the same recording under {len(group)} names: {', '.join(group)}")
    for path, other in done.unconfirmed[:10]:
        _say(f"warning  {path}: may be a copy of {other}; could not be read again to compare them")
    if done.unconfirmed[10:]:
        _say(f"warning  ... and {len(done.unconfirmed) - 10} more clips that may be copies")
    if done.removed:
        _say(f"dropped  {counted(len(done.removed), 'clip')} that the corpus has no more")
    # `serpipe fit` looks by itself in CACHES, and for emotions.
    needed: list[object] = [] if target.parent == CACHES else ["--cache", target]
    columns = columns_to_predict(done.cache.clips)
    if columns[1:] and not (done.cache.clips["emotion"] != "").any():
        _say(f"note     columns to predict: {', '.join(columns)}")
        needed += ["--target", columns[0]]
    if needed:
        _say(f"next     {command_line('fit', *needed)}")
    for name, count in done.copied.items():
        _say(f"note     {counted(count, 'clip')} copied from {target.parent / name}")
    _say(f"cache    {counted(done.computed, 'clip')} computed, {done.reused} were there, in:")
    if format is ResultFormat.JSON:
        _print_json({
            "cache": str(target), "computed": done.computed, "reused": done.reused,
            "copied": dict(done.copied), "removed": list(done.removed),
            "same_bytes": [list(group) for group in done.same_bytes],
            "same_recording": [list(group) for group in done.same_recording],
            "unconfirmed": [list(pair) for pair in done.unconfirmed],
            "skipped": [str(error) for error in done.bad],
        })  # fmt: skip
    else:
        typer.echo(target)


@cache_app.command("info")
def cache_info(
    file: CacheFile = None,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Print what is inside."""
    from .artifacts.report.cache_info import describe
    from .artifacts.run.latest import latest_cache
    from .features.cache import open_cache
    from .mirror import local

    told = dict(describe(open_cache(local(file or latest_cache(), _say, file=True))))
    if format is ResultFormat.JSON:
        _print_json(told)
        return
    for name, value in told.items():
        typer.echo(f"{name:<16} {value}")


@cache_app.command("verify")
def cache_verify(file: CacheFile = None, format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Check every number against its checksum; exit code 2 if the file is damaged."""
    from .artifacts.run.latest import latest_cache
    from .features.cache import verify_cache
    from .mirror import local

    path = place(file or latest_cache())
    wrong = verify_cache(local(path, _say, file=True))
    if format is ResultFormat.JSON:
        _print_json({"file": str(path), "wrong": list(wrong)})
    if wrong:
        raise UserError(
            f"{path}: {'; '.join(wrong)}; make it again with `serpipe extract --overwrite`"
        )
    if format is ResultFormat.TABLE:
        typer.echo(f"{path}: whole, all checksums right")


@corpora_app.command("list")
def corpora_list(
    format: Annotated[TableFormat, typer.Option(help="How to print.")] = TableFormat.TABLE,
) -> None:
    """Print the corpora that are read, and how to get each."""
    from .artifacts.report.corpus_info import list_corpora

    _print_as(format, list_corpora())


@corpora_app.command("info")
def corpora_info(
    folders: CorpusFolders,
    format: Annotated[TableFormat, typer.Option(help="How to print.")] = TableFormat.TABLE,
    jobs: Threads = None,
) -> None:
    """Open every clip and tell what is there, what is missing and what is wrong."""
    from .artifacts.report.corpus_info import describe_source
    from .corpora.data import find_data
    from .features.survey import survey
    from .progress import track
    from .provenance import cores

    for source, scanned in zip(*find_data(folders), strict=True):
        opened = survey(scanned.clips, workers=jobs or cores(), track=track)
        _print_as(format, describe_source(source, scanned, opened))


@corpora_app.command("table")
def corpora_table_command(
    folders: CorpusFolders,
    out: Annotated[Path, typer.Option(metavar="CLIPS.csv", help="Where to write the table.")],
    jobs: Threads = None,
) -> None:
    """Write a row for each clip: speaker, emotion, text, duration, rate, hash."""
    from .artifacts.report.corpus_info import write_clip_table
    from .corpora.data import find_data, join
    from .features.survey import survey
    from .progress import track
    from .provenance import cores

    found = join(*find_data(folders))
    opened = survey(found.clips, workers=jobs or cores(), track=track)
    write_clip_table(opened, out)
    for error in (*found.bad, *(each.error for each in opened if each.error)):
        _say(f"bad      {error}")
    _say(f"table    {counted(len(opened), 'clip')} in:")
    typer.echo(out)


@corpora_app.command("download")
def corpora_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `serpipe corpora list` says.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to.")],
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Download and unpack a corpus that anybody may; a stopped download goes on."""
    from .corpora import CORPORA
    from .corpora.download import download, track_bytes
    from .provenance import command_line

    if name not in CORPORA:
        raise UserError(f"{name}: no such corpus; expected one of {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    if not corpus.archives:
        raise UserError(
            f"{name}: cannot be downloaded freely ({corpus.licence}); request it yourself: "
            f"{corpus.access}"
        )
    _say(f"corpus   {corpus.title}, {corpus.homepage}")
    _say(f"licence  {corpus.licence}; by downloading you agree to it. Please cite:")
    _say(f"         {corpus.citation}")
    done = download(corpus.archives, to, track=track_bytes)
    for each in done:
        checked = "as published" if each.verified else f"sha256 {each.sha256}, none is published"
        _say(f"archive  {each.path}: {each.size} bytes, checksum {checked}")
    info, extraction = command_line("corpora", "info", to), command_line("extract", "--data", to)
    _say(f"next     {info}; {extraction}")
    if format is ResultFormat.JSON:
        _print_json({
            "folder": str(to), "archives": [
                {"path": str(each.path), "size": each.size, "sha256": each.sha256,
                 "verified": each.verified, "fetched": each.fetched, "unpacked": each.unpacked}
                for each in done
            ],
        })  # fmt: skip
    else:
        typer.echo(to)


@app.command()
def convert(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Recordings, or folders of them.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to; the tree is kept.")],
    rate: Annotated[
        int, typer.Option(metavar="HZ", help="Sampling rate of what is written.")
    ] = 16000,
    file_format: Annotated[
        str, _choice("--to-format", choices.AUDIO_FORMATS, "Of what is written.")
    ] = "wav",
    channels: Annotated[
        str, _choice("--channels", choices.CHANNELS, "How several channels become one.")
    ] = "mean",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write every file anew, whatever is there.")
    ] = False,
    jobs: Threads = None,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Convert recordings of any format, rate and channels to mono 16-bit files of one rate."""
    from .features.convert import convert as run
    from .progress import track
    from .provenance import cores

    done = run(
        inputs,
        to,
        sampling_rate=rate,
        format=file_format,
        channels=channels,
        workers=jobs or cores(),
        overwrite=overwrite,
        track=track,
    )
    for path in done.clipped:
        _say(f"note     {path}: samples beyond full scale were set to it")
    for error in done.bad:
        _say(f"bad      {error}")
    _say(f"files    {len(done.written)} written, {len(done.skipped)} were there, in:")
    if format is ResultFormat.JSON:
        _print_json({
            "folder": str(to),
            **{name: list(map(str, getattr(done, name)))
               for name in ("written", "skipped", "clipped", "bad")},
        })  # fmt: skip
    else:
        typer.echo(to)
    if done.bad:
        raise UserError(
            f"{counted(len(done.bad), 'file')} could not be converted, see above; mend them"
        )


@app.command(cls=_CommandWithPlugins)
def fit(
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="For labels lr (logistic regression), svm (RBF kernel), svm-linear, lgbm "
            "(LightGBM), sgd (lr by gradient descent, for more embeddings than memory holds); "
            "for ratings ridge, svr (RBF kernel), lgbm-regressor. Several joined by commas, or "
            "all of these but sgd. best, alone or among others, also chooses the head inside the "
            "folds.",
            show_default="lr,svm; for ratings ridge",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.h5",
            help="Cache of embeddings.",
            show_default="the newest in features/cache",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="loso: leave one speaker out; kfold:N: N folds grouped by speaker; standard: the "
            "same folds for everybody, for each corpus; emobox: those that EmoBox published; "
            "file:FOLDS.csv: a table with the columns fold and speaker, or fold and path; "
            "holdout:70/10/20: speakers drawn once to train on, choose by and test, in per cent; "
            "random:N, random:70/10/20: share speakers on purpose, to show by how much that "
            "inflates scores.",
        ),
    ] = "loso",
    train_on: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS,...",
            help="Corpora of the cache to train on, to test on those of --test-on.",
            show_default="all",
        ),
    ] = None,
    test_on: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS,...",
            help="Corpora of the cache to test on: over the labels that both have.",
            show_default="those of --train-on, by --split",
        ),
    ] = None,
    cross_corpus: Annotated[
        bool,
        typer.Option(
            "--cross-corpus",
            help="A run for every pair of corpora, over the labels that all have; within a corpus "
            "by --split.",
        ),
    ] = False,
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS",
            help="The layers to choose from inside each fold (all, 3, 6-9, 3,6), or several as "
            "one: mean, weighted (a sum by weights learnt inside each fold), or side by side "
            "(concat:3,6,9).",
        ),
    ] = "all",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD.NAME=VALUE,...",
            help="Values to try for a hyper-parameter, such as lr.C=0.01,0.1,1, or C=... of every "
            "head that has it; one value fixes it. Can be given several times.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="What to predict: emotion, sex, intensity, ..., or a column of numbers, such as "
            "valence: these are ratings, and regressed.",
            show_default="emotion, or the only other column",
        ),
    ] = "",
    ratings: Annotated[
        str | None,
        typer.Option(
            metavar="RATINGS.csv",
            help="Ratings of the target from a file of their own: name (of the clip), the column "
            "that --target names, and rater if there are several.",
            show_default=False,
        ),
    ] = None,
    task: Task = "auto",
    merge: MergedLabels = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL,...",
            help="Labels to keep, after --map, such as angry,happy,neutral,sad.",
            show_default="all",
        ),
    ] = None,
    group: Group = None,
    speakers_per_corpus: SpeakersPerCorpus = False,
    similar_speakers: SimilarSpeakers = "refuse",
    normalise: Annotated[
        str,
        _choice(
            "--normalise",
            choices.NORMALISATIONS,
            "speaker standardises each speaker's clips by themselves. Transductive: it "
            "presumes many clips of the new speaker, and is marked as such.",
        ),
    ] = "none",
    permute_labels: Annotated[
        bool,
        typer.Option(
            "--permute-labels", help="Shuffle labels within speakers: scores must fall to chance."
        ),
    ] = False,
    pool: Annotated[
        str | None,
        _choice(
            "--pool",
            choices.POOLINGS,
            "Which of the cached poolings to use.",
            show_default="all",
        ),
    ] = None,
    out: RunFolder = None,
    name: RunName = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**31 - 1, help="Of folds, heads and shuffles."),
    ] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Processes; the results do not depend on it.",
            show_default="the cores there are",
        ),
    ] = None,
    stream_past: Annotated[
        float,
        typer.Option(
            metavar="GIB",
            min=0,
            help="Memory that the embeddings of a layer may take. Past it heads read them a block "
            "at a time: sgd in place of lr, lgbm, lgbm-regressor; others are refused.",
        ),
    ] = 4.0,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Fit with N seeds, from --seed upwards, and show the spread of the scores: for "
            "splits that are drawn (kfold, holdout, random).",
        ),
    ] = 1,
    cluster: ClusterOption = None,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Train heads and test them on speakers whom they never heard.

    Layer and hyper-parameters are chosen inside the training speakers of each fold (nested
    cross-validation); the scaler, too, sees training clips alone. Saves all out-of-fold
    predictions, the search, and a bundle: the head fitted on all clips. A stopped run goes on
    where it stopped.
    """
    from dataclasses import asdict

    from . import api
    from .artifacts.report.checks import run_checks
    from .artifacts.report.comparison import corpus_matrices
    from .artifacts.report.result_tables import nested_table
    from .artifacts.run.run_set import write_run_set
    from .pipeline.protocol import Protocol
    from .progress import track
    from .provenance import command_line, provenance

    protocol = Protocol(
        split=split,
        layers=layers,
        target=target,
        merge=_pairs("--map", merge or []),
        keep=_names(keep),
        normalise=normalise,
        permute_labels=permute_labels,
        pooling=pool,
        seed=seed,
        train_on=_names(train_on),
        test_on=_names(test_on),
        task=task,
        group=group,
        speakers_per_corpus=speakers_per_corpus,
        similar_speakers=similar_speakers,
    )
    found: tuple[Any, ...]
    asked: dict[str, Any] = {
        "head": head, "grid": grid or [], "ratings": ratings, "jobs": jobs, "cluster": cluster,
        "stream_past": stream_past, "provenance": provenance(), "track": track, "say": _say,
    }  # fmt: skip
    several = cross_corpus or repeats > 1
    if several and out:
        option = "--cross-corpus" if cross_corpus else "--repeats"
        raise UserError(f"--out {out}: {option} makes several runs; omit one of the two")
    if several and name is not None:
        raise UserError(
            f"--name {name}: is for one run, and several are made; omit it, and name each in the "
            "report: serpipe report NAME=RUN NAME=RUN"
        )
    if cross_corpus and repeats > 1:
        raise UserError("--repeats and --cross-corpus do not go together; omit one of the two")
    if cross_corpus:
        found = api.fit_cross_corpus(cache, protocol=protocol, **asked)
    elif repeats > 1:
        found = api.fit_repeated(cache, repeats=repeats, protocol=protocol, **asked)
    else:
        found = (api.fit(cache, out=out, name=name, **vars(protocol), **asked),)
    places = [place(out or results.run) for results in found]
    matrices = corpus_matrices(found) if cross_corpus else ()
    for table in matrices:
        if format is ResultFormat.TABLE:
            print_table(table)
    if several:
        runs = [results.run for results in found]
        made = write_run_set(runs, "cross-corpus" if cross_corpus else "repeats")
        _say(f"next     {command_line('report', made)}")
    elif out:  # where `serpipe report` does not look by itself
        _say(f"next     {command_line('report', *places)}")
    _say("run      predictions and bundles in:")
    if format is ResultFormat.JSON:
        told = [
            {
                "run": str(where),
                "nested": list(nested_table(results).json_records),
                "checks": [asdict(check) for check in run_checks(results)],
            }
            for where, results in zip(places, found, strict=True)
        ]
        cells = {table.name: list(table.json_records) for table in matrices}
        _print_json({"runs": told, **cells} if several else told[0])
    else:
        for where in places:
            typer.echo(where)


@app.command()
def finetune(
    data: MoreData = None,
    manifest: Manifest = None,
    encoder: Annotated[
        str,
        typer.Option(metavar="ID_OR_DIR", help="Hub id or local folder of a speech encoder."),
    ] = DEFAULT_ENCODER,
    network: Annotated[
        str | None,
        _choice(
            "--network",
            choices.NETWORKS,
            "Train this small network from scratch instead of an encoder.",
            show_default="none",
        ),
    ] = None,
    revision: Revision = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="As for fit; every fold is a training.")
    ] = "kfold:5",
    target: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="What to predict: a column of labels, or of numbers (ratings).",
            show_default="emotion, or the only other column",
        ),
    ] = "",
    ratings: Annotated[
        str | None,
        typer.Option(
            metavar="RATINGS.csv",
            help="As for fit: ratings to be joined.",
            show_default=False,
        ),
    ] = None,
    task: Task = "auto",
    merge: MergedLabels = None,
    keep: KeptLabels = None,
    group: Group = None,
    speakers_per_corpus: SpeakersPerCorpus = False,
    similar_speakers: SimilarSpeakers = "refuse",
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Most passes over the clips.", show_default="20; of a network 60"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Epochs without a better UAR (CCC) of validation speakers.",
            show_default="5; of a network 15",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Clips computed at once.", show_default="8; of a network 16"
        ),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(metavar="N", help="Batches to a step of the optimiser.")
    ] = 1,
    learning_rate: Annotated[
        float, typer.Option(metavar="R", help="Highest, of the encoder.")
    ] = 3e-5,
    head_learning_rate: Annotated[
        float, typer.Option(metavar="R", help="Highest, of all that is new.")
    ] = 1e-3,
    layer_decay: Annotated[
        float,
        typer.Option(
            metavar="D", help="By what the encoder's rate falls from each block to the one below."
        ),
    ] = 1.0,
    warmup: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the steps, over which the rates rise.")
    ] = 0.1,
    precision: Annotated[
        str,
        _choice("--precision", choices.TRAINING_PRECISIONS, "Of products; weights are float32."),
    ] = "float32",
    train_front_end: Annotated[
        bool, typer.Option("--train-front-end", help="Train the convolutions, too.")
    ] = False,
    specaugment: Annotated[
        bool, typer.Option("--specaugment", help="Mask stretches of time in training.")
    ] = False,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="speed,pitch,noise",
            help="Change half of the training clips at random, otherwise in each epoch.",
            show_default="none",
        ),
    ] = None,
    mixup: Annotated[
        float,
        typer.Option(metavar="A", help="Mix training clips in pairs, by beta(A, A); 0 does not."),
    ] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option(metavar="SHARE", help="Of each label, given to all labels alike.")
    ] = 0.0,
    lora: Annotated[
        int,
        typer.Option(
            metavar="RANK",
            help="Train matrices of this rank beside the encoder's weights, not these (peft).",
            show_default="none",
        ),
    ] = 0,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Compute states twice, to save memory."),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:0,cuda:1",
            help="Where to train: auto and cuda take all GPUs, a fold on each.",
        ),
    ] = "auto",
    cluster: ClusterOption = None,
    max_folds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train the first folds only, for a trial.", show_default="all"
        ),
    ] = None,
    export_final: Annotated[
        bool,
        typer.Option(
            "--export-final/--no-export",
            help="Train on all speakers (but those of a held-out test) in the end, and save the "
            "model, for transformers.",
        ),
    ] = True,
    probe: Annotated[
        str,
        typer.Option(
            metavar="make|none|RUN",
            help="The frozen probe that the head begins as and the result is tested against: make "
            "extracts and fits it first, as extract and fit do.",
            show_default="make; of a network none",
        ),
    ] = "",
    random_head: Annotated[
        bool, typer.Option("--random-head", help="Begin with a random head all the same.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write logs to RUN/tensorboard.")
    ] = False,
    out: RunFolder = None,
    name: RunName = None,
    skip_bad: SkipBad = False,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**31 - 1, help="Of folds, new weights and order."),
    ] = 0,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Train an encoder end to end, and test it on speakers whom it never heard.

    The folds are those of fit. In each, a fifth of the training speakers tells the best epoch. A
    stopped run goes on after the last epoch that was done. Needs `pip install 'serpipe[finetune]'`.
    """
    from dataclasses import replace
    from importlib.util import find_spec

    from .artifacts.run.latest import RUNS
    from .artifacts.run.summary import check_given_name
    from .features.names import check_checkpoint_name

    given_name = "" if name is None else check_given_name(name)
    if network is None:
        check_checkpoint_name(encoder)
    for package, extra in (("accelerate", "finetune"), ("tensorboard", "tensorboard")):
        if find_spec(package) is None and (package == "accelerate" or tensorboard):
            raise UserError(
                f"finetune: {package} is not installed; expected it; pip install 'serpipe[{extra}]'"
            )
    from .api import workers
    from .artifacts.report.comparison import compare_runs, report_runs
    from .artifacts.report.report import headline
    from .artifacts.report.result_tables import nested_table
    from .artifacts.run.record_finetune import probe_advice, record_finetuning
    from .artifacts.run.record_probe import record_probe
    from .artifacts.run.results import read_results
    from .corpora.data import gather
    from .features.checkpoint import load_checkpoint
    from .features.devices import choose_devices
    from .mirror import local, stored
    from .pipeline.finetune.kinds import EncoderWithHead, Network
    from .pipeline.finetune.options import OF_ENCODERS, OF_NETWORKS
    from .pipeline.protocol import Protocol
    from .pipeline.ratings import read_ratings
    from .progress import track
    from .provenance import command_line, cores, provenance

    places = choose_devices(device, "--device")
    given = {"epochs": epochs, "patience": patience, "batch_size": batch_size}
    options = replace(
        OF_NETWORKS if network else OF_ENCODERS,
        **{name: value for name, value in given.items() if value is not None},
        accumulate=accumulate,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        layer_decay=layer_decay,
        warmup=warmup,
        precision=precision,
        train_front_end=train_front_end,
        specaugment=specaugment,
        augment=_names(augment),
        mixup=mixup,
        label_smoothing=label_smoothing,
        lora=lora,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    options.check(places[0])
    if network:
        options.check_network()
    if max_folds is not None and probe == "make":
        raise UserError(
            f"--probe make with --max-folds {max_folds}: a probe tests all folds; expected one of "
            "the two; leave one out"
        )
    probe = probe or ("none" if network or max_folds is not None else "make")
    if network and probe == "make":
        raise UserError(
            f"--probe make with --network {network}: a network has no frozen probe of its own; "
            "expected none or a RUN to compare with"
        )
    frozen = read_results(local(probe, _say)) if probe not in ("make", "none") else None
    found = gather(data or [], manifest, skip_bad=skip_bad, say=_say)
    rated = read_ratings(local(ratings, _say, file=True), target) if ratings else None
    if rated and rated.description:
        _say(f"ratings  {rated.description}")
    protocol = Protocol(
        split=split,
        target=target,
        merge=_pairs("--map", merge or []),
        keep=_names(keep),
        seed=seed,
        task=task,
        group=group,
        speakers_per_corpus=speakers_per_corpus,
        similar_speakers=similar_speakers,
    )
    kind: EncoderWithHead | Network
    if network:
        kind = Network(network, options)
        _say(f"network  {network}, from scratch, {precision} on {', '.join(places)}")
    else:
        _say(f"encoder  {encoder}: loading")
        kind = EncoderWithHead(load_checkpoint(encoder, revision), options, encoder)
        _say(
            f"         {kind.checkpoint.model_type}, revision {kind.checkpoint.revision}, "
            f"{precision} on {', '.join(places)}"
        )
    if probe == "make":
        made = record_probe(
            found,
            encoder,
            revision,
            protocol,
            ratings=rated,
            devices=places,
            provenance=provenance(),
            skip_bad=skip_bad,
            jobs=cores(),
            track=track,
        )
        frozen = read_results(made)
        _say(f"probe    frozen, the same folds: {made}")
    with (
        nullcontext() if out is None else stored(out, _say) as folder,
        workers(cluster, _say) as there,
    ):
        run = record_finetuning(
            found,
            kind,
            options,
            protocol,
            devices=places,
            cluster=there,
            given_name=given_name,
            max_folds=max_folds,
            export=export_final,
            ratings=rated,
            probe=frozen,
            start=not random_head,
            logs=tensorboard,
            provenance=provenance(("accelerate", *(("peft",) if lora else ()))),
            out=folder,
            skip_bad=skip_bad,
            workers=cores(),
            track=track,
            say=_say,
        )
    results = read_results(run)
    for warning in results.summary.warnings:
        _say(f"warning  {warning}")
    for line in headline(results):
        _say(line)
    if frozen:
        compared = report_runs(compare_runs([results, frozen]))
        if format is ResultFormat.TABLE:
            print_report(compared)
    elif not network:
        _say(probe_advice(run))
    if (run / "model").is_dir():
        whose = "" if network else ", for transformers"
        _say(f"model    saved{whose}: {run / 'model'}")
    where = place(out or run)
    if run.parent != RUNS:  # where `serpipe report` does not look by itself
        _say(f"next     {command_line('report', where)}")
    _say("run      predictions in:")
    if format is ResultFormat.JSON:
        told = {"run": str(where), "nested": list(nested_table(results).json_records)}
        if frozen:
            tables = {table.name: table.json_records for table in compared.tables}
            told["compared"] = list(tables.get("comparisons", ()))
        _print_json(told)
    else:
        typer.echo(where)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_DIR",
            help="Hub id or local folder of a trained audio classifier, as transformers saves it.",
        ),
    ],
    data: MoreData = None,
    manifest: Manifest = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="What is to be told: a column of labels or ratings.",
            show_default="emotion, or the only other column",
        ),
    ] = "",
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="LABEL=LABEL",
            help="Count a label of the clips as another, such as calm=neutral. Can be given "
            "several times.",
            show_default=False,
        ),
    ] = None,
    keep: KeptLabels = None,
    task: Task = "auto",
    speakers_per_corpus: SpeakersPerCorpus = False,
    similar_speakers: SimilarSpeakers = "refuse",
    model_map: Annotated[
        list[str] | None,
        typer.Option(
            "--model-map",
            metavar="LABEL=LABEL",
            help="Rename a label of the model, such as hap=happy; several may become one. Can be "
            "given several times.",
            show_default="by name, or as the same emotion",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT", help="Commit, tag or branch of a hub id.", show_default="main"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Clips computed at once.")] = 8,
    precision: Annotated[
        str,
        _choice("--precision", choices.TRAINING_PRECISIONS, "Of products; weights are float32."),
    ] = "float32",
    device: OneDevice = "auto",
    out: RunFolder = None,
    name: RunName = None,
    skip_bad: SkipBad = False,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Score a trained classifier, of yours or of others, on any corpus; nothing is trained.

    Every weight must be there. A model that was trained on the corpus is marked as CONTAMINATED
    wherever a number of it appears.
    """
    from .features.names import check_checkpoint_name

    check_checkpoint_name(model, "--model")
    from .artifacts.report.report import headline
    from .artifacts.report.result_tables import nested_table
    from .artifacts.run.latest import RUNS
    from .artifacts.run.record_evaluation import record_evaluation
    from .artifacts.run.results import read_results
    from .artifacts.run.summary import check_given_name
    from .corpora.data import gather
    from .features.devices import choose_devices
    from .mirror import stored
    from .pipeline.finetune.classifier import load_classifier
    from .pipeline.protocol import Protocol
    from .progress import track
    from .provenance import command_line, cores, provenance

    given_name = "" if name is None else check_given_name(name)
    device = choose_devices(device)[0]
    protocol = Protocol(
        target=target,
        merge=_pairs("--map", merge or []),
        keep=_names(keep),
        task=task,
        speakers_per_corpus=speakers_per_corpus,
        similar_speakers=similar_speakers,
    )
    renamed = _pairs("--model-map", model_map or [])
    found = gather(data or [], manifest, skip_bad=skip_bad, say=_say)
    for error in found.bad:
        _say(f"skipped  {error}")
    _say(f"model    {model}: loading")
    classifier = load_classifier(model, revision)
    checkpoint = classifier.checkpoint
    _say(
        f"         {checkpoint.model_type}, revision {checkpoint.revision}, tells "
        f"{', '.join(classifier.outputs)}; {precision} on {device}"
    )
    with nullcontext() if out is None else stored(out, _say) as folder:
        run = record_evaluation(
            found,
            classifier,
            protocol,
            model_map=renamed,
            batch_size=batch_size,
            precision=precision,
            device=device,
            provenance=provenance(),
            out=folder,
            given_name=given_name,
            skip_bad=skip_bad,
            workers=cores(),
            track=track,
            say=_say,
        )
    results = read_results(run)
    for line in headline(results):
        _say(line)
    where = place(out or run)
    if run.parent != RUNS:  # where `serpipe report` does not look by itself
        _say(f"next     {command_line('report', where)}")
    _say("run      predictions in:")
    if format is ResultFormat.JSON:
        _print_json({"run": str(where), "nested": list(nested_table(results).json_records)})
    else:
        typer.echo(where)


@app.command()
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE_OR_DIR...",
            help="Recordings, or folders of them.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="RUN/bundles/HEAD; a RUN; hub id or folder of a trained audio classifier, as "
            "transformers saves it; or a network that finetune saved.",
            show_default="the newest bundle in artifacts/runs, else the one that ships",
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Cut recordings into windows of so many seconds: a timeline, of which the whole "
            "is the mean.",
            show_default="none; Whisper hears at most 30 s at once",
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Seconds from the beginning of a window to that of the next.",
            show_default="--window",
        ),
    ] = None,
    encoder: BundleEncoder = None,
    revision: ModelRevision = None,
    device: OneDevice = "auto",
    mic: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            min=0.1,
            max=600.0,
            help="Record so many seconds from the microphone instead (serpipe[mic]).",
            show_default=False,
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Exit with 0 even if some recordings cannot be used."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the predictions to this file.",
            show_default="standard output",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the timeline of one recording, with --window; .pdf and .svg work as well.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        PredictionFormat | None,
        typer.Option(
            help="How to print: jsonl is a line of JSON for each recording.",
            show_default="by the suffix of --out, else table",
        ),
    ] = None,
) -> None:
    """Tell the emotion of recordings by a head or model that was trained before.

    A label is what the model finds likeliest of those that it knows, not what a person feels. How
    it scored, and by which protocol, is said on standard error.
    """
    # All arguments are checked before torch is loaded, which takes seconds.
    if bool(inputs) == (mic is not None):
        raise UserError("predict: expected recordings or --mic; name files or folders")
    files = _recordings(inputs or [], skip_missing=skip_bad)
    chosen_format = _prediction_format(format, out)
    _check_prediction_files(out, plot, files, window)
    _check_model(model, encoder)

    from .artifacts.models.prediction_text import TRAINED_ON_NOTE, describe
    from .artifacts.models.saved_model import load_model, predict_files, printable_path
    from .errors import BadClipError
    from .features.devices import choose_devices
    from .progress import track
    from .provenance import cores

    device = choose_devices(device, "--device")[0]
    loaded = load_model(model, device=device, encoder=encoder, revision=revision)
    for line in describe(loaded):
        _say(line)
    loaded.check_windows(window, hop)
    if window is not None and loaded.card["normalises"]:
        _say("note     each window is brought to zero mean and unit variance by itself")
    if mic is not None:
        from .features.microphone import record

        _say(f"mic      recording {mic:g} s ...")
        sound, rate = record(mic, loaded.sampling_rate), loaded.sampling_rate
        said: Any = iter([loaded.predict(sound, rate, window=window, hop=hop)])
    else:
        said = predict_files(loaded, files, window=window, hop=hop, workers=cores(), track=track)
    sources = [printable_path(file) for file in files] or ["array"]
    bad, any_trained_on = [], False
    timeline = window is not None
    with _prediction_printer(chosen_format, loaded, sources, timeline, out) as show:
        for each in said:
            if isinstance(each, BadClipError):
                bad.append(each)
                continue
            if window is None and each.timeline:
                _say(
                    f"note     {each.source}: longer than the model hears at once: the mean of "
                    f"{len(each.timeline)} equal windows"
                )
            show(each)
            any_trained_on = any_trained_on or bool(each.trained_on)
            if plot is not None:
                from .artifacts.report.figures import as_bytes
                from .artifacts.report.timeline import draw_timeline
                from .files import write_bytes

                figure = draw_timeline(each, loaded.name, str(loaded.card["probabilities"]))
                write_bytes(plot, as_bytes(figure, plot.suffix[1:].lower()))
                _say(f"picture  {plot}")
    if any_trained_on:
        _say(f"note     {TRAINED_ON_NOTE}")
    for error in bad:
        _say(f"{'skipped' if skip_bad else 'bad':<8} {error}")
    if bad and not skip_bad:
        raise UserError(
            f"{len(bad)} of {counted(len(sources), 'recording')} cannot be used, see above; mend "
            "or remove them, or go on without them: --skip-bad"
        )


@app.command()
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE",
            help="RUN/bundles/HEAD; a RUN; hub id or folder of a trained audio classifier, as "
            "transformers saves it.",
            show_default="the newest bundle in artifacts/runs, else the one that ships",
        ),
    ] = None,
    to: Annotated[str, _choice("--to", choices.EXPORT_FORMATS, "What to write.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx",
            help="Where to write it.",
            show_default="artifacts/onnx/NAME.onnx",
        ),
    ] = None,
    encoder: BundleEncoder = None,
    revision: ModelRevision = None,
    opset: Annotated[
        int, typer.Option(metavar="N", help="Version of ONNX's operators: 18 to 23.")
    ] = 18,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Write a model as one ONNX file, from samples to scores, for onnxruntime in any language.

    Needs serpipe[onnx]. The file is run on clips of several lengths before it is put in place, and
    refused if a score differs from that of torch by more than 0.0001.
    """
    _check_model(model, encoder)
    from .artifacts.onnx_export.export import export_onnx

    done = export_onnx(model, out, encoder=encoder, revision=revision, opset=opset, say=_say)
    told = done.metadata
    _say(
        f"input    audio: float32, clips by samples; mono, {told['sampling_rate']} Hz, from "
        f"{told['minimum_samples']} samples" + (
            "" if told["maximum_samples"] == "null" else f" to {told['maximum_samples']}"
        )
    )  # fmt: skip
    _say(f"         not in the file: decoding, one channel of several ({told['channels']}), rates")
    lengths = f"{min(done.seconds):.1f} to {max(done.seconds):.1f} s"
    _say(
        f"checked  {counted(len(done.seconds), 'clip')} of {lengths} in onnxruntime: scores differ "
        f"from torch's by {done.difference:.1e} at most"
    )
    _say(f"onnx     {done.n_bytes / 1e6:.1f} MB in:")
    if format is ResultFormat.JSON:
        _print_json({
            "file": str(done.path), "bytes": done.n_bytes, "difference": done.difference,
            "seconds": list(done.seconds), "metadata": dict(told),
        })  # fmt: skip
    else:
        typer.echo(done.path)


@app.command(context_settings={"auto_envvar_prefix": "SERPIPE"})  # --port: SERPIPE_PORT
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="As for predict: RUN/bundles/HEAD, a RUN, a trained classifier, a network.",
            show_default="the newest bundle in artifacts/runs, else the one that ships",
        ),
    ] = None,
    encoder: BundleEncoder = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 is any that is free.")
    ] = 8010,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name by which the server may be called; repeat it for several.",
            show_default="on loopback the names of this machine, elsewhere any",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin of pages that may send audio, such as https://voices.example.org; repeat "
            "it for several.",
            show_default="the server's own page alone",
        ),
    ] = None,
    device: Annotated[
        str,
        _choice("--device", choices.DEVICES, "Where the model runs: auto is a GPU, if any."),
    ] = "auto",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the token that callers must know (Authorization: Bearer TOKEN).",
            show_default="SERPIPE_TOKEN of the environment, or none",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Append answers there, without audio and names.",
            show_default="nothing is kept",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Windows that the model scores at once on a GPU."),
    ] = 8,
    queue: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Requests in work at once; more are told to wait."),
    ] = 64,
    max_wait: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.1,
            max=3600,
            help="Seconds that a request may expect to wait for the model; more are told to wait.",
        ),
    ] = 20.0,
    work_megabytes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Memory for uploads and decoded audio of all requests in work, in MiB.",
        ),
    ] = 256,
    max_megabytes: Annotated[
        int, typer.Option(metavar="N", min=1, max=1024, help="Of the audio of a request, in MiB.")
    ] = 25,
    max_seconds: Annotated[
        float, typer.Option(metavar="N", min=0.1, max=600, help="Of the audio of a request.")
    ] = 120.0,
    timeout: Annotated[
        float, typer.Option(metavar="N", min=0.1, max=3600, help="Seconds that an answer may take.")
    ] = 60.0,
) -> None:
    """Answer over HTTP: an upload page, POST /recognize, and SageMaker's contract.

    Needs serpipe[serve]. SIGTERM or Ctrl-C ends it when all that has begun is answered.
    """
    _check_model(model, encoder)
    from .serving.options import LOOPBACK, Options, check_origins, read_token

    try:
        from .serving.server import listen
        from .serving.server import serve as run_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise UserError(
            f"serve: {error.name} is not installed; expected the extra; "
            "install it: pip install 'serpipe[serve]'"
        ) from None
    from .artifacts.models.saved_model import load_model
    from .features.devices import choose_devices

    options = Options(
        max_bytes=max_megabytes << 20,
        max_seconds=max_seconds,
        queue=queue,
        batch=batch_size,
        max_wait=max_wait,
        work_bytes=work_megabytes << 20,
        timeout=timeout,
        token=read_token(token_file),
        log=log,
        # Behind another address it is called by names that only its operator knows.
        hosts=(
            (*LOOPBACK, *map(str.lower, allow_host or ()))
            if host in LOOPBACK or allow_host
            else None
        ),
        origins=check_origins(allow_origin or ()),
    )
    device = choose_devices(device, "--device")[0]
    with listen(host, port) as listener:
        loaded = load_model(model, device=device, encoder=encoder)
        labels = ", ".join(loaded.labels) or loaded.target
        _say(f"model    {loaded.name}, tells {labels}; on {device}")
        run_server(loaded, options, listener, _say)


@app.command()
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]RUN...",
            help="Folder of a run, and what to call it; several are compared, clip by clip where "
            "they are of the same clips.",
            show_default="the newest in artifacts/runs",
        ),
    ] = None,
    format: Annotated[
        TableFormat, typer.Option(help="How to print; csv prints the first table.")
    ] = TableFormat.TABLE,
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the clips, to hear the hardest in the page.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Set published results beside, where corpus, split, labels and metric agree.",
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where to write the page, tables and figures.",
            show_default="RUN/report; of several runs artifacts/comparisons/NAME",
        ),
    ] = None,
    compare_layers: Annotated[
        str | None,
        typer.Option(
            "--compare-layers",
            metavar="HEAD",
            help="Test the nested choice of a head against each of its layers.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print what a run found, with intervals and tests; write a page, tables and figures.

    Everything is computed from the saved predictions; nothing is fitted again.
    """
    from .api import report as run

    named = [_split_name(given) for given in runs or ()]
    if len(named) > 1 and not any(name for name, _ in named):
        _say("note     tables can call runs by name: serpipe report NAME=RUN NAME=RUN")
    made = run(
        *(folder for _, folder in named),
        names=[name for name, _ in named] if any(name for name, _ in named) else (),
        baseline=baseline,
        compare_layers=compare_layers,
        audio=audio,
        out=out,
        # Printed before it is drawn: what was computed is not lost to a full disk.
        show=lambda shown: _print_as(format, shown),
        say=_say,
    )
    assert made.folder
    if compare_layers is not None:
        _say(f"tables   {made.folder}")
    else:
        _say(f"page     {made.folder / 'index.html'}; beside it the tables and figures as files")


def main() -> None:
    """Run the command line; turn what was raised into one line and an exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _stop)
    # What joblib says of the tasks it drops when a run is stopped or fails.
    warnings.filterwarnings("ignore", message=r"\d+ tasks (have been|which were)")
    try:
        app()
    except SerpipeError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # typer's word for Ctrl-C
            _say("serpipe: stopped; what was done is kept: run the same command again to go on")
            if any(thread.name.startswith(WAITING_THREADS) for thread in threading.enumerate()):
                os._exit(130)  # nothing is left to do but to wait for a store that says nothing
        raise
    except OSError as error:
        if error.errno is None:
            raise
        _fail(str(disk_error(error)), 1)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: let processes end in peace


def _stop(signal_number: int, frame: object) -> None:
    """Stop once: a second Ctrl-C while threads end would leave them in the middle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say("serpipe: stopping ...")
    raise KeyboardInterrupt


def print_report(report: Any, console: Any = None) -> None:
    """Print a report (`Report`) on a rich console, standard output's."""
    from rich.table import Table
    from rich.text import Text

    from .artifacts.report.report import check_line

    console = _console(console)
    facts = Table.grid(padding=(0, 2))
    for name, value in report.facts:
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    for warning in report.warnings:
        console.print(Text(f"\n{warning}.", style="bold red"))
    for table in report.printed:
        print_table(table, console)
    console.print()
    for note in report.notes:
        console.print(Text(note))
    styles = {"invalid": "bold red", "warning": "yellow", "note": ""}
    if report.checks:
        console.print(Text("\nChecks", style="bold"))
    for check in report.checks:
        console.print(Text(check_line(check), style=styles[check.severity]))


def print_table(table: Any, console: Any = None) -> None:
    """Print a table (`Table`) on a rich console, standard output's."""
    from rich.text import Text

    from .artifacts.report.table import as_terminal

    console = _console(console)
    console.print(Text(f"\n{table.title}", style="bold"))
    console.print(as_terminal(table), end="")
    if table.note:
        console.print(Text(table.note))


def _console(console: Any = None) -> Any:
    from rich.console import Console

    console = console or Console(highlight=False)
    if not console.is_terminal and not console.record:  # a file has no edge at which to wrap
        return Console(highlight=False, width=200)
    return console


def _split_name(given: str) -> tuple[str, str]:
    """Split ``NAME=RUN``; what is a path or an address as it stands has no name."""
    name, equals, folder = given.partition("=")
    if not equals or isinstance(place(given), Remote) or Path(given).exists():
        return "", given
    from .artifacts.run.summary import check_given_name

    return check_given_name(name), folder


def _check_model(model: str | None, encoder: str | None) -> None:
    """Refuse a model or an encoder on this machine that is not there, before torch is loaded."""
    from .artifacts.models.find import find_model
    from .features.names import check_checkpoint_name

    if encoder is not None:
        check_checkpoint_name(encoder)
    if model is None or isinstance(place(model), Path):
        find_model(model)


def _recordings(inputs: list[str], *, skip_missing: bool) -> list[Place]:
    """Return files as they are named, and the recordings of folders by name."""
    from .corpora.scan import audio_files
    from .features.convert import SUFFIXES

    files: list[Place] = []
    missing: list[Place] = []
    for given in map(place, inputs):
        if isinstance(given, Remote) and given.is_web:
            files.append(given)
            continue
        if not given.is_dir():
            if isinstance(given, Path) and not given.exists():
                missing.append(given)
            files.append(given)
            continue
        found = [given / path for path in sorted(audio_files(given, SUFFIXES))]
        if not found:
            raise UserError(
                f"{given}: no recordings ({'/'.join(SUFFIXES)}) at any depth; expected some; name "
                "the folder that they are in"
            )
        files += found
    if missing and (not skip_missing or len(missing) == len(files)):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}: no such file or folder{more}; expected recordings or folders of them; "
            "check the path"
        )
    return files


def _prediction_format(format: PredictionFormat | None, out: Path | None) -> PredictionFormat:
    if format is not None:
        return format
    if out is None:
        return PredictionFormat.TABLE
    suffix = out.suffix[1:].lower()
    by_suffix = [PredictionFormat.CSV, PredictionFormat.JSON, PredictionFormat.JSONL]
    if suffix not in by_suffix:
        raise UserError(
            f"--out {out}: no format by that suffix; expected .csv, .json or .jsonl; rename it, or "
            "choose a --format"
        )
    return PredictionFormat(suffix)


def _check_prediction_files(
    out: Path | None, plot: Path | None, files: list[Place], window: float | None
) -> None:
    """Refuse files that could not be written in the end, before the work."""
    from .files import make_folder

    if out and plot and out.resolve() == plot.resolve():
        raise UserError(
            f"--out {out}: is the file of --plot, too; expected two files; name another"
        )
    recordings = {file.resolve() for file in files if isinstance(file, Path)}
    for option, path in (("--out", out), ("--plot", plot)):
        if path is None:
            continue
        if path.is_dir() or path.resolve() in recordings:
            what = "a folder" if path.is_dir() else "one of the recordings"
            raise UserError(f"{option} {path}: is {what}; expected a new file; name another")
        make_folder(path.parent)
    if plot is None:
        return
    if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(
            f"--plot {plot}: expected a name that ends in .png, .pdf or .svg; rename it"
        )
    if window is None or len(files) > 1:
        raise UserError(
            f"--plot {plot}: draws the timeline of one recording; expected one, and --window S"
        )


@contextmanager
def _prediction_printer(
    format: PredictionFormat, model: Any, sources: list[str], timeline: bool, out: Path | None
) -> Iterator[Callable[[Any], None]]:
    """Print predictions as they come; JSON, which is one text, at the end, whatever ends it.

    With ``out`` they are written there at the end, or printed if the disk does not take them.
    """
    import json
    from dataclasses import asdict

    from .artifacts.models import prediction_text as texts
    from .artifacts.report.table import byte_order_mark
    from .files import write_text

    shown: list[dict[str, Any]] = []
    lines: list[str] = []
    n_shown = 0
    echo: Callable[[str], None] = _print_above_bar if out is None else lines.append

    def show(prediction: Any) -> None:
        nonlocal n_shown
        n_shown += 1
        if format is PredictionFormat.JSON:
            shown.append(asdict(prediction))
        elif format is PredictionFormat.JSONL:
            echo(texts.as_json_line(prediction))
        elif format is PredictionFormat.CSV:
            echo("\n".join(texts.csv_rows(prediction, model)))
        else:
            echo("\n".join(texts.table_rows(prediction, model, sources, timeline)))

    if format is PredictionFormat.CSV:
        into_file = out is not None
        if not into_file and isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # a file, whatever the terminal shows
            into_file = _is_file(sys.stdout)  # a pipe: the mark would be part of the first name
        mark = byte_order_mark("".join([*sources, *model.predictor.outputs])) if into_file else ""
        echo(mark + texts.csv_header(model))
    elif format is PredictionFormat.TABLE:
        echo(texts.table_header(model, sources))
    note = texts.probability_note(model)
    if format in (PredictionFormat.CSV, PredictionFormat.JSONL):  # their columns are fixed
        for line in note:
            _say(line)
    is_whole = False
    try:
        yield show
        is_whole = True
    finally:
        if format is PredictionFormat.JSON:
            whole = {"model": dict(model.card), "predictions": shown}
            echo(json.dumps(whole, indent=1, allow_nan=False))
        elif format is PredictionFormat.TABLE:
            for line in note:
                echo(line)
        if out is not None and n_shown:
            content = "".join(f"{line}\n" for line in lines)
            # What an earlier command wrote is not lost to one that was stopped.
            partial = out.with_name(f"{out.stem}.partial{out.suffix}")
            where = partial if out.exists() and not is_whole else out
            try:
                write_text(where, content)
                _say(f"written  {counted(n_shown, 'prediction')} in {where}")
            except MachineError:
                typer.echo(content, nl=False)
                raise


def _is_file(stream: io.TextIOWrapper) -> bool:
    """Say whether a stream writes into a regular file."""
    import os
    import stat

    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # it has no descriptor
        return False


def _print_above_bar(text: str) -> None:
    print(text, flush=True)  # not typer.echo: see _say


def _print_as(format: TableFormat, report: Any) -> None:
    from .artifacts.report.report import as_json, markdown
    from .artifacts.report.table import as_csv

    if format is TableFormat.TABLE:
        print_report(report)
    elif format is TableFormat.MARKDOWN:
        typer.echo(markdown(report), nl=False)
    elif format is TableFormat.JSON:
        typer.echo(as_json(report), nl=False)
    else:
        typer.echo(as_csv(report.tables[0]), nl=False)


def _print_json(result: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(result, indent=1, allow_nan=False))


def _names(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names):
        raise UserError(f"{text}: an empty name; expected names joined by commas; mend it")
    return names


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UserError(f"{option} {text}: expected LABEL=LABEL, such as calm=neutral")
        if pairs.setdefault(old, new) != new:
            raise UserError(f"{option} {text}: {old} is {pairs[old]} already; expected it once")
    return pairs


def _say(text: str) -> None:
    # By print, not by typer.echo: that writes past what a progress bar puts in place of the stream,
    # and into the line of the bar.
    # Names of files may hold anything: what would do something to a terminal is shown as its code.
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    print(shown, file=sys.stderr, flush=True)


def _fail(text: str, code: int) -> None:
    for line in text.splitlines():
        _say(f"serpipe: {line}")
    sys.exit(code)
