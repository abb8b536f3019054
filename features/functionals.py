"""Acoustic functionals of openSMILE as an encoder of one layer.

``opensmile:eGeMAPSv02`` and ``opensmile:ComParE_2016`` give each clip one vector: statistics over
the whole clip of low-level descriptors such as pitch, loudness and spectral slope.

References
----------
Eyben et al. (2016), *The Geneva minimalistic acoustic parameter set (GeMAPS) for voice research and
affective computing*, IEEE Transactions on Affective Computing.

Schuller et al. (2016), *The INTERSPEECH 2016 computational paralinguistics challenge: deception,
sincerity & native language*, Interspeech.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import UserError
from .audio import Waveform
from .encoder import Encoder, EncoderIdentity
from .names import FUNCTIONALS, OPENSMILE
from .padding import Valid
from .pooling import Pooled

#: The feature sets that can be named after ``opensmile:``.
FEATURE_SETS = ("eGeMAPSv02", "ComParE_2016")
SAMPLING_RATE = 16000


@dataclass(frozen=True)
class SamplesFrontEnd:
    """For openSMILE: the samples themselves, each of which counts as a frame."""

    sampling_rate: int = SAMPLING_RATE
    normalise: bool = False
    #: 62.5 ms; descriptors of a shorter clip are undefined.
    minimum_samples: int = 1000
    maximum_samples: None = None

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Stack clips as float32, shape (n_clips, n_samples), with zeros after shorter ones."""
        stacked = np.zeros((len(waveforms), max(map(len, waveforms))), np.float32)
        for row, waveform in enumerate(waveforms):
            stacked[row, : len(waveform)] = waveform
        return {"waveforms": torch.from_numpy(stacked)}

    def frames(self, n_samples: int) -> int:
        """Return ``n_samples``."""
        return n_samples


class Functionals(nn.Module):
    """An openSMILE feature set; it has no weights.

    Parameters
    ----------
    name : str
        ``opensmile:`` and one of ``FEATURE_SETS``.

    Raises
    ------
    UserError
        If there is no such feature set, or opensmile is not installed.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        feature_set = name.removeprefix(OPENSMILE)
        if feature_set not in FEATURE_SETS:
            known = " or ".join(f"{OPENSMILE}{each}" for each in FEATURE_SETS)
            raise UserError(f"{name}: no such feature set; choose {known}")
        try:
            import opensmile
        except ModuleNotFoundError as error:
            if error.name != "opensmile":
                raise
            raise UserError(
                f"{name}: opensmile is not installed; install it with: "
                "pip install 'serpipe[opensmile]' (free for research and private use; other uses "
                "need a licence from audEERING)"
            ) from None
        self.smile = opensmile.Smile(
            opensmile.FeatureSet[feature_set],
            opensmile.FeatureLevel.Functionals,
            sampling_rate=SAMPLING_RATE,
        )
        self.version = str(opensmile.__version__)

    @property
    def feature_names(self) -> list[str]:
        """Names of the functionals, in order."""
        return list(self.smile.feature_names)

    def forward(self, waveforms: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        """Return the functionals of clips, float32 of shape (n_clips, n_features).

        Of each row of ``waveforms``, shape (n_clips, n_samples), the first ``samples`` are used. A
        feature that is undefined for a clip is zero.
        """
        tables = [
            self.smile.process_signal(waveform[:n].numpy(), SAMPLING_RATE).to_numpy(np.float32)
            for waveform, n in zip(waveforms, samples, strict=True)
        ]
        return torch.from_numpy(np.concatenate(tables)).nan_to_num(0.0, 0.0, 0.0)


class FunctionalsPooler:
    """Returns functionals in the place of pooled hidden states: a layer of the mean pooling."""

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], frames: Sequence[int]
    ) -> Pooled:
        """Return the functionals of clips; ``frames`` is the number of samples of each."""
        return {"mean": {FUNCTIONALS: model(inputs["waveforms"], frames)}}


def load_functionals(
    name: str,
    *,
    revision: str | None = None,
    poolings: Sequence[str] = ("mean",),
    max_seconds: float | None = None,
    compile_blocks: bool = False,
    engine: str = "torch",
) -> Encoder:
    """Load an openSMILE feature set as an encoder, on the CPU and in float32.

    Parameters
    ----------
    name : str
        ``opensmile:eGeMAPSv02`` or ``opensmile:ComParE_2016``.
    revision, poolings, max_seconds, compile_blocks, engine
        As :func:`~serpipe.features.encoder.load_encoder` takes them; only their defaults are
        possible.

    Returns
    -------
    Encoder
        Of one layer, named ``functionals``.

    Raises
    ------
    UserError
        If there is no such feature set, an option is not for one, or opensmile is not installed.
    """
    for option, is_given in (
        (f"--pool {','.join(poolings)}", tuple(poolings) != ("mean",)),
        (f"--max-seconds {max_seconds}", max_seconds is not None),
        ("--compile", compile_blocks),
        (f"--engine {engine}", engine != "torch"),
        (f"--revision {revision}", revision is not None),
    ):
        if is_given:
            raise UserError(
                f"{option}: {name} computes statistics of whole clips, on the CPU and in its "
                "installed version; omit this option"
            )
    model = Functionals(name)
    folder = Path(model.smile.config_path).parent
    identity = EncoderIdentity(
        encoder=name,
        revision=model.version,
        # It has no weights: the version and the names decide what the numbers are.
        weights_sha256=_hash(each.encode() for each in (model.version, *model.feature_names)),
        config_sha256=_hash(each.read_bytes() for each in sorted(folder.iterdir())),
        model_type="opensmile",
        layers=(FUNCTIONALS,),
        width=len(model.feature_names),
        sampling_rate=SAMPLING_RATE,
        normalise=False,
    )
    return Encoder(
        identity=identity,
        front_end=SamplesFrontEnd(),
        device=torch.device("cpu"),
        precision="float32",
        poolings=("mean",),
        max_seconds=None,
        compiled=False,
        model=model,
        pooler=FunctionalsPooler(),
        valid=Valid(),
    )


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\n")
    return digest.hexdigest()
