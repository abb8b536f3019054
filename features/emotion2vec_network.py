"""The encoder of emotion2vec, in plain PyTorch, from its published architecture.

It is that of data2vec 2.0 for speech (Baevski et al., 2023, *Efficient Self-supervised Learning
with Contextualized Target Representations for Vision, Speech and Language*, ICML), as Ma et al.
(2024), *emotion2vec: Self-Supervised Pre-Training for Speech Emotion Representation*, Findings of
ACL, trained it: strided convolutions with layer norms, several positional convolutions, extra
tokens before the frames, and post-norm transformer blocks whose attention has linear biases (ALiBi)
with learnt scales. Only what inference needs is here: no masking, dropout, decoder or teacher.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Emotion2vecConfig:
    """What the shape and the numbers of an encoder depend on, beside its weights."""

    #: Whether each clip is scaled to zero mean and unit variance first.
    normalise: bool
    #: Channels, kernel and stride of each convolution over the samples.
    convolutions: tuple[tuple[int, int, int], ...]
    width: int
    n_heads: int
    feed_forward: int
    #: The blocks of the prenet come first: together they are the blocks of the encoder.
    n_prenet_blocks: int
    n_main_blocks: int
    n_extra_tokens: int
    n_positional: int
    positional_kernel: int
    positional_groups: int
    norm_epsilon: float

    @property
    def n_blocks(self) -> int:
        """The number of transformer blocks."""
        return self.n_prenet_blocks + self.n_main_blocks


class Emotion2vec(nn.Module):
    """The encoder, from normalised waveforms at 16 kHz to hidden states, 50 per second.

    A clip has the same states in a padded batch as alone: padding is zeroed before each positional
    convolution, and the attention does not read it.
    """

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.config = config
        channels = (1, *(each[0] for each in config.convolutions))
        self.convolutions = nn.ModuleList(
            Convolution(n_in, *each)
            for n_in, each in zip(channels, config.convolutions, strict=False)
        )
        self.projection_norm = nn.LayerNorm(channels[-1])
        self.projection = nn.Linear(channels[-1], config.width)
        self.positions = nn.ModuleList(
            nn.Conv1d(
                config.width,
                config.width,
                config.positional_kernel,
                padding=config.positional_kernel // 2,
                groups=config.positional_groups,
            )
            for _ in range(config.n_positional)
        )
        self.extra_tokens = nn.Parameter(torch.zeros(1, config.n_extra_tokens, config.width))
        self.alibi_scale = nn.Parameter(torch.ones(1, 1, config.n_heads, 1, 1))
        self.norm = _norm(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden states after the last block.

        ``input_values``, shape (n_clips, n_samples), are padded with zeros at the end where
        ``attention_mask``, of the same shape, is 0. The result has the shape (n_clips, n_frames,
        width), without the extra tokens, and with meaningless frames where a clip has ended.
        """
        states = input_values[:, None]
        for convolution in self.convolutions:
            states = convolution(states)
        states = self.projection(self.projection_norm(states.transpose(1, 2)))
        valid = None
        if attention_mask is not None:
            valid = self.valid_frames(attention_mask, states.shape[1])
        states = states + self._positional(states, valid)
        tokens = self.extra_tokens.expand(len(states), -1, -1)
        states = self.norm(torch.cat([tokens, states], dim=1))
        bias = self._attention_bias(states, valid)
        for block in self.blocks:
            states = block(states, bias)
        return self.without_extra_tokens(states)

    def without_extra_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of the frames, from those of extra tokens and frames."""
        return states[:, self.config.n_extra_tokens :]

    def valid_frames(self, attention_mask: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Return which frames are whole frames of a clip: bool, shape (n_clips, n_frames)."""
        counts = attention_mask.sum(dim=1)
        for _, kernel, stride in self.config.convolutions:
            counts = torch.div(counts - kernel, stride, rounding_mode="floor") + 1
        return torch.arange(n_frames, device=counts.device) < counts[:, None]

    def _positional(self, states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        n_frames = states.shape[1]
        for convolution in self.positions:
            if valid is not None:  # alone, a clip is followed by zeros in each of them
                states = torch.where(valid[:, :, None], states, 0.0)
            # An even kernel gives one frame too many.
            mixed = convolution(states.transpose(1, 2))[:, :, :n_frames].transpose(1, 2)
            states = F.gelu(F.layer_norm(mixed, mixed.shape[-1:]))
        return states

    def _attention_bias(self, states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Return what is added to the attention scores, float32.

        Its shape is (1 or n_clips, n_heads, n_tokens, n_tokens). Extra tokens are at no distance of
        any frame.
        """
        n_extra, device = self.config.n_extra_tokens, states.device
        frames = torch.arange(states.shape[1] - n_extra, device=device)
        distances = (frames[None, :] - frames[:, None]).abs().float()
        slopes = torch.tensor(alibi_slopes(self.config.n_heads), device=device)[:, None, None]
        scale = self.alibi_scale.float().clamp_min(0)[0]
        bias = F.pad(-distances * slopes * scale, (n_extra, 0, n_extra, 0))
        if valid is not None:
            padding = F.pad(~valid, (n_extra, 0), value=False)[:, None, None, :]
            bias = bias.masked_fill(padding, -math.inf)
        return bias


class Convolution(nn.Module):
    """A strided convolution over time, a layer norm over its channels, GELU."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(n_in, n_out, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(n_out)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Convolve states of shape (n_clips, n_in, n_steps)."""
        normed = self.norm(self.convolution(states).transpose(1, 2))
        return F.gelu(normed.transpose(1, 2))


class Block(nn.Module):
    """A transformer block with a norm after the attention and after the feed-forward layers."""

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.attention_output = nn.Linear(config.width, config.width)
        self.norm1 = _norm(config)
        self.expand = nn.Linear(config.width, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.width)
        self.norm2 = _norm(config)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the next states, of the same shape (n_clips, n_tokens, width)."""
        heads = self.qkv(states).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        # In float32, in which the biases of distant frames are exact.
        query, key, value = heads.float()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = mixed.transpose(1, 2).flatten(2).to(states.dtype)
        states = self.norm1(states + self.attention_output(mixed))
        normed: torch.Tensor = self.norm2(states + self.contract(F.gelu(self.expand(states))))
        return normed


def alibi_slopes(n_heads: int) -> list[float]:
    """Return the slope of the attention bias of each head.

    They are geometric sequences from Press et al. (2022), *Train Short, Test Long: Attention with
    Linear Biases Enables Input Length Extrapolation*, ICLR; if the number of heads is no power of
    two, every second slope of the next power of two follows.
    """
    power = 2 ** int(math.log2(n_heads))
    slopes = [2.0 ** (-8 * number / power) for number in range(1, power + 1)]
    between = [2.0 ** (-8 * number / (2 * power)) for number in range(1, 2 * power + 1, 2)]
    return slopes + between[: n_heads - power]


def _norm(config: Emotion2vecConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, config.norm_epsilon)
