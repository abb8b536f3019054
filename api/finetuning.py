"""Train end to end: ``serpipe.finetune``."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..features.names import DEFAULT_ENCODER, OPENSMILE
from ..pipeline.finetune.options import TrainingOptions
from ..pipeline.options import FoldOptions, Protocol
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .fitting import open_ratings
from .shared import (
    addresses,
    provenance_of_call,
    with_typed_errors,
    workers,
)

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults


@dataclass(frozen=True)
class FineTuned:
    """What a training came to.

    Attributes
    ----------
    results : RunResults
        Scores, out-of-fold predictions and the folder (``.run``), as of :func:`serpipe.fit`.
    probe : RunResults or None
        The frozen probe that the training is compared with.
    """

    results: "RunResults"
    probe: "RunResults | None" = None


@with_typed_errors
def finetune(
    data: str | Location | Sequence[str | Location] = (),
    folds: FoldOptions = FoldOptions(split="kfold:5"),
    training: TrainingOptions | None = None,
    *,
    manifest: str | Location | None = None,
    encoder: str | Path = DEFAULT_ENCODER,
    network: str | None = None,
    revision: str | None = None,
    ratings: str | Location | None = None,
    device: str = "auto",
    cluster: str | None = None,
    max_folds: int | None = None,
    export_final: bool = True,
    probe: str | Location = "",
    random_head: bool = False,
    tensorboard: bool = False,
    out: str | Location | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> FineTuned:
    """Train an encoder, or a small network, end to end and test it on held-out speakers.

    The folds are those of :func:`fit`. In each, a fifth of the training speakers validates: the
    epoch is selected on them. A stopped run resumes after its last finished epoch.

    Parameters
    ----------
    data, manifest, skip_bad
        As :func:`extract` takes them.
    folds : FoldOptions
        What is predicted, and how clips are divided; every fold is one training. By default
        ``FoldOptions(split="kfold:5")``.
    training : TrainingOptions, optional
        How the encoder or the network is trained; by default ``TrainingOptions()``, or
        ``TrainingOptions.for_networks()``.
    encoder : str or Path
        Hub id or local folder of a speech encoder.
    network : {"cnn", "s4"}, optional
        Train this small network from scratch instead of an encoder.
    revision : str, optional
        Commit, tag or branch of a hub id. The default encoder is pinned; of others ``main``.
    ratings, out, name
        As :func:`fit` takes them.
    device : str
        Device to train on: ``auto`` and ``cuda`` use all GPUs, one fold on each.
    cluster : str, optional
        As :func:`extract` takes it.
    max_folds : int, optional
        Train only the first folds, as a trial; by default all.
    export_final : bool
        Finally train on all speakers (but those of a held-out test) and save the model, for
        transformers.
    probe : str or Path
        The frozen probe that the head starts from and the result is tested against: ``make``
        extracts and fits it first, as :func:`extract` and :func:`fit` do; ``none``; or a run. By
        default ``make``, for a network ``none``.
    random_head : bool
        Start from a random head although there is a probe.
    tensorboard : bool
        Write logs to RUN/tensorboard.
    provenance, track, say
        As :func:`extract` takes them.

    Returns
    -------
    FineTuned

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If an option is invalid, or an optional package is not installed.
    MachineError
        If memory runs out, or the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> tuned = serpipe.finetune("sample", network="cnn")  # doctest: +SKIP
    >>> tuned.results.scores("cnn")["uar"].value  # doctest: +SKIP
    0.31
    """
    about = provenance_of_call(finetune, locals()) if provenance is None else provenance
    from importlib.util import find_spec

    from ..artifacts.run.summary import check_given_name
    from ..features.names import check_checkpoint_name

    given_name = "" if name is None else check_given_name(name)
    encoder = str(encoder)
    if network is None:
        check_checkpoint_name(encoder)
        if encoder.startswith(OPENSMILE):
            raise UserError(f"--encoder {encoder}: has no weights to train; name another encoder")
    for package, extra in (("accelerate", "finetune"), ("tensorboard", "tensorboard")):
        if find_spec(package) is None and (package == "accelerate" or tensorboard):
            raise UserError(
                f"finetune: {package} is not installed; "
                f"install it with: pip install 'serpipe[{extra}]'"
            )
    from ..artifacts.report.report import headline
    from ..artifacts.run.record_finetune import probe_advice, record_finetuning
    from ..artifacts.run.record_probe import record_probe
    from ..artifacts.run.results import read_results
    from ..corpora.data import gather
    from ..features.checkpoint import load_checkpoint
    from ..features.devices import choose_devices
    from ..mirror import local, stored
    from ..pipeline.finetune.kinds import EncoderWithHead, Network
    from ..provenance import cores, versions

    devices = choose_devices(device, "--device")
    defaults = TrainingOptions.for_networks() if network else TrainingOptions()
    options = replace(training or defaults, seed=folds.seed)
    options.check(devices[0])
    if network:
        options.check_network()
    if max_folds is not None and probe == "make":
        raise UserError(
            f"--probe make with --max-folds {max_folds}: a probe is tested on all folds; "
            "omit one of the two"
        )
    probe = probe or ("none" if network or max_folds is not None else "make")
    if network and probe == "make":
        raise UserError(
            f"--probe make with --network {network}: a network has no frozen probe of its own; "
            "omit --probe, or name a run to compare with"
        )
    frozen = None if probe in ("make", "none") else read_results(local(probe, say))
    clips = gather(addresses(data), manifest, skip_bad=skip_bad, say=say)
    rated = open_ratings(ratings, folds.target, say)
    protocol = Protocol(**vars(folds))
    kind: EncoderWithHead | Network
    if network:
        kind = Network(network, options)
        say(f"network  {network}, from scratch, {options.precision} on {', '.join(devices)}")
    else:
        say(f"encoder  {encoder}: loading")
        kind = EncoderWithHead(load_checkpoint(encoder, revision), options, encoder)
        say(
            f"         {kind.checkpoint.model_type}, revision {kind.checkpoint.revision}, "
            f"{options.precision} on {', '.join(devices)}"
        )
    if probe == "make":
        made = record_probe(
            clips,
            encoder,
            revision,
            protocol,
            ratings=rated,
            devices=devices,
            provenance=about,
            skip_bad=skip_bad,
            jobs=cores(),
            track=track,
        )
        frozen = read_results(made)
        say(f"probe    frozen, the same folds: {made}")
    trained_by = ("accelerate", "peft") if options.lora else ("accelerate",)
    with (
        nullcontext() if out is None else stored(out, say) as folder,
        workers(cluster, say) as connection,
    ):
        run = record_finetuning(
            clips,
            kind,
            options,
            protocol,
            devices=devices,
            cluster=connection,
            given_name=given_name,
            max_folds=max_folds,
            export=export_final,
            ratings=rated,
            probe=frozen,
            start=not random_head,
            logs=tensorboard,
            provenance={**about, "versions": {**about.get("versions", {}), **versions(trained_by)}},
            out=folder,
            skip_bad=skip_bad,
            workers=cores(),
            track=track,
            say=say,
        )
    results = read_results(run)
    for line in (*(f"warning  {each}" for each in results.summary.warnings), *headline(results)):
        say(line)
    if not frozen and not network:
        say(probe_advice(run))
    if (run / "model").is_dir():
        say(f"model    saved{'' if network else ' for transformers'}: {run / 'model'}")
    return FineTuned(results, frozen)
