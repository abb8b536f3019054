"""Audio is read exactly, whatever its rate, channels and format; what is no audio is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from serpipe.errors import BadClipError
from serpipe.features import audio
from serpipe.features.audio import check_length, read_waveform
from serpipe.features.trim import trim

from .conftest import write_wav

TONE = 0.1 * np.sin(np.arange(16000) / 10)


def test_48_khz_stereo_originals_become_the_16_khz_mono_clips(shared: Path) -> None:
    originals = sorted((shared / "data" / "originals" / "ravdess").rglob("*.wav"))
    assert len(originals) == 9
    for original in originals:
        ours, facts = read_waveform(original, 16000)
        ready = shared / "data" / "ravdess" / original.parent.name / f"{original.stem}.flac"
        theirs, _ = read_waveform(ready, 16000)
        assert facts.sampling_rate == 48000
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1.01 / 2**15  # they were rounded to 16 bits


def test_every_original_of_four_corpora_can_be_read(shared: Path) -> None:
    clips = sorted((shared / "data" / "originals").rglob("*.wav"))
    rates = set()
    for clip in clips:
        waveform, facts = read_waveform(clip, 16000)
        rates.add(facts.sampling_rate)
        assert waveform.dtype == np.float32
        assert len(waveform) == pytest.approx(facts.seconds * 16000, abs=1)
    assert len(clips) == 38
    assert rates == {16000, 24414, 48000, 96000}  # some of them AIFF under a .wav name


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", np.stack([TONE, np.zeros_like(TONE)], axis=1))
    waveform, facts = read_waveform(path, 16000)
    assert facts.channels == 2
    np.testing.assert_allclose(waveform, TONE / 2, atol=2 / 2**15)


def test_the_content_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = write_wav(tmp_path / "x.wav", TONE)
    assert read_waveform(path, 16000)[1].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def broken(kind: str, path: Path) -> Path:
    """Write one kind of file that is no clip."""
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not audio at all")
    elif kind == "git-lfs pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16000, format="WAV")
    elif kind == "zeros":
        write_wav(path, np.zeros(16000))
    elif kind == "barely above zero":
        write_wav(path, np.full(16000, 1 / 2**15) * np.resize([1, 0], 16000))
    elif kind == "not numbers":
        soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT", format="WAV")
    elif kind == "cut off":
        whole = write_wav(
            path.with_suffix(".tmp.flac"), np.random.default_rng(0).normal(0, 0.1, 16000)
        )
        path.write_bytes(whole.read_bytes()[:9000])
        whole.unlink()
    elif kind in ("cut off WAV", "cut off AIFF"):
        soundfile.write(path, TONE, 16000, format=kind.split()[-1])
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "absurd rate":
        content = write_wav(path.with_suffix(".tmp.wav"), TONE).read_bytes()
        path.write_bytes(content[:24] + (2**31 - 1).to_bytes(4, "little") + content[28:])
    elif kind == "many channels":
        soundfile.write(path, np.zeros((20 * 96000, 8)), 96000, format="FLAC")
    elif kind == "hours in a small file":
        soundfile.write(path, np.zeros(3600 * 8000), 8000, format="FLAC")
    elif kind == "a folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("empty file", "is an empty file"),
        ("text", "cannot be decoded"),
        ("git-lfs pointer", "is a git-lfs pointer"),
        ("no samples", "holds no samples"),
        ("zeros", "is silent (all zeros)"),
        ("barely above zero", "is silent (peak -"),
        ("not numbers", "holds samples that are not numbers"),
        ("cut off", "cannot be decoded"),
        ("cut off WAV", "breaks off after 8956 of 32000 bytes"),
        ("cut off AIFF", "breaks off after 8954 of 32008 bytes"),
        ("absurd rate", "claims a sampling rate of 2147483647 Hz"),
        ("many channels", "decodes to 59 MiB (8 channels)"),
        ("hours in a small file", "lasts 3600 s"),
        ("a folder", "cannot be read"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(
    tmp_path: Path, kind: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_DECODED_BYTES", 50 << 20)
    path = broken(kind, tmp_path / "03-01-06-01-02-01-12.flac")
    with pytest.raises(BadClipError) as caught:
        read_waveform(path, 16000)
    message = str(caught.value)
    assert message.startswith(f"{path}: {found}")
    assert "; expected " in message
    assert "\n" not in message


def test_a_long_file_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken("hours in a small file", tmp_path / "x.flac")
    assert path.stat().st_size < 10**6
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(BadClipError):
        read_waveform(path, 16000)


def test_a_file_past_the_size_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_BYTES", 1000)
    with pytest.raises(BadClipError, match="MiB"):
        read_waveform(write_wav(tmp_path / "x.wav", TONE), 16000)


def test_length_limits_are_the_encoders() -> None:
    check_length(Path("x"), 400, 16000, 400, 480000)
    check_length(Path("x"), 480000, 16000, 400, 480000)
    with pytest.raises(BadClipError, match="at least 25 ms"):
        check_length(Path("x"), 399, 16000, 400, 480000)
    with pytest.raises(BadClipError, match="at most 30 s"):
        check_length(Path("x"), 480001, 16000, 400, 480000)


def test_the_header_of_a_stream_that_was_never_finished_is_no_fault(tmp_path: Path) -> None:
    whole = write_wav(tmp_path / "x.wav", TONE).read_bytes()
    for declared in (0xFFFFFFFF, 0x7FFFFFFF):
        (tmp_path / "x.wav").write_bytes(whole[:40] + declared.to_bytes(4, "little") + whole[44:])
        assert read_waveform(tmp_path / "x.wav", 16000)[1].frames == 16000


@pytest.mark.parametrize("decibels", [20.0, 40.0])
def test_trimming_takes_the_windows_that_librosa_takes(decibels: float) -> None:
    """Against its definition, window by window: RMS over 2048 samples every 512, centred."""
    waveform = (TONE * np.linspace(0, 1, 16000) ** 4).astype(np.float32)
    padded = np.pad(waveform.astype(float), 1024)
    power = np.array([np.mean(padded[s : s + 2048] ** 2) for s in range(0, 16001, 512)])
    loud = np.nonzero(10 * np.log10(power / power.max()) > -decibels)[0]
    expected = waveform[loud[0] * 512 : (loud[-1] + 1) * 512]
    assert len(expected) < 14000
    np.testing.assert_array_equal(trim(waveform, decibels), expected)
    np.testing.assert_array_equal(trim(waveform[:100] * 0, decibels), waveform[:100] * 0)
