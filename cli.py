"""The command line: parse arguments, call the stages, say what happened.

Results go to standard output, everything else to standard error. Exit code 2 is for what the user
gave, 1 for failures of the machine, 130 for a stop by the user.
"""

import signal
import sys
import threading
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import MachineError, SerpipeError, UserError

# The commands import what they need when they run: `serpipe --help` must not wait for torch.

app = typer.Typer(
    name="serpipe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  serpipe extract --encoder whisper-tiny.en; serpipe fit; serpipe report",
)


cache_app = typer.Typer(help="Look into a cache of embeddings.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


CacheFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE.h5",
        help="A cache of embeddings.",
        show_default="the newest in features/cache",
    ),
]


class TableFormat(StrEnum):
    """How ``report`` prints."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"


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

    extract  runs a frozen encoder once over every clip and caches its layers,
    fit      trains heads on each layer and scores them on speakers they never heard,
    report   prints the accuracy of every layer and head.
    """


@app.command()
def extract(
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder of RAVDESS speech clips (wav or flac, any depth), "
            "or 'sample': 192 clips that ship with serpipe.",
        ),
    ] = "sample",
    encoder: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_DIR",
            help="Hub id or local folder of a speech encoder "
            "(wav2vec 2.0, XLS-R, HuBERT, WavLM, data2vec-audio, Whisper), or "
            "'whisper-tiny.en': ships with serpipe, needs no network.",
        ),
    ] = "facebook/wav2vec2-base",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.h5",
            help="Where to write the cache.",
            show_default="features/cache/CORPUS-ENCODER.h5",
        ),
    ] = None,
    pool: Annotated[
        str, typer.Option(metavar="mean|std|mean,std", help="What to keep of each layer over time.")
    ] = "mean",
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="Commit, tag or branch of a hub id.",
            show_default="pinned for the default encoder, else main",
        ),
    ] = None,
    devices: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:0,cuda:1|mps",
            help="Where the encoder runs: auto and cuda take all GPUs, a copy on each.",
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="float32|tf32|bf16|fp16|auto",
            help="Of weights and states. Only float32 is exact; auto is bf16 where the machine "
            "computes it natively.",
        ),
    ] = "float32",
    dtype: Annotated[
        str, typer.Option(metavar="float32|float16", help="Of the stored embeddings.")
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
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads.", show_default="the cores there are"),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without clips that cannot be used; list them.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where --out was made otherwise.")
    ] = False,
    drop_removed: Annotated[
        bool,
        typer.Option("--drop-removed", help="Drop clips of the cache that the corpus has no more."),
    ] = False,
) -> None:
    """Run a frozen encoder once over every clip and cache the pooled states of every layer.

    A second run computes only what is missing; a stopped run goes on where it stopped.
    """
    from . import corpora
    from .artifacts.latest import CACHES
    from .features.names import POOLINGS
    from .progress import track
    from .provenance import cores, provenance

    poolings = tuple(POOLINGS[POOLINGS.index(p)] for p in pool.split(",") if p in POOLINGS)
    if not poolings or ",".join(poolings) != pool:
        raise UserError(f"--pool {pool}: expected mean, std or mean,std")
    source = corpora.find_data(data)
    found = corpora.scan(source.folder, source.corpus)
    _say(f"corpus   {source.title}: {len(found.clips)} clips in {source.folder}")
    for what, count in found.left_out.items():
        _say(f"         {count} x {what} left out: not a speech clip")
    if found.bad and (not skip_bad or not found.clips):
        from .errors import BadClipsError

        raise BadClipsError(found.bad, f"{len(found.clips)} others are named well")
    if data != corpora.SAMPLE:
        short = corpora.missing(found.clips, source.corpus)
        if short:
            told = ", ".join(f"{emotion} {n} of {of}" for emotion, (n, of) in short.items())
            _say(f"         not the whole release: {told}")

    from .features.devices import choose_devices, choose_precision
    from .features.encoder import load_encoder
    from .features.extract import extract as run

    if dtype not in ("float32", "float16"):
        raise UserError(f"--dtype {dtype}: expected float32 or float16")
    _say(f"encoder  {encoder}: loading")
    places = choose_devices(devices)
    loaded = [
        load_encoder(
            encoder,
            revision=revision,
            poolings=poolings,
            device=place,
            precision=choose_precision(precision, place),
            max_seconds=max_seconds,
            compile_blocks=compile_blocks,
        )
        for place in places
    ]
    identity = loaded[0].identity
    _say(
        f"         {identity.model_type}, revision {identity.revision}, "
        f"{len(identity.layers)} layers of width {identity.width}, "
        f"{loaded[0].precision} on {', '.join(places)}"
    )
    target = out or CACHES / f"{source.name}-{identity.encoder.replace('/', '--')}.h5"
    done = run(
        found.clips,
        loaded,
        target,
        provenance={
            "corpus": source.title,
            "licence": source.corpus.licence,
            "citation": source.corpus.citation,
            **provenance(),
        },
        skip_bad=skip_bad,
        overwrite=overwrite,
        drop_removed=drop_removed,
        trim_decibels=trim,
        dtype=dtype,
        batch_seconds=batch_seconds,
        workers=jobs or cores(),
        track=track,
    )
    for error in (*found.bad, *done.bad):
        _say(f"skipped  {error}")
    for group in done.same_bytes:
        _say(f"note     the same bytes under {len(group)} names: {', '.join(group)}")
    if done.removed:
        _say(f"dropped  {len(done.removed)} clip(s) that the corpus has no more")
    if target.parent != CACHES:  # where `serpipe fit` looks by itself
        _say(f"next     serpipe fit --cache {target}")
    _say(f"cache    {done.computed} clips computed, {done.reused} were there, in:")
    typer.echo(target)


