"""The exported torch module: from samples to scores, front end included."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ...features.audio import SILENCE_PEAK
from ...features.checkpoint import Checkpoint
from ...features.families.whisper import compute_valid_frames_only
from ...features.front_end import FrontEnd, LogMelFrontEnd
from ...features.names import FINAL_NORM
from ...features.padding import ValidForAll, check_channel_norm, scale_channels
from ...features.pooling import hook_layers
from ..models.bundle import BundleSummary
from .heads import HeadOutput


class Graph(nn.Module):
    """A model from samples to scores.

    ``prepare`` takes samples, float32, shape (n_clips, n_samples); ``embed`` takes what it returns
    and the number of samples; ``head`` takes the embeddings and returns
    :data:`~serpipe.artifacts.onnx_export.heads.HeadOutput`. ``shortest`` and ``longest`` are the
    limits of a clip, in samples; ``two_frames`` is the length of the shortest clip of two frames,
    from which torch traces: it treats a size of 1 as a special case, and would otherwise trace
    everything twice to find this limit.
    """

    def __init__(
        self,
        prepare: nn.Module,
        embed: nn.Module,
        head: nn.Module,
        shortest: int,
        longest: int | None,
        two_frames: int,
    ) -> None:
        super().__init__()
        self.prepare, self.embed, self.head = prepare, embed, head
        self.shortest, self.longest, self.two_frames = shortest, longest, two_frames

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score mono clips of one length, full scale 1, shape (n_clips, n_samples).

        Returns
        -------
        scores : Tensor of float32, shape (n_clips, n_outputs)
            NaN for input that serpipe refuses: silence, clips that are too short or too long,
            samples that are not finite.
        label_index : Tensor of int64, shape (n_clips,)
            Index of the chosen label, -1 where scores are NaN; omitted for ratings.
        """
        n_samples = audio.shape[1]
        count = torch.full((1,), n_samples, dtype=torch.int64)
        peak = audio.abs().amax(dim=1)
        # Not by the peak: runtimes may ignore NaN in a maximum.
        is_finite = torch.isfinite(audio).all(dim=1)
        is_good = (count >= self.shortest) & (peak >= SILENCE_PEAK) & is_finite
        if self.longest is not None:
            is_good = is_good & (count <= self.longest)
        scores, chosen = self.head(self.embed(self.prepare(audio), n_samples))
        scores = torch.where(is_good[:, None], scores.float(), math.nan)
        return (scores,) if chosen is None else (scores, torch.where(is_good, chosen, -1))


class Normalised(nn.Module):
    """Normalise each clip to zero mean and unit variance, if requested."""

    def __init__(self, is_requested: bool) -> None:
        super().__init__()
        self.is_requested = is_requested

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Scale samples, float32, shape (n_clips, n_samples)."""
        if not self.is_requested:
            return audio
        # Runtimes sum so many float32 less exactly than numpy.
        exact = audio.double()
        centred = exact - exact.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return (centred / (variance + 1e-7).sqrt()).float()


class WhisperLogMel(nn.Module):
    """Whisper's spectrogram, with the parameters of the checkpoint's own extractor.

    The Fourier transform is a convolution with sines and cosines.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        size, self.hop, self.window = extractor.n_fft, extractor.hop_length, extractor.n_samples
        self.n_bins = size // 2 + 1
        turns = np.outer(np.arange(self.n_bins), np.arange(size)) / size
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        waves = np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)]) * hann
        self.register_buffer("waves", torch.from_numpy(waves[:, None].astype(np.float32)))
        filters = np.asarray(extractor.mel_filters.T, np.float32).copy()
        self.register_buffer("filters", torch.from_numpy(filters))
        self.edge = size // 2

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the spectrogram of the whole window, shape (n_clips, n_mels, n_steps)."""
        padded = nn.functional.pad(audio, (0, self.window - audio.shape[1]))
        # Mirrored at the start, as the Fourier transform of torch does at both ends.
        mirrored = nn.functional.pad(padded[:, None], (self.edge, self.edge), mode="reflect")
        spectrum = nn.functional.conv1d(mirrored, self.get_buffer("waves"), stride=self.hop)
        parts = spectrum[..., :-1].square()
        power = parts[:, : self.n_bins] + parts[:, self.n_bins :]
        logs = (self.get_buffer("filters") @ power).clamp(min=1e-10).log10()
        logs = torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (logs + 4.0) / 4.0


class PooledLayers(nn.Module):
    """An encoder up to the last layer that is needed, with its layers pooled and joined.

    The encoder of ``checkpoint`` is modified, and of no other use afterwards. ``bundle`` names the
    layers as the encoder does.
    """

    def __init__(self, checkpoint: Checkpoint, bundle: BundleSummary) -> None:
        super().__init__()
        self.encoder: Any = checkpoint.model
        self.front_end, self.has_window = checkpoint.front_end, checkpoint.family.has_window
        self.layers, self.how = tuple(bundle.layer["layers"]), str(bundle.layer["how"])
        self.poolings = bundle.pooling.split(",")
        self.is_half = bundle.encoder.get("dtype") == "float16"
        weights = torch.tensor([float(weight) for weight in bundle.layer_weights])
        self.register_buffer("weights", weights)
        self.states: dict[str, torch.Tensor] = {}
        stack = checkpoint.family.stack(self.encoder)
        if FINAL_NORM not in self.layers:
            del stack.blocks[max(1, *map(int, self.layers)) :]
        self.valid = ValidForAll()
        if self.has_window:
            compute_valid_frames_only(stack.blocks[-1], self.valid)
        # Layers have the names of serpipe.features.pooling.
        hook_layers(stack, self._keep, self._is_kept)

    def forward(self, inputs: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return embeddings, float32, shape (n_clips, n_features)."""
        self.states.clear()
        n_frames = self.front_end.frames(n_samples)
        self.valid.frames = [n_frames] if self.has_window else None
        self.encoder(inputs)
        pooled = [self._pool(self.states[layer], n_frames) for layer in self.layers]
        self.states.clear()
        if self.how == "concat":
            return torch.cat(pooled, dim=1)
        if self.how == "weighted":
            return (torch.stack(pooled, dim=2) * self.get_buffer("weights")).sum(dim=2)
        if self.how == "mean":
            return torch.stack(pooled, dim=2).mean(dim=2)
        (single,) = pooled
        return single

    def _pool(self, states: torch.Tensor, n_frames: int) -> torch.Tensor:
        if self.has_window:  # the others have no frame beyond the clip
            states = states[:, :n_frames]
        mean = states.mean(dim=1)
        pooled = []
        for pooling in self.poolings:
            variance = (states - mean[:, None]).square().mean(dim=1)
            pooled.append(mean if pooling == "mean" else variance.sqrt())
        joined = torch.cat(pooled, dim=1)
        return joined.half().float() if self.is_half else joined

    def _keep(self, layer: str, states: torch.Tensor) -> None:
        self.states[layer] = states

    def _is_kept(self, layer: str) -> bool:
        return layer in self.states


