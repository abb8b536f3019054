"""Networks trained from scratch: exact features, padding that changes nothing, published starts."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from serpipe.errors import UserError
from serpipe.features.audio import read_waveform
from serpipe.pipeline.finetune.network_model import NetworkModel, load_network, save_network
from serpipe.pipeline.networks import NETWORKS, s4
from serpipe.pipeline.networks.cnn import Cnn
from serpipe.pipeline.networks.log_mel import (
    Cepstrum,
    FrameNorm,
    LogMelFrames,
    batch_features,
    mel_filters,
)
from serpipe.pipeline.networks.s4 import S4D
from torch import nn
from transformers.audio_utils import mel_filter_bank

from .messages import raises_about

LENGTHS = (400, 16000, 7777, 560, 15999, 3210)

every_network = pytest.mark.parametrize("name", sorted(NETWORKS))


@pytest.fixture
def clip(sample: Path) -> np.ndarray:
    """Real speech."""
    return read_waveform(next(sample.rglob("*.flac")), 16000)[0]


def batch(padding: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Noises of several lengths, padded with a value."""
    waveforms = torch.full((len(LENGTHS), max(LENGTHS) + 1234), padding)
    draw = torch.Generator().manual_seed(0)
    for row, length in enumerate(LENGTHS):
        waveforms[row, :length] = 0.1 * torch.randn(length, generator=draw)
    return waveforms, torch.tensor(LENGTHS)


def warmed(name: str, n_outputs: int = 3) -> nn.Module:
    """A network in evaluation mode whose running statistics are no longer the first ones."""
    network = NETWORKS[name](n_outputs, 0)
    for _ in range(20):
        network(*batch(0.0))
    return network.eval()