@cache_app.command("info")
def cache_info(
    file: CacheFile = None,
) -> None:
    """Print what is inside."""
    from .artifacts.cache_info import describe
    from .artifacts.latest import latest_cache
    from .features.cache import open_cache

    for name, value in describe(open_cache(file or latest_cache())):
        typer.echo(f"{name:<16} {value}")


@cache_app.command("verify")
def cache_verify(
    file: CacheFile = None,
) -> None:
    """Check every number against its checksum; exit code 2 if the file is damaged."""
    from .artifacts.latest import latest_cache
    from .features.cache import verify_cache

    path = file or latest_cache()
    wrong = verify_cache(path)
    if wrong:
        raise UserError(
            f"{path}: {'; '.join(wrong)}; make it again with `serpipe extract --overwrite`"
        )
    typer.echo(f"{path}: whole, all checksums right")


@app.command()
def fit(
    head: Annotated[
        str,
        typer.Option(
            metavar="lr|svm|lgbm|all",
            help="Logistic regression, SVM (RBF), LightGBM, several joined by commas, or all.",
        ),
    ] = "lr",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.h5",
            help="Cache of embeddings.",
            show_default="the newest in features/cache",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD.NAME=VALUE",
            help="Fix a hyper-parameter, such as lr.C=0.1. Can be given several times.",
            show_default=False,
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="mean|std|mean,std",
            help="Which of the cached poolings to use.",
            show_default="all",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to write the run.",
            show_default="artifacts/runs/NAME",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**31 - 1, help="For heads that draw random numbers."),
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
) -> None:
    """Train heads on every layer, leaving one speaker out at a time.

    Each clip is predicted by a head that never heard its speaker; the scaler, too, sees training
    clips alone. Saves these predictions, and heads fitted on all clips.
    """
    from .artifacts.latest import latest_cache
    from .artifacts.record import record_run
    from .features.cache import open_cache
    from .pipeline.heads import find_heads, read_parameters
    from .progress import track
    from .provenance import cores, provenance

    heads = find_heads(head)
    parameters = read_parameters(heads, param or [])
    opened = open_cache(cache or latest_cache())
    _say(f"cache    {opened.path}" + ("" if cache else ", the newest"))
    run = record_run(
        opened,
        heads,
        parameters,
        provenance=provenance(),
        pooling=pool,
        out=out,
        seed=seed,
        jobs=jobs or cores(),
        track=track,
    )
    _say("run      predictions and heads in:")
    typer.echo(run)


@app.command()
def report(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run.",
            show_default="the newest in artifacts/runs",
        ),
    ] = None,
    format: Annotated[
        TableFormat, typer.Option(help="How to print the table.")
    ] = TableFormat.TABLE,
) -> None:
    """Print the accuracy of every layer and head; write it to RUN/report as Markdown and CSV."""
    from .artifacts.latest import latest_run
    from .artifacts.table import as_csv, as_markdown, as_terminal, layer_table
    from .files import write_text

    folder = run or latest_run()
    _say(f"run      {folder}" + ("" if run else ", the newest"))
    table = layer_table(folder)
    texts = {TableFormat.MARKDOWN: as_markdown(table), TableFormat.CSV: as_csv(table)}
    written = {
        folder / "report" / "layers.md": texts[TableFormat.MARKDOWN],
        folder / "report" / "layers.csv": texts[TableFormat.CSV],
    }
    for path, text in written.items():
        write_text(path, text)
    _say(f"written  {' and '.join(map(str, written))}")
    if format is TableFormat.TABLE:
        _print_table(as_terminal(table))
    else:
        typer.echo(texts[format], nl=False)


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
        raise
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(str(MachineError(f"{where}{error.strerror}; check the disk and try again")), 1)


def _stop(signal_number: int, frame: object) -> None:
    """Stop once: a second Ctrl-C while threads end would leave them in the middle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say("serpipe: stopping ...")
    raise KeyboardInterrupt


def _print_table(group: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no edge at which to wrap
        console = Console(highlight=False, width=200)
    console.print(group)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _fail(text: str, code: int) -> None:
    for line in text.splitlines():
        _say(f"serpipe: {line}")
    sys.exit(code)
