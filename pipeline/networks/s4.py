"""A sequence classifier of diagonal state space layers, S4D, on log-mel features.

A. Gu, K. Goel, A. Gupta and C. Ré, "On the Parameterization and Initialization of Diagonal State
Space Models", NeurIPS 2022, https://arxiv.org/abs/2206.11893. Every feature ``u`` of a layer goes
through a linear system of its own,

    x'(t) = A x(t) + B u(t),    y(t) = C x(t) + D u(t),

with a diagonal complex A. States come in conjugate pairs, of which one is stored: the real output
is twice the real part. Under a zero-order hold with step dt it becomes, with z = exp(dt A),

    x[l] = z x[l - 1] + (z - 1) / A · B u[l],    y[l] = 2 Re(C x[l]) + D u[l],

which is also the causal convolution of u with K[l] = 2 Re(sum over n of C B (z - 1) / A · z^l), a
product with a Vandermonde matrix, plus D u[l].

As in the authors' minimal version (``models/s4/s4d.py`` of github.com/state-spaces/s4), B is 1 and
is not trained, as only its product with C counts; C and D are drawn from normal distributions of
variance 1; the real part of A is kept negative by training its logarithm. Their code trains dt and
A without weight decay and at a rate of at most 0.001, which is left to the caller.

The layers around it (their number and width, layer norm before each, mean over frames) and the
log-mel features, scaled by running means and deviations of the training clips, were chosen here.
"""

import math
from typing import Literal

import torch
from torch import nn

from .log_mel import FILTERS, FrameNorm, LogMelFrames, batch_features

#: First values of A: S4D-Lin or S4D-Inv.
Start = Literal["lin", "inv"]
#: Number of layers, and features of a frame in them.
LAYERS, WIDTH = 4, 64
#: States of each system, with their conjugates; an even number.
STATE = 64
#: In each layer and after it.
DROPOUT = 0.1


def start_of_a(start: Start, state: int) -> torch.Tensor:
    """Return the published first values of A, without their conjugates, complex128.

    They are those of S4D-Lin, ``-1/2 + i π n``, or of S4D-Inv, ``-1/2 + i N/π (N / (2 n + 1) -
    1)``, for n from 0 to N / 2 - 1, where N, an even number, is ``state``: that of the states with
    their conjugates.
    """
    n = torch.arange(state // 2, dtype=torch.float64)
    imaginary = math.pi * n if start == "lin" else state / math.pi * (state / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), imaginary)


class S4D(nn.Module):
    """Diagonal state space systems, one to a feature, then GELU, dropout and a gated mix of all.

    ``state``, an even number, is that of the states of each system with their conjugates; ``start``
    names the first values of A. The first steps are drawn evenly on a logarithmic scale from
    ``dt_min`` to ``dt_max``.
    """

    def __init__(
        self,
        width: int,
        state: int,
        start: Start = "lin",
        dropout: float = 0.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        a = start_of_a(start, state).to(torch.complex64).expand(width, -1)
        span = math.log(dt_max) - math.log(dt_min)
        self.log_dt = nn.Parameter(math.log(dt_min) + span * torch.rand(width))
        self.log_minus_a_real = nn.Parameter(torch.log(-a.real))
        self.a_imaginary = nn.Parameter(a.imag.clone())
        # Real pairs, so that `.double()` and optimisers treat them like all others.
        c = torch.randn(width, state // 2, dtype=torch.complex64)
        self.c = nn.Parameter(torch.view_as_real(c).clone())
        self.d = nn.Parameter(torch.randn(width))
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(width, 2 * width)

    def discrete(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Hold the input over each step.

        Return, complex64, shape (width, state / 2) each, the logarithm of what a state is
        multiplied by from frame to frame, and what a frame adds to a state.
        """
        a = torch.complex(-self.log_minus_a_real.exp(), self.a_imaginary)
        dt_a = self.log_dt.exp()[:, None] * a
        return dt_a, (dt_a.exp() - 1) / a

    def kernel(self, n_frames: int) -> torch.Tensor:
        """Return the impulse response of the systems, without D, shape (width, n_frames)."""
        dt_a, gain = self.discrete()
        steps = torch.arange(n_frames, device=dt_a.device)
        vandermonde = (dt_a[..., None] * steps).exp()
        weights = torch.view_as_complex(self.c) * gain
        return 2 * torch.einsum("hn,hnl->hl", weights, vandermonde).real

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Process all frames at once, shape (n_clips, n_frames, width), by a convolution.

        Padding comes last: no frame depends on a later one.
        """
        n_frames = frames.shape[1]
        size = 2 * n_frames  # so that the convolution does not wrap around
        kernel = torch.fft.rfft(self.kernel(n_frames), n=size).T
        spectrum = torch.fft.rfft(frames, n=size, dim=1)
        output = torch.fft.irfft(spectrum * kernel, n=size, dim=1)[:, :n_frames]
        return self._gate(output + self.d * frames)

    def _gate(self, output: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(self.dropout(nn.functional.gelu(output)))
        return nn.functional.glu(mixed, dim=-1)


class S4Network(nn.Module):
    """The whole network, with S4D-Lin: 71,880 parameters for 8 outputs, 71,425 for one."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.extractor = LogMelFrames()
        self.scale = FrameNorm(FILTERS, affine=False)
        self.inlet = nn.Linear(FILTERS, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.layers = nn.ModuleList(S4D(WIDTH, STATE, dropout=DROPOUT) for _ in range(LAYERS))
        self.dropout = nn.Dropout(DROPOUT)
        self.last_norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, n_outputs)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Compute logits as :meth:`serpipe.pipeline.networks.cnn.Cnn.forward` does."""
        features, valid = batch_features(self.extractor, waveforms, lengths)
        frames = self.inlet(self.scale(features, valid))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            frames = frames + self.dropout(layer(norm(frames)))
        own = self.last_norm(frames) * valid[..., None]
        mean = own.sum(dim=1) / valid.sum(dim=1, keepdim=True)
        logits: torch.Tensor = self.head(mean)
        return logits
