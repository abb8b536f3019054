"""Each perturbation of a clip is what its name and its value say, and the same every time."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate, welch
from serpipe.errors import UserError
from serpipe.features.audio import Waveform
from serpipe.features.perturb import perturb
from serpipe.features.perturbation import Perturbation, read_perturbations

from .messages import raises_about

RATE = 16_000
#: The hash of a clip, of which only its own noise may depend.
CONTENT = "ab" * 32


@pytest.fixture(scope="module")
def speech(sample: Path) -> Waveform:
    """A real clip of three seconds."""
    waveform, rate = soundfile.read(next(sample.rglob("*.flac")), dtype="float32")
    assert rate == RATE
    return waveform  # type: ignore[no-any-return]


def change(waveform: Waveform, spec: str, content: str = CONTENT, rate: int = RATE) -> Waveform:
    (perturbation,) = read_perturbations("--perturb", [spec])
    changed = perturb(waveform, rate, perturbation, content)
    assert changed.dtype == np.float32 and np.isfinite(changed).all()
    return changed


def power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def shift(waveform: Waveform, changed: Waveform) -> int:
    """Return by how many samples a clip is delayed."""
    return int(correlate(changed, waveform).argmax()) - len(waveform) + 1


def test_texts_are_read_as_one_perturbation_for_each_value() -> None:
    read = read_perturbations("--perturb", ["noise:20,10,0", "telephone", "reverb", "gain:-20"])
    assert read == (
        *(Perturbation("noise", value) for value in (20, 10, 0)),
        Perturbation("telephone"),
        Perturbation("reverb", 0.6),
        Perturbation("gain", -20),
    )
    assert list(map(str, read))[2:5] == ["noise:0", "telephone", "reverb:0.6"]
    assert read_perturbations("--perturb", map(str, read)) == read


@pytest.mark.parametrize(
    "spec",
    ["nois:10", "noise", "noise:", "noise:x", "noise:nan", "noise:10,", "noise:100", "telephone:1",
     "mp3:7", "clip:0", "clip:60", "shorter:0", "noise:10,10",
     "noise:10,10.0000001", ""],
)  # fmt: skip
def test_an_unknown_kind_or_an_impossible_value_is_refused(spec: str) -> None:
    with raises_about(UserError, "--perturb", spec):
        read_perturbations("--perturb", [spec])


def test_a_second_kind_after_a_comma_is_refused_with_the_option_to_give_it() -> None:
    with raises_about(UserError, "--augment noise:20,mp3:32", "--augment mp3:32"):
        read_perturbations("--augment", ["noise:20,mp3:32"])


@pytest.mark.parametrize("decibels", [20, 0])
def test_noise_has_the_power_and_the_spectrum_that_are_stated(
    speech: Waveform, decibels: int
) -> None:
    noise = change(speech, f"noise:{decibels}") - speech
    ratio = 10 * np.log10(power(speech) / power(noise))
    assert ratio == pytest.approx(decibels, abs=0.01)
    frequencies, density = welch(noise, RATE, nperseg=1024)
    octaves = [density[(frequencies >= f) & (frequencies < 2 * f)].sum() for f in (250, 1000, 3000)]
    np.testing.assert_allclose(octaves, np.mean(octaves), rtol=0.3)  # pink: the same in each


@pytest.mark.parametrize("spec", ["noise:10", "reverb"])
def test_what_is_random_depends_on_seed_and_content_alone(speech: Waveform, spec: str) -> None:
    (perturbation,) = read_perturbations("--perturb", [spec])
    other_seed = Perturbation(perturbation.kind, perturbation.value, seed=1)
    first = change(speech, spec)
    assert np.array_equal(first, change(speech, spec))
    assert not np.array_equal(first, change(speech, spec, "cd" * 32))
    assert not np.array_equal(first, perturb(speech, RATE, other_seed, CONTENT))


def test_a_telephone_line_passes_its_band_alone(speech: Waveform) -> None:
    assert len(change(speech, "telephone")) == len(speech)
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE, dtype=np.float32)
    frequencies, before = welch(noise, RATE, nperseg=1024)
    gain = 10 * np.log10(welch(change(noise, "telephone"), RATE, nperseg=1024)[1] / before)
    assert np.abs(gain[(frequencies > 500) & (frequencies < 3000)]).max() < 1.5
    assert gain[(frequencies > 20) & (frequencies < 100)].max() < -25
    assert gain[frequencies > 4500].max() < -40


@pytest.mark.parametrize("kilobits", [8, 32, 48, 128])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_mp3_neither_delays_nor_shortens_a_clip(speech: Waveform, kilobits: int, rate: int) -> None:
    changed = change(speech, f"mp3:{kilobits}", rate=rate)
    assert len(changed) == len(speech)
    assert shift(speech, changed) == 0
    similarity = np.corrcoef(speech, changed)[0, 1]
    assert similarity > (0.8 if kilobits == 8 else 0.97)
    assert not np.array_equal(speech, changed)


def test_a_lower_bit_rate_leaves_less_of_the_clip(speech: Waveform) -> None:
    left = [np.corrcoef(speech, change(speech, f"mp3:{k}"))[0, 1] for k in (8, 24, 64)]
    assert left == sorted(left)


def test_reverberation_falls_by_60_decibels_in_the_stated_time() -> None:
    click = np.zeros(RATE, np.float32)
    click[0] = 0.5
    response = np.square(change(click, "reverb:0.5"), dtype=np.float64)
    assert response[0] == pytest.approx(response[1:].sum(), rel=1e-4)
    left = 10 * np.log10(np.cumsum(response[:0:-1])[::-1])  # Schroeder's decay curve
    early, late = round(0.05 * RATE), round(0.25 * RATE)
    assert left[early] - left[late] == pytest.approx(60 * 0.2 / 0.5, abs=1.5)


def test_gain_clipping_and_cuts_are_exact(speech: Waveform) -> None:
    np.testing.assert_allclose(change(speech, "gain:-20"), 0.1 * speech, rtol=1e-6)
    assert np.abs(change(speech, "gain:60")).max() == 1
    clipped = change(speech, "clip:10")
    level = np.abs(clipped).max()
    assert np.mean(np.abs(clipped[speech != 0]) == level) == pytest.approx(0.1, abs=1e-3)
    assert np.array_equal(clipped[np.abs(speech) < level], speech[np.abs(speech) < level])
    start = (len(speech) - RATE) // 2
    assert np.array_equal(change(speech, "shorter:1"), speech[start : start + RATE])
    assert np.array_equal(change(speech, "shorter:600"), speech)


def test_a_clip_that_is_mostly_zero_is_never_clipped_to_silence() -> None:
    quiet = np.zeros(RATE, np.float32)
    quiet[:1000] = np.linspace(0.1, 0.5, 1000)
    assert np.abs(change(quiet, "clip:50")).max() > 0.1
