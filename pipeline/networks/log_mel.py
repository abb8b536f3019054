"""Log-mel features and MFCC in plain torch, and batch normalisation that ignores padding.

Windows, hops and filters are those in wide use for speech at 16 kHz:

- A window of 400 samples (25 ms) every 160 samples (10 ms), whole windows only: frame ``t`` covers
  samples ``160 t`` to ``160 t + 399``, and nothing is padded at either end.
- A periodic Hann window; the squared magnitude of a Fourier transform of 512 points, of which the
  last 112 are zeros.
- 64 triangular filters from 0 to 8000 Hz, evenly spaced on the mel scale of Slaney's Auditory
  Toolbox (Interval Research technical report 1998-010), linear below 1 kHz and logarithmic
  above; each has unit area over the frequencies in Hz.
- The natural logarithm; power below 1e-10 counts as 1e-10.
"""

import math
from typing import Protocol

import torch
from torch import nn

from ...errors import UserError

SAMPLING_RATE = 16000
WINDOW = 400
HOP = 160
FFT = 512
FILTERS = 64
FLOOR = 1e-10


class FrameExtractor(Protocol):
    """Computes the frames of one waveform."""

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return features, shape (n_frames, n_features), of a waveform, shape (n_samples,)."""


def mel_filters(n_filters: int) -> torch.Tensor:
    """Return triangular mel filters of unit area, shape (257, n_filters).

    They are in 1 / Hz: what the power at each point of the Fourier transform is multiplied by. Of
    more than 192, some would be empty, between two of these points.
    """
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        FFT // 2 + 1, n_filters, 0, SAMPLING_RATE / 2, SAMPLING_RATE, "slaney", "slaney"
    )
    return torch.from_numpy(filters).float()


def _frames(waveform: torch.Tensor) -> torch.Tensor:
    """Return a copy of the whole windows of a waveform, shape (n_frames, 400)."""
    # Sums over a view may run in another order, depending on where in a batch it is.
    return waveform.unfold(0, WINDOW, HOP).contiguous()


class LogMelFrames(nn.Module):
    """The logarithm of the power that passes each mel filter."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, n_filters: int = FILTERS) -> None:
        super().__init__()
        window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", mel_filters(n_filters), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Compute the features of one clip at 16 kHz, 400 samples at least, shape (n_samples,).

        The result has the shape (n_frames, n_filters).
        """
        spectrum = torch.fft.rfft(_frames(waveform) * self.window, n=FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        features: torch.Tensor = (power @ self.filters).clamp(min=FLOOR).log()
        return features


class Cepstrum(nn.Module):
    """Rate of zero crossings, root mean square, and mel-frequency cepstral coefficients.

    The coefficients are the first ones, from the zeroth on, of the orthonormal discrete cosine
    transform (type II) of 64 log-mel features.
    """

    basis: torch.Tensor

    def __init__(self, n_coefficients: int) -> None:
        super().__init__()
        self.log_mel = LogMelFrames()
        n_filters = self.log_mel.filters.shape[1]
        position = torch.arange(n_filters, dtype=torch.float64)[:, None] + 0.5
        order = torch.arange(n_coefficients, dtype=torch.float64)
        basis = torch.cos(math.pi / n_filters * position * order) * math.sqrt(2 / n_filters)
        basis[:, 0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Compute the features of one clip at 16 kHz, 400 samples at least, shape (n_samples,).

        The result has the shape (n_frames, 2 + n_coefficients): first the fraction of neighbouring
        samples in the window between which the sign changes (zero counts as positive), then the
        root mean square of the window.
        """
        frames = _frames(waveform)
        negative = frames < 0
        crossings = (negative[:, 1:] != negative[:, :-1]).to(frames.dtype).mean(dim=1)
        loudness = frames.square().mean(dim=1).sqrt()
        coefficients = self.log_mel(waveform) @ self.basis
        return torch.cat([crossings[:, None], loudness[:, None], coefficients], dim=1)


def batch_features(
    extractor: FrameExtractor, waveforms: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the features of a padded batch, one clip at a time.

    The sums of a matrix product depend on its size; this way a clip's features are the same to the
    last bit, whatever batch it is in.

    Parameters
    ----------
    extractor : FrameExtractor
        Such as :class:`LogMelFrames`.
    waveforms : Tensor of float32, shape (n_clips, n_samples)
        At 16 kHz. What lies beyond a clip's length is never read.
    lengths : Tensor of int64, shape (n_clips,)
        Samples of each clip.

    Returns
    -------
    features : Tensor of float32, shape (n_clips, n_frames, n_features)
        Zero beyond a clip's frames.
    valid : Tensor of bool, shape (n_clips, n_frames)
        Which frames are a clip's own.

    Raises
    ------
    UserError
        If the shapes do not agree, or a clip is shorter than one window or longer than its row.
    """
    if waveforms.ndim != 2 or lengths.shape != waveforms.shape[:1] or not len(waveforms):
        raise UserError(
            f"a batch of waveforms of shape {tuple(waveforms.shape)} and lengths of shape "
            f"{tuple(lengths.shape)}; the shapes must be (n_clips, n_samples) and (n_clips,)"
        )
    samples: list[int] = lengths.tolist()
    for row, n_samples in enumerate(samples):
        if not WINDOW <= n_samples <= waveforms.shape[1]:
            raise UserError(
                f"clip {row} of a batch: has a length of {n_samples} samples, which must be "
                f"{WINDOW} (25 ms) to {waveforms.shape[1]} (the width of the batch)"
            )
    features = [
        extractor(waveform[:n_samples])
        for waveform, n_samples in zip(waveforms, samples, strict=True)
    ]
    counts = torch.tensor([len(one) for one in features], device=waveforms.device)
    valid = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    return nn.utils.rnn.pad_sequence(features, batch_first=True), valid


class FrameNorm(nn.BatchNorm1d):
    """Batch normalisation over the clips' own frames, without those of padding."""

    # A signature that differs from the parent's on purpose: without a mask it would be wrong.
    def forward(  # type: ignore[override]
        self, frames: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Normalise each feature of a padded batch, shape (n_clips, n_frames, n_features).

        ``valid``, shape (n_clips, n_frames), says which frames are a clip's own; the others become
        zero.
        """
        scaled = torch.zeros_like(frames)
        scaled[valid] = super().forward(frames[valid])
        return scaled