class SeveralEncoders(nn.Module):
    """Several encoders on the same samples, with their embeddings concatenated.

    Each of ``prepare`` takes samples, and its encoder in ``embed`` takes what it returns.
    """

    def __init__(self, prepare: Sequence[nn.Module], embed: Sequence[nn.Module]) -> None:
        super().__init__()
        self.prepare, self.embed = nn.ModuleList(prepare), nn.ModuleList(embed)

    def forward(self, audio: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return embeddings, float32, shape (n_clips, n_features)."""
        parts = zip(self.prepare, self.embed, strict=True)
        return torch.cat([embed(prepare(audio), n_samples) for prepare, embed in parts], dim=1)


class Logits(nn.Module):
    """A whole classifier of transformers, as a model for audio classification computes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return logits or ratings, float32, shape (n_clips, n_outputs)."""
        logits: torch.Tensor = self.model(inputs).logits
        return logits


class Probabilities(nn.Module):
    """From logits to the probability of each label; outputs of one name are summed.

    ``indices`` are the labels of the logits. Ratings are returned unchanged.
    """

    def __init__(self, indices: list[int], is_rating: bool) -> None:
        super().__init__()
        self.is_rating = is_rating
        self.register_buffer("members", nn.functional.one_hot(torch.tensor(indices)).float())

    def forward(self, logits: torch.Tensor) -> HeadOutput:
        """Score logits, shape (n_clips, n_logits)."""
        if self.is_rating:
            return logits, None
        probabilities = logits.softmax(dim=1) @ self.get_buffer("members")
        return probabilities, probabilities.argmax(dim=1)


def prepare_module(front_end: FrontEnd) -> nn.Module:
    """Return the module from samples to the input of an encoder."""
    scale = Normalised(front_end.normalise)
    if isinstance(front_end, LogMelFrontEnd):
        return nn.Sequential(scale, WhisperLogMel(front_end.extractor))
    return scale


def ready(graph: Graph) -> Graph:
    """Put a graph into evaluation mode in place, for runtimes that compute less exactly than torch.

    The mean of thousands of float32 is less exact in onnxruntime than in torch. In a group norm
    that shifts all frames of a channel a little, which the following layer norms amplify in frames
    of digital silence: scores differed by 6e-4. So group norms are replaced by exact ones.
    Parametrised weights are replaced by their values, too.
    """
    for module in list(graph.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, ExactGroupNorm(child))
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    return graph.eval().requires_grad_(False)


class ExactGroupNorm(nn.Module):
    """A group norm, one channel per group, whose mean over thousands of steps is exact."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        check_channel_norm(norm)
        self.norm = norm

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalise ``states`` of shape (n_clips, n_channels, n_steps); same shape back."""
        centred = states - _mean_over_steps(states)
        return scale_channels(self.norm, centred, _mean_over_steps(centred.square()))


def _mean_over_steps(states: torch.Tensor) -> torch.Tensor:
    """Sum in blocks, and these sums in float64: all steps in float64 would take much memory."""
    n_steps, size = states.shape[2], 256
    missing = size - 1 - (n_steps + size - 1) % size
    padded = nn.functional.pad(states, (0, missing))
    sums = padded.reshape(*states.shape[:2], -1, size).sum(dim=3).double()
    return (sums.sum(dim=2, keepdim=True) / n_steps).to(states.dtype)