def direct_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel features in float64, straight from the definition."""
    n = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    fourier = np.exp(-2j * np.pi * np.outer(n, np.arange(257)) / 512)
    filters = mel_filter_bank(257, 64, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    starts = range(0, len(waveform) - 399, 160)
    frames = np.stack([waveform[start : start + 400] for start in starts]).astype(np.float64)
    power = np.abs((frames * window) @ fourier) ** 2
    return np.asarray(np.log(np.maximum(power @ filters, 1e-10)))


@pytest.mark.parametrize("n_filters", [1, 40, 64, 80, 192])
def test_the_mel_filters_are_those_of_slaneys_formula(n_filters: int) -> None:
    log_step = math.log(6.4) / 27
    mels = np.linspace(0, 15 + math.log(8) / log_step, n_filters + 2)
    corners = np.where(mels < 15, 200 / 3 * mels, 1000 * np.exp(log_step * (mels - 15)))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    points = np.linspace(0, 8000, 257)[:, None]
    rising, falling = (points - low) / (middle - low), (high - points) / (high - middle)
    expected = np.maximum(np.minimum(rising, falling), 0) * 2 / (high - low)
    np.testing.assert_allclose(mel_filters(n_filters), expected, rtol=1e-6, atol=1e-9)
    assert (expected > 0).any(axis=0).all()


def test_log_mel_is_that_of_the_formula(clip: np.ndarray) -> None:
    ours = LogMelFrames()(torch.from_numpy(clip)).numpy()
    assert ours.shape == ((len(clip) - 400) // 160 + 1, 64)
    np.testing.assert_allclose(ours, direct_log_mel(clip), atol=2e-4)
    silence = LogMelFrames()(torch.zeros(1000)).numpy()
    np.testing.assert_allclose(silence, math.log(1e-10), rtol=1e-6)


def test_the_cepstrum_is_that_of_scipy(clip: np.ndarray) -> None:
    ours = Cepstrum(20)(torch.from_numpy(clip)).numpy()
    theirs = scipy.fft.dct(direct_log_mel(clip), type=2, norm="ortho")[:, :20]
    np.testing.assert_allclose(ours[:, 2:], theirs, atol=1e-3)


def test_zero_crossings_and_loudness_of_a_tone_are_known() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * (np.arange(4000) + 0.5) / 16000)
    ours = Cepstrum(20)(torch.from_numpy(tone.astype(np.float32)))
    # 25 periods to a window, two crossings to a period, one of them at the window's end.
    torch.testing.assert_close(ours[:, 0], torch.full((23,), 49 / 399))
    torch.testing.assert_close(ours[:, 1], torch.full((23,), 0.5 / math.sqrt(2)))


@pytest.mark.parametrize("extractor", [LogMelFrames(), Cepstrum(20)], ids=["log-mel", "cepstrum"])
def test_features_do_not_depend_on_the_batch_to_the_last_bit(extractor: nn.Module) -> None:
    waveforms, lengths = batch(math.nan)
    features, valid = batch_features(extractor, waveforms, lengths)
    for row, length in enumerate(LENGTHS):
        alone = extractor(waveforms[row, :length].clone())
        assert torch.equal(features[row][valid[row]], alone)
        assert len(alone) == (length - 400) // 160 + 1
        assert not features[row][~valid[row]].any()


def test_normalisation_counts_no_padding() -> None:
    frames = 5 + 3 * torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(50) < torch.tensor([[50], [20]])
    scaled = FrameNorm(4, affine=False)(torch.where(valid[..., None], frames, 1e6), valid)
    torch.testing.assert_close(scaled[valid].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[valid].std(dim=0, correction=0), torch.ones(4))
    assert not scaled[~valid].any()


@every_network
@pytest.mark.parametrize("n_outputs", [1, 8])
def test_padding_and_other_clips_change_no_logits(name: str, n_outputs: int) -> None:
    network = warmed(name, n_outputs)
    waveforms, lengths = batch(math.nan)
    with torch.no_grad():
        together = network(waveforms, lengths)
        alone = [
            network(waveforms[row : row + 1, :length], lengths[row : row + 1])
            for row, length in enumerate(LENGTHS)
        ]
    assert together.shape == (len(LENGTHS), n_outputs)
    assert together.dtype == torch.float32
    assert together.std(dim=0).min() > 1e-3  # the clips differ
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@every_network
def test_padding_changes_no_training_step(name: str) -> None:
    waveforms, lengths = batch(math.nan)
    wide = torch.cat([waveforms, torch.full((len(LENGTHS), 8000), 9.0)], dim=1)
    gradients = []
    for padded in (waveforms, wide):
        network = NETWORKS[name](2, 0)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        network(padded, lengths).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


@every_network
def test_gradients_reach_all_parameters(name: str) -> None:
    network = NETWORKS[name](3, 0)
    loss: Any = nn.functional.cross_entropy(network(*batch(0.0)), torch.arange(6) % 3)
    loss.backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 1e-6, parameter_name


@every_network
def test_the_seed_decides_the_weights_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = NETWORKS[name](3, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = NETWORKS[name](3, 7)
    other = NETWORKS[name](3, 8)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    outputs = [network.eval()(*batch(0.0)) for network in (first, second, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


@every_network
def test_tones_are_learnt(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    times = torch.arange(8000) / 16000
    pitches = torch.tensor([300.0, 600.0, 1200.0])[labels, None]
    phases = 2 * math.pi * torch.rand(60, 1, generator=draw)
    noise = 0.2 * torch.randn(60, 8000, generator=draw)
    waveforms = 0.1 * torch.sin(2 * math.pi * pitches * times + phases) + noise
    lengths = torch.full((60,), 8000)
    torch.manual_seed(0)  # of dropout
    network = NETWORKS[name](3, 0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        loss: Any = nn.functional.cross_entropy(network(waveforms, lengths), labels)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        predicted = network.eval()(waveforms, lengths).argmax(dim=1)
    assert (predicted == labels).sum() == 60


@every_network
def test_the_documented_numbers_of_parameters_are_true(name: str) -> None:
    docstring = {"cnn": Cnn, "s4": s4.S4Network}[name].__doc__
    assert docstring is not None
    match = re.search(r"([\d,]+) parameters for 8 outputs, ([\d,]+) for one", docstring)
    assert match is not None
    for n_outputs, number in zip((8, 1), match.groups(), strict=True):
        network = NETWORKS[name](n_outputs, 0)
        counted = sum(parameter.numel() for parameter in network.parameters())
        assert f"{counted:,}" == number


def recurrent(layer: S4D, frames: torch.Tensor) -> torch.Tensor:
    """Go through the frames one after the other."""
    dt_a, gain = layer.discrete()
    keep, c = dt_a.exp(), torch.view_as_complex(layer.c)
    states = keep.new_zeros(len(frames), *keep.shape)
    outputs = []
    for frame in frames.unbind(dim=1):
        states = keep * states + gain * frame[..., None]
        outputs.append(2 * (c * states).sum(dim=-1).real + layer.d * frame)
    return layer._gate(torch.stack(outputs, dim=1))


@pytest.mark.parametrize("start", ["lin", "inv"])
@pytest.mark.parametrize("n_frames", [1, 2, 37, 400])
def test_the_convolution_and_the_recurrence_agree(start: s4.Start, n_frames: int) -> None:
    torch.manual_seed(n_frames)
    layer = S4D(12, 64, start)
    with torch.no_grad():  # as after training
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        frames = torch.randn(3, n_frames, 12)
        torch.testing.assert_close(layer(frames), recurrent(layer, frames), atol=1e-4, rtol=0)
        layer, frames = layer.double(), frames.double()
        torch.testing.assert_close(layer(frames), recurrent(layer, frames), atol=1e-11, rtol=0)


def test_the_kernel_is_that_of_the_matrix_system() -> None:
    layer = S4D(3, 8, "inv").double()
    dt = layer.log_dt.exp().detach().numpy()
    half = s4.start_of_a("inv", 8).to(torch.complex64).numpy().astype(np.complex128)
    a = np.concatenate([half, half.conj()])  # with the conjugates that are not stored
    c = torch.view_as_complex(layer.c).detach().numpy()
    ours = layer.kernel(20).detach().numpy()
    for feature in range(3):
        both = np.concatenate([c[feature], c[feature].conj()])
        system = (np.diag(a), np.ones((8, 1)), both[None], np.zeros((1, 1)))
        ab, bb, cb, _, _ = scipy.signal.cont2discrete(system, dt[feature], method="zoh")
        theirs = [(cb @ np.linalg.matrix_power(ab, step) @ bb).item() for step in range(20)]
        np.testing.assert_allclose(ours[feature], theirs, rtol=1e-5, atol=1e-7)


def test_the_first_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    for start in ("lin", "inv"):
        layer = S4D(4000, 64, start)
        a = torch.complex(-layer.log_minus_a_real.exp(), layer.a_imaginary).detach().numpy()
        for n in range(32):
            published = {"lin": math.pi * n, "inv": 64 / math.pi * (64 / (2 * n + 1) - 1)}[start]
            np.testing.assert_allclose(a[:, n], -0.5 + 1j * published, rtol=1e-6)
        dt = layer.log_dt.exp().detach().numpy()
        assert dt.min() >= 0.001
        assert dt.max() <= 0.1
        quantiles = np.sort(np.log(dt / 0.001) / math.log(100))
        assert np.abs(quantiles - np.linspace(0, 1, 4000)).max() < 0.03  # Kolmogorov-Smirnov
        c = torch.view_as_complex(layer.c).detach()
        assert c.abs().square().mean().item() == pytest.approx(1, abs=0.02)
        assert c.mean().abs().item() < 0.01


def test_no_frame_depends_on_a_later_one() -> None:
    layer = S4D(6, 16).double()
    frames = torch.randn(1, 50, 6, dtype=torch.float64)
    changed = frames.clone()
    changed[:, 30:] = 100.0
    torch.testing.assert_close(layer(frames)[:, :30], layer(changed)[:, :30], atol=1e-11, rtol=0)


@every_network
@pytest.mark.parametrize(
    ("shape", "lengths", "values"),
    [
        ((2, 8000), [8000, 399], ("clip 1", 399)),
        ((2, 8000), [8001, 8000], ("clip 0", 8001)),
        ((2, 8000), [8000], ("lengths", "(1,)")),
        ((8000,), [8000], ("waveforms", "(8000,)")),
        ((0, 8000), [], ("waveforms", "(0, 8000)")),
    ],
)
def test_a_batch_that_cannot_be_used_is_refused(
    name: str, shape: tuple[int, ...], lengths: list[int], values: tuple[object, ...]
) -> None:
    with raises_about(UserError, *values):
        NETWORKS[name](3, 0)(torch.zeros(shape), torch.tensor(lengths, dtype=torch.int64))


def test_a_saved_network_that_names_no_outputs_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_network(NetworkModel("cnn", ["angry", "sad"], 0), folder, {})
    description = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(description | {"outputs": []}))
    with raises_about(UserError, folder, "network.json"):
        load_network(folder)
