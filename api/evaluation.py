"""Score a trained classifier: ``serpipe.evaluate``."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..pipeline.options import TargetOptions
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .shared import addresses, provenance_of_call, with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults


@with_typed_errors
def evaluate(
    model: str | Path,
    data: str | Location | Sequence[str | Location] = (),
    options: TargetOptions = TargetOptions(),
    *,
    manifest: str | Location | None = None,
    model_map: Mapping[str, str] | None = None,
    revision: str | None = None,
    perturb: Sequence[str] = (),
    batch_size: int = 8,
    precision: str = "float32",
    device: str = "auto",
    out: str | Location | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "RunResults":
    """Score a trained classifier, yours or published, on any corpus; nothing is trained.

    A checkpoint that lacks weights is refused. If the model was trained on the corpus, all its
    scores are marked CONTAMINATED.

    Parameters
    ----------
    model : str or Path
        Hub id or local folder of a trained audio classifier, as it was published.
    data, manifest, skip_bad
        As :func:`extract` takes them.
    options : TargetOptions
        What is predicted.
    out, name
        As :func:`fit` takes them.
    model_map : mapping of str to str, optional
        Rename a label of the model, such as ``hap=happy``; several may become one. By default
        labels are matched by name, or as the same emotion.
    revision : str, optional
        Commit, tag or branch of a hub id; by default ``main``.
    perturb : sequence of str
        Also score the clips perturbed, each way: noise:DB (signal-to-noise ratio), telephone,
        mp3:KBPS, reverb:S (reverberation time), gain:DB, clip:PERCENT (of the samples) or
        shorter:S. Several values are joined by commas: noise:20,10,0.
    batch_size : int
        Clips per batch.
    precision : {"float32", "bf16", "fp16"}
        Precision of matrix products; weights stay in float32.
    device : str
        Device to run on: ``auto`` is a GPU if there is one.
    provenance, track, say
        As :func:`extract` takes them.

    Returns
    -------
    RunResults
        As :func:`fit` returns it; the only head is called ``pretrained``.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If an option is invalid, or the labels of the model and of the clips do not match.
    MachineError
        If memory runs out, or the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> scored = serpipe.evaluate("superb/hubert-base-superb-er", "sample")  # doctest: +SKIP
    >>> scored.scores("pretrained")["uar"].value  # doctest: +SKIP
    0.42
    """
    about = provenance_of_call(evaluate, locals()) if provenance is None else provenance
    from ..features.names import check_checkpoint_name
    from ..features.perturbation import read_perturbations

    perturbations = read_perturbations("--perturb", perturb)
    model = str(model)
    check_checkpoint_name(model, "--model")
    from ..artifacts.models.find import BUNDLE_FILE
    from ..artifacts.report.report import headline
    from ..artifacts.run.record_evaluation import record_evaluation
    from ..artifacts.run.results import read_results
    from ..artifacts.run.summary import check_given_name
    from ..corpora.data import gather
    from ..features.devices import choose_devices
    from ..mirror import stored
    from ..pipeline.finetune.classifier import load_classifier
    from ..provenance import cores

    if (Path(model) / BUNDLE_FILE).is_file():
        raise UserError(
            f"--model {model}: is a bundle of `serpipe fit`, which has tested its head on other "
            "speakers; use `serpipe robustness RUN` for perturbed clips, or `serpipe predict` for "
            "other clips"
        )
    given_name = "" if name is None else check_given_name(name)
    device = choose_devices(device, "--device")[0]
    clips = gather(addresses(data), manifest, skip_bad=skip_bad, say=say)
    for error in clips.bad:
        say(f"skipped  {error}")
    say(f"model    {model}: loading")
    classifier = load_classifier(model, revision)
    checkpoint = classifier.checkpoint
    say(
        f"         {checkpoint.model_type}, revision {checkpoint.revision}, predicts "
        f"{', '.join(classifier.outputs)}; {precision} on {device}"
    )
    with nullcontext() if out is None else stored(out, say) as folder:
        run = record_evaluation(
            clips,
            classifier,
            options,
            model_map=model_map or {},
            batch_size=batch_size,
            precision=precision,
            device=device,
            provenance=about,
            out=folder,
            given_name=given_name,
            perturbations=perturbations,
            skip_bad=skip_bad,
            workers=cores(),
            track=track,
            say=say,
        )
    results = read_results(run)
    for line in headline(results):
        say(line)
    return results
