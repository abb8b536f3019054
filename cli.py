"""The command line: register the commands, and turn errors into one line and an exit code.

Results go to standard output, everything else to standard error. Exit code 2 is for mistakes of the
user, 1 for failures of the machine, 130 for a stop by the user.
"""

import codecs
import io
import os
import signal
import sys
import threading
import warnings
from typing import Annotated

import typer

from . import api
from ._version import __version__
from .commands import cache, corpora, models, study
from .commands.extract import extract
from .commands.finetune import evaluate, finetune
from .commands.fit import fit
from .commands.options import add_command
from .commands.output import say
from .commands.predict import predict
from .commands.report import report
from .commands.robustness import robustness
from .errors import SerpipeError, disk_error
from .remote import WAITING_THREADS

app = typer.Typer(
    name="serpipe",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  serpipe extract --encoder whisper-tiny.en; serpipe fit; serpipe report",
)
cache_app = typer.Typer(help="Inspect a cache of embeddings.", no_args_is_help=True)
corpora_app = typer.Typer(help="Get, check and describe corpora.", no_args_is_help=True)
study_app = typer.Typer(
    cls=study.StudyGroup,
    help="Compare encoders over corpora, as one file plans it: serpipe study STUDY.toml.",
    no_args_is_help=True,
)

add_command(app, extract, api.extract)
add_command(app, corpora.convert, api.convert)
add_command(app, fit, api.fit)
add_command(app, finetune, api.finetune)
add_command(app, evaluate, api.evaluate)
add_command(app, robustness, api.robustness)
add_command(app, predict, api.predict)
add_command(app, models.export, api.export)
# Environment variables set its options: SERPIPE_PORT is --port.
serve_settings = {"auto_envvar_prefix": "SERPIPE"}
add_command(app, models.serve, api.serve, context_settings=serve_settings)
add_command(app, models.push, api.push)
add_command(app, report, api.report)
app.add_typer(cache_app, name="cache")
add_command(cache_app, cache.describe, api.describe_cache, "info")
add_command(cache_app, cache.verify, api.verify_cache, "verify")
app.add_typer(corpora_app, name="corpora")
add_command(corpora_app, corpora.list_corpora, api.list_corpora, "list")
add_command(corpora_app, corpora.describe, api.describe_corpora, "info")
add_command(corpora_app, corpora.write_table, api.write_clip_table, "table")
add_command(corpora_app, corpora.write_raters, api.write_rater_table, "raters")
add_command(corpora_app, corpora.download, api.download_corpus, "download")
app.add_typer(study_app, name="study")
add_command(study_app, study.init, api.write_study)
add_command(study_app, study.run, api.study)
add_command(study_app, study.report, api.report_study)


def _print_version(requested: bool) -> None:
    if requested:
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
    - fit trains heads on them and tests these on held-out speakers,
    - report prints their scores with intervals.

    Clips, tables, caches and runs may be in an object store: s3://BUCKET/NAME in place of a path.
    """


def main() -> None:
    """Run the command line; turn an error into one line and an exit code."""
    _use_utf8()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _stop)
    # joblib warns about the tasks that it drops when a run is stopped or fails.
    warnings.filterwarnings("ignore", message=r"\d+ tasks (have been|which were)")
    try:
        app()
    except SerpipeError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # how Typer ends after Ctrl-C
            say("serpipe: stopped; what was done is kept: run the same command again to resume")
            if any(thread.name.startswith(WAITING_THREADS) for thread in threading.enumerate()):
                os._exit(130)  # the threads would only wait for a store that does not answer
        raise
    except OSError as error:
        if error.errno is None:
            raise
        _fail(str(disk_error(error)), 1)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is done; processes are ending


def _use_utf8() -> None:
    """Write UTF-8 into files and pipes, as Python 3.15 does, unless the user chose an encoding.

    The code pages of Windows lack characters of names and tables.
    """
    for stream in (sys.stdout, sys.stderr):
        if (
            isinstance(stream, io.TextIOWrapper)
            and codecs.lookup(stream.encoding).name != "utf-8"
            and not stream.isatty()
            and "PYTHONIOENCODING" not in os.environ
        ):
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


def _stop(signal_number: int, frame: object) -> None:
    """Stop once: a second Ctrl-C while threads end would interrupt them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say("serpipe: stopping ...")
    raise KeyboardInterrupt


def _fail(text: str, code: int) -> None:
    for line in text.splitlines():
        say(f"serpipe: {line}")
    sys.exit(code)
