"""A one-dimensional convolutional network with an LSTM and attention, after Alsabhan (2023).

W. Alsabhan, "Human-Computer Interaction with a Real-Time Speech Emotion Recognition with
Ensembling Techniques 1D Convolution Neural Network and Attention", Sensors 23(3), 1386, 2023,
https://doi.org/10.3390/s23031386.

Only the abstract was available when this was written, not the body with its tables and figures.
From the abstract: the features are the rate of zero crossings, the root mean square energy and
mel-frequency cepstral coefficients; one of its two models is a one-dimensional CNN combined with an
LSTM and attention (the other, a two-dimensional CNN, is not implemented).

What the abstract does not say was chosen here, and may differ from the paper: 20 coefficients, over
windows of 25 ms every 10 ms (:mod:`.log_mel`); 3 convolutions of 64 channels over 5 frames, each
with batch normalisation, ReLU, a maximum over 2 frames and dropout; an LSTM that runs forward only,
64 wide; additive attention over its outputs, after Bahdanau et al. (2015); the order convolutions,
LSTM, attention; features scaled by running means and deviations of the training clips. The paper's
augmentation and training schedule, if it has any, are not implemented either. So this is a network
of that kind, and its scores say nothing about the paper's.
"""

import torch
from torch import nn

from .log_mel import Cepstrum, FrameNorm, batch_features

#: Cepstral coefficients of a frame.
COEFFICIENTS = 20
#: Number of convolutions, which halve the number of frames, and how many frames each spans.
BLOCKS, KERNEL = 3, 5
#: Width of the convolutions, the LSTM and the attention.
CHANNELS = 64
#: After each convolution and before the last layer.
DROPOUT = 0.2


class Block(nn.Module):
    """Convolution, batch normalisation, ReLU, the maximum of every two frames, dropout."""

    def __init__(self, n_inputs: int, n_channels: int) -> None:
        super().__init__()
        # Without a bias, which the normalisation would remove.
        self.convolution = nn.Conv1d(n_inputs, n_channels, KERNEL, padding="same", bias=False)
        self.norm = FrameNorm(n_channels)
        self.pool = nn.MaxPool1d(2, ceil_mode=True)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, frames: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Halve the number of frames, rounded up; return the new frames and which are valid.

        Frames, shape (n_clips, n_frames, n_inputs), must be zero where not valid, as beyond the end
        of the batch, where the convolution pads; the returned ones are, too.
        """
        convolved = self.convolution(frames.transpose(1, 2)).transpose(1, 2)
        # No value is below zero then, so that the zeros of padding never win over a clip's own.
        rectified = self.norm(convolved, valid).relu()
        pooled = self.pool(rectified.transpose(1, 2)).transpose(1, 2)
        return self.dropout(pooled), valid[:, ::2]


class Attention(nn.Module):
    """A weighted mean over a clip's frames; the weights are learnt from the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, frames: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pool frames of a padded batch, shape (n_clips, n_frames, width), to (n_clips, width).

        At least one frame of every clip must be valid.
        """
        scores: torch.Tensor = self.score(self.hidden(frames).tanh())
        weights = scores.masked_fill(~valid[..., None], -torch.inf).softmax(dim=1)
        return (weights * frames).sum(dim=1)


class Cnn(nn.Module):
    """The whole network: 86,408 parameters for 8 outputs, 85,953 for one."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        n_features = 2 + COEFFICIENTS
        self.extractor = Cepstrum(COEFFICIENTS)
        self.scale = FrameNorm(n_features, affine=False)
        self.blocks = nn.ModuleList(
            Block(CHANNELS if index else n_features, CHANNELS) for index in range(BLOCKS)
        )
        self.lstm = nn.LSTM(CHANNELS, CHANNELS, batch_first=True)
        self.attention = Attention(CHANNELS)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(CHANNELS, n_outputs)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Compute logits, shape (n_clips, n_outputs).

        The waveforms, shape (n_clips, n_samples), are at 16 kHz, padded at their ends with
        anything; a clip has 400 samples at least. Raise UserError if the shapes do not agree, or a
        clip is too short.
        """
        features, valid = batch_features(self.extractor, waveforms, lengths)
        frames = self.scale(features, valid)
        for block in self.blocks:
            frames, valid = block(frames, valid)
        # It runs forward and padding comes last, so it does not affect a clip's own frames.
        frames, _ = self.lstm(frames)
        logits: torch.Tensor = self.head(self.dropout(self.attention(frames, valid)))
        return logits
