"""Use a saved model: ``serpipe.predict``, ``serpipe.export`` and ``serpipe.serve``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import EXPORT_FORMATS, check_choice
from ..errors import BadClipError, UserError, counted
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location, Remote, as_location
from ..serving.options import ServeOptions
from .shared import with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.models.prediction import Prediction
    from ..artifacts.models.saved_model import Model
    from ..artifacts.onnx_export.export import Exported

_FIGURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class PredictedRecordings:
    """Predictions of recordings, one after the other: each is made when it is iterated over.

    Attributes
    ----------
    model : Model
        The model that predicts.
    sources : tuple of str
        Names of the recordings.
    """

    model: "Model"
    sources: tuple[str, ...]
    _predictions: "Iterator[Prediction]"

    def __iter__(self) -> "Iterator[Prediction]":
        """Predict the recordings, in their order.

        Raises
        ------
        UserError
            At the end, if recordings could not be used, unless they may be skipped.
        MachineError
            If a recording does not fit in memory.
        """
        return self._predictions


@with_typed_errors
def predict(
    inputs: str | Location | Sequence[str | Location] = (),
    *,
    model: "Model | str | Location | None" = None,
    window: float | None = None,
    hop: float | None = None,
    enrol: str | Location | Sequence[str | Location] = (),
    encoder: str | Path | None = None,
    revision: str | None = None,
    device: str = "auto",
    mic: float | None = None,
    skip_bad: bool = False,
    abstain: bool = False,
    plot: str | Path | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> PredictedRecordings:
    """Predict the emotion of recordings with a head or model that was trained before.

    A label is the most likely of those that the model knows; it is not what a person feels.

    Parameters
    ----------
    inputs : str, Path or sequence of them
        Recordings, or folders of them.
    model : Model, str or Path, optional
        RUN/bundles/HEAD; a RUN; hub id or folder of a trained audio classifier that ``evaluate``
        takes; a network that ``finetune`` saved; or the hub id of what ``push`` has published. By
        default the newest bundle in ``artifacts/runs``, else the one that ships with serpipe.
    window : float, optional
        Split recordings into windows of so many seconds: the prediction gets a timeline, and its
        scores are the means over the windows. Without it, only recordings that are longer than the
        model takes (for Whisper 30 s) are split.
    hop : float, optional
        Seconds from the start of one window to the start of the next; by default ``window``.
    enrol : str, Path or sequence of them, optional
        Folder of unlabelled clips of the speaker of all recordings, to adapt the model to; it must
        be a bundle of a run with ``fit --enrol``.
    encoder : str or Path, optional
        Location of the encoder of the bundle, if it was a local folder. Of a bundle of several
        encoders all of them, joined by commas.
    revision : str, optional
        Commit, tag or branch of a hub id: of the model, or of the encoder of a local bundle. By
        default the recorded one, else ``main``.
    device : str
        Device to run on: ``auto`` is a GPU if there is one.
    mic : float, optional
        Record so many seconds from the microphone instead. Needs ``serpipe[mic]``.
    skip_bad : bool
        Do not fail because some recordings cannot be used.
    abstain : bool
        Give no label to recordings that are unlike all clips that the model was trained on.
    plot : str or Path, optional
        Draw the timeline of a single recording to this PNG, PDF or SVG file; needs ``window``.
    track : callable
        Shows progress, such as :func:`serpipe.progress.track`.
    say : callable
        Takes lines of text that report progress, such as ``print``.

    Returns
    -------
    PredictedRecordings
        Iterate over it to get a :class:`~serpipe.pipeline.predict.Prediction` for each recording.

    Raises
    ------
    UserError
        If an option is invalid, or there is no such model or recording.
    MachineError
        If the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> for prediction in serpipe.predict("recordings"):  # doctest: +SKIP
    ...     print(prediction.source, prediction.label)
    """
    # All arguments are checked before torch is loaded, which takes seconds.
    several = [inputs] if isinstance(inputs, str | Location) else inputs
    if bool(several) == (mic is not None):
        raise UserError("predict: name recordings or folders, or record with --mic")
    files = _recordings(several, skip_missing=skip_bad)
    enrolled = _recordings(
        [enrol] if isinstance(enrol, str | Location) else enrol, skip_missing=False
    )
    picture = None if plot is None else _picture(Path(plot), files, window)
    if model is None or isinstance(model, str | Location):
        _check_model(model, encoder)

    from ..artifacts.models.prediction_text import describe
    from ..artifacts.models.saved_model import Model, load_model, predict_files, printable_path
    from ..features.devices import choose_devices
    from ..provenance import cores

    device = choose_devices(device, "--device")[0]
    loaded = (
        model
        if isinstance(model, Model)
        else load_model(model, device=device, encoder=encoder, revision=revision)
    )
    for line in describe(loaded):
        say(line)
    loaded.check_windows(window, hop)
    if enrolled:
        loaded = _adapt(loaded, enrolled, say)
    if window is not None and loaded.card["normalises"]:
        say("note     each window is normalised to zero mean and unit variance by itself")
    if mic is not None:
        from ..features.microphone import record

        say(f"mic      recording {mic:g} s ...")
        sound, rate = record(mic, loaded.sampling_rate), loaded.sampling_rate
        made: Any = iter([loaded.predict(sound, rate, window=window, hop=hop)])
    else:
        made = predict_files(loaded, files, window=window, hop=hop, workers=cores(), track=track)
    sources = tuple(printable_path(file) for file in files) or ("array",)
    predictions = _report_each(
        made, loaded, len(sources), window is not None, skip_bad, abstain, picture, say
    )
    return PredictedRecordings(loaded, sources, predictions)


def _adapt(model: "Model", clips: Sequence[Location], say: Say) -> "Model":
    """Adapt a model to the speaker of some clips."""
    fewest = model.check_adapts().fewest
    profile = model.enrol(clips)
    number = counted(profile.n_clips, "clip")
    if profile.is_adapted:
        say(f"enrolled {number} of the speaker; all recordings are taken to be of this speaker")
    else:
        say(f"note     {number} enrolled: not adapted, as that pays from {fewest} on")
    return model.adapted(profile)


def _report_each(
    made: "Iterator[Prediction | BadClipError]",
    model: "Model",
    n_recordings: int,
    has_timeline: bool,
    skip_bad: bool,
    abstain: bool,
    picture: Path | None,
    say: Say,
) -> "Iterator[Prediction]":
    """Yield predictions; report what a reader must know of them, and what cannot be used."""
    from ..artifacts.models.prediction_text import TRAINED_ON_NOTE, UNLIKE_TRAINING_NOTE

    bad, any_trained_on, any_unlike = [], False, False
    for each in made:
        if isinstance(each, BadClipError):
            bad.append(each)
            continue
        if each.timeline and not has_timeline:
            say(
                f"note     {each.source}: longer than the model takes; scores are the means of "
                f"{len(each.timeline)} equal windows"
            )
        yield each.abstained() if abstain else each
        any_unlike = any_unlike or bool(each.unlike_training)
        any_trained_on = any_trained_on or bool(each.trained_on)
        if picture is not None:
            from ..artifacts.report.figures import as_bytes
            from ..artifacts.report.timeline import draw_timeline
            from ..files import write_bytes

            figure = draw_timeline(each, model.name, str(model.card["probabilities"]))
            write_bytes(picture, as_bytes(figure, picture.suffix[1:].lower()))
            say(f"picture  {picture}")
    if any_trained_on:
        say(f"note     {TRAINED_ON_NOTE}")
    if any_unlike:
        say(f"note     {UNLIKE_TRAINING_NOTE}")
    for error in bad:
        say(f"{'skipped' if skip_bad else 'bad':<8} {error}")
    if bad and not skip_bad:
        raise UserError(
            f"{len(bad)} of {counted(n_recordings, 'recording')} cannot be used, see above; repair "
            "or remove them, or skip them with --skip-bad"
        )


def _recordings(inputs: Sequence[str | Location], *, skip_missing: bool) -> list[Location]:
    """Return files as they are named, and the recordings in folders by name."""
    from ..corpora.scan import audio_files
    from ..features.convert import SUFFIXES

    files: list[Location] = []
    missing: list[Location] = []
    for path in map(as_location, inputs):
        if (isinstance(path, Remote) and path.is_web) or not path.is_dir():
            if isinstance(path, Path) and not path.exists():
                missing.append(path)
            files.append(path)
            continue
        inside = [path / name for name in sorted(audio_files(path, SUFFIXES))]
        if not inside:
            raise UserError(
                f"{path}: no recordings ({'/'.join(SUFFIXES)}) at any depth; "
                "name the folder that they are in"
            )
        files += inside
    if missing and (not skip_missing or len(missing) == len(files)):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such file or folder{more}; check the path")
    return files


def _picture(plot: Path, files: Sequence[Location], window: float | None) -> Path:
    """Refuse a figure that could not be drawn in the end, before the work."""
    from ..files import make_folder

    check_new_file("--plot", plot, files)
    if plot.suffix.lower() not in _FIGURES:
        raise UserError(f"--plot {plot}: use a name that ends in {', '.join(_FIGURES)}")
    if window is None or len(files) > 1:
        raise UserError(
            f"--plot {plot}: draws the timeline of one recording; name one, and set --window"
        )
    make_folder(plot.parent)
    return plot


def check_new_file(option: str, path: Path, recordings: Sequence[Location]) -> None:
    """Refuse to write over a folder or a recording.

    Parameters
    ----------
    option : str
        Name of the option, for the message.
    path : Path
        The file to write.
    recordings : sequence of Path or Remote
        The files to read.

    Raises
    ------
    UserError
        If ``path`` is a folder or one of the recordings.
    """
    is_recording = path.resolve() in {
        file.resolve() for file in recordings if isinstance(file, Path)
    }
    if path.is_dir() or is_recording:
        what = "a folder" if path.is_dir() else "one of the recordings"
        raise UserError(f"{option} {path}: is {what}; name a new file")


def _check_model(model: str | Location | None, encoder: str | Path | None) -> None:
    """Refuse a model or an encoder that is not on this machine, before torch is loaded."""
    from ..artifacts.models.find import find_model
    from ..features.names import check_checkpoint_name

    if encoder is not None:
        several = [str(encoder)] if Path(encoder).exists() else str(encoder).split(",")
        for name in several:
            check_checkpoint_name(name)
    if model is None or isinstance(as_location(model), Path):
        find_model(model)


@with_typed_errors
def export(
    model: str | Location | None = None,
    *,
    to: str = "onnx",
    out: str | Path | None = None,
    encoder: str | Path | None = None,
    revision: str | None = None,
    opset: int = 18,
    say: Say = say_nothing,
) -> "Exported":
    """Write a model as one ONNX file, from samples to scores, for onnxruntime in any language.

    The file is run on clips of several lengths before it is put in place, and is refused if a score
    differs from that of torch by more than 0.0001. Needs ``serpipe[onnx]``.

    Parameters
    ----------
    model : str or Path, optional
        RUN/bundles/HEAD; a RUN; hub id or folder of a trained audio classifier, as transformers
        saves it; or the hub id of what ``push`` has published. By default the newest bundle in
        ``artifacts/runs``, else the one that ships with serpipe.
    to : {"onnx"}
        Format to write.
    out : str or Path, optional
        File to write; by default ``artifacts/onnx/NAME.onnx``.
    encoder, revision
        As :func:`predict` takes them.
    opset : int
        Version of the ONNX operator set, 18 to 23.
    say : callable
        Takes lines of text that report progress, such as ``print``.

    Returns
    -------
    Exported
        The file (``path``), the largest difference of a score, and the metadata in the file.

    Raises
    ------
    UserError
        If the model cannot be exported, or ``serpipe[onnx]`` is not installed.
    MachineError
        If the hub cannot be reached, or the disk is full.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.export(out="model.onnx").path  # doctest: +SKIP
    PosixPath('model.onnx')
    """
    check_choice("--to", to, EXPORT_FORMATS)
    _check_model(model, encoder)
    from ..artifacts.onnx_export.export import export_onnx
    from ..mirror import local

    source = model if model is None or isinstance(model, str) else local(model)
    return export_onnx(
        source,
        None if out is None else Path(out),
        encoder=encoder,
        revision=revision,
        opset=opset,
        say=say,
    )


@with_typed_errors
def serve(
    options: ServeOptions = ServeOptions(),
    *,
    model: str | Location | None = None,
    encoder: str | Path | None = None,
    device: str = "auto",
    say: Say = say_nothing,
) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C, then finish the requests in progress.

    There is a page to upload or record audio, ``POST /recognize``, and the contract of SageMaker.
    Needs ``serpipe[serve]``.

    Parameters
    ----------
    options : ServeOptions
        Addresses, limits and log of the server.
    model : str or Path, optional
        As :func:`predict` takes it.
    encoder : str or Path, optional
        As :func:`predict` takes it.
    device : str
        Device to run on: ``auto`` is a GPU if there is one.
    say : callable
        Takes lines of text for the operator, such as ``print``.

    Returns
    -------
    None
        When the server has stopped.

    Raises
    ------
    UserError
        If an option is invalid, the address is taken, or ``serpipe[serve]`` is not installed.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.serve(serpipe.ServeOptions(port=8010), say=print)  # doctest: +SKIP
    """
    _check_model(model, encoder)
    from ..serving.options import check_origins, read_token

    try:
        from ..serving.server import listen, run
    except ModuleNotFoundError as error:
        needed = ("fastapi", "starlette", "uvicorn", "prometheus_client")
        if (error.name or "").partition(".")[0] not in needed:
            raise
        raise UserError(
            f"serve: {error.name} is not installed; install it with: pip install 'serpipe[serve]'"
        ) from None
    from ..artifacts.models.saved_model import load_model
    from ..features.devices import choose_devices

    check_origins(options.allow_origin)
    if options.token is None:
        file = options.token_file
        options = replace(options, token=read_token(None if file is None else Path(file)))
    device = choose_devices(device, "--device")[0]
    with listen(options.host, options.port) as listener:
        loaded = load_model(model, device=device, encoder=encoder)
        outputs = ", ".join(loaded.labels) or loaded.target
        say(f"model    {loaded.name}, predicts {outputs}; on {device}")
        run(loaded, options, listener, say)
