"""Audio is read exactly, whatever its rate, channels and format; what is no audio is refused."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from serpipe.choices import CHANNELS
from serpipe.errors import BadClipError, UserError
from serpipe.features import audio
from serpipe.features.audio import check_length, read_waveform
from serpipe.features.trim import trim

from .conftest import write_wav
from .messages import assert_names, raises_about

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
    ("kind", "values"),
    [
        ("empty file", ()),
        ("text", ()),
        ("git-lfs pointer", ("git lfs pull",)),
        ("no samples", ()),
        ("zeros", ("-80 dB",)),
        ("barely above zero", ("-90 dB", "-80 dB")),
        ("not numbers", ()),
        ("cut off", ()),
        ("cut off WAV", (8956, 32000)),
        ("cut off AIFF", (8954, 32008)),
        ("absurd rate", ("2147483647 Hz",)),
        ("many channels", ("59 MiB", 8)),
        ("hours in a small file", ("3600 s",)),
        ("a folder", ()),
    ],
)
def test_an_unusable_clip_is_refused_in_one_line(
    tmp_path: Path, kind: str, values: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_DECODED_BYTES", 50 << 20)
    path = broken(kind, tmp_path / "03-01-06-01-02-01-12.flac")
    with raises_about(BadClipError, *values) as caught:
        read_waveform(path, 16000)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {caught.value.parts[-1]}")


def test_messages_of_different_causes_differ(tmp_path: Path) -> None:
    problems = set()
    kinds = ("empty file", "text", "git-lfs pointer", "no samples", "zeros", "not numbers",
             "cut off WAV", "a folder")  # fmt: skip
    for kind in kinds:
        with pytest.raises(BadClipError) as caught:
            read_waveform(broken(kind, tmp_path / f"{kind}.flac"), 16000)
        problems.add(caught.value.parts[1])
    assert len(problems) == len(kinds)


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
    path = write_wav(tmp_path / "x.wav", TONE)
    with raises_about(BadClipError, path, "MiB"):
        read_waveform(path, 16000)


def test_length_limits_are_the_encoders() -> None:
    check_length(Path("x"), 400, 16000, 400, 480000)
    check_length(Path("x"), 480000, 16000, 400, 480000)
    with raises_about(BadClipError, "24.9 ms", "25 ms"):
        check_length(Path("x"), 399, 16000, 400, 480000)
    with raises_about(BadClipError, "x", "30 s"):
        check_length(Path("x"), 480001, 16000, 400, 480000)


def test_an_unfinished_stream_header_is_accepted(tmp_path: Path) -> None:
    whole = write_wav(tmp_path / "x.wav", TONE).read_bytes()
    for declared in (0xFFFFFFFF, 0x7FFFFFFF):
        (tmp_path / "x.wav").write_bytes(whole[:40] + declared.to_bytes(4, "little") + whole[44:])
        assert read_waveform(tmp_path / "x.wav", 16000)[1].frames == 16000


@pytest.mark.parametrize("decibels", [20.0, 40.0])
def test_trimming_uses_the_windows_of_librosa(decibels: float) -> None:
    """Against its definition, window by window: RMS over 2048 samples every 512, centred."""
    waveform = (TONE * np.linspace(0, 1, 16000) ** 4).astype(np.float32)
    padded = np.pad(waveform.astype(float), 1024)
    power = np.array([np.mean(padded[s : s + 2048] ** 2) for s in range(0, 16001, 512)])
    loud = np.nonzero(10 * np.log10(power / power.max()) > -decibels)[0]
    expected = waveform[loud[0] * 512 : (loud[-1] + 1) * 512]
    assert len(expected) < 14000
    np.testing.assert_array_equal(trim(waveform, decibels), expected)
    np.testing.assert_array_equal(trim(waveform[:100] * 0, decibels), waveform[:100] * 0)


# --- other formats, by libsndfile and by PyAV ---


def a_clip(sample: Path, rate: int = 16000) -> np.ndarray:
    """Two seconds of a real clip, loud ones, at a rate."""
    clip = next((sample / "Actor_01").glob("03-01-05-*.flac"))
    waveform, _ = read_waveform(clip, 16000)
    return np.asarray(soxr.resample(waveform[16000:48000], 16000, rate, quality="VHQ"))


def contain(samples: np.ndarray, rate: int, container: str, codec: str, **options: str) -> bytes:
    """Encode by PyAV; ``samples`` has shape (n,) or (channels, n)."""
    import av

    samples = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    content = io.BytesIO()
    with av.open(content, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return content.getvalue()


def film(samples: np.ndarray | None, container: str) -> bytes:
    """A film of 50 small pictures, with sound if samples at 48 kHz are given."""
    import av

    content = io.BytesIO()
    webm = container == "webm"
    with av.open(content, "w", format=container) as file:
        pictures = file.add_stream("libvpx" if webm else "mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        sound: Any = None
        if samples is not None:
            sound = file.add_stream("libopus" if webm else "aac", rate=48000, layout="mono")
        for n in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * n, np.uint8), "rgb24")
            file.mux(pictures.encode(picture))
        file.mux(pictures.encode(None))
        if sound is not None and samples is not None:
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, 0
            file.mux(sound.encode(frame))
            file.mux(sound.encode(None))
    return content.getvalue()


def by_libsndfile(samples: np.ndarray, rate: int, container: str, subtype: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=container, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize(
    ("container", "coding", "least"),
    [
        ("WAV", "PCM_U8", 0.98),
        ("WAV", "PCM_16", 0.9999),
        ("WAV", "PCM_24", 0.9999),
        ("WAV", "PCM_32", 0.9999),
        ("WAV", "FLOAT", 0.9999),
        ("WAV", "DOUBLE", 0.9999),
        ("WAVEX", "PCM_24", 0.9999),
        ("FLAC", "PCM_16", 0.9999),
        ("AIFF", "PCM_16", 0.9999),
        ("OGG", "VORBIS", 0.98),
        ("OGG", "OPUS", 0.98),
        ("MP3", "MPEG_LAYER_III", 0.98),
        ("ipod", "aac", 0.98),
        ("mov", "pcm_s16le", 0.9999),
        ("mov", "pcm_u8", 0.98),
        ("mp4", "alac", 0.9999),
        ("mp4", "libopus", 0.98),
        ("webm", "libopus", 0.98),
        ("matroska", "aac", 0.98),
        ("matroska", "pcm_f32le", 0.9999),
        ("film mp4", "aac", 0.98),
        ("film webm", "opus", 0.98),
    ],
)
def test_a_real_clip_sounds_the_same_in_every_format(
    tmp_path: Path, sample: Path, container: str, coding: str, least: float
) -> None:
    clip = a_clip(sample, 48000)
    if container.startswith("film"):
        content = film(clip, container.split()[1])
    elif container.isupper():
        content = by_libsndfile(clip, 48000, container, coding)
    else:
        content = contain(clip, 48000, container, coding)
    (tmp_path / "clip.wav").write_bytes(content)  # the suffix says nothing
    waveform, facts = read_waveform(tmp_path / "clip.wav", 16000)
    expected = a_clip(sample)
    assert (facts.sampling_rate, facts.channels) == (48000, 1)
    padding = 1024 * 16000 // 48000 + 1  # of AAC, at the end
    assert len(expected) <= len(waveform) <= len(expected) + padding
    # As it stands, with no shift: the encoder's delay is cut.
    assert np.corrcoef(waveform[: len(expected)], expected)[0, 1] > least
    # As loud, and about zero.
    assert np.sum(waveform**2) == pytest.approx(np.sum(expected**2), rel=0.05)


def test_aiff_under_a_wav_name_and_96_khz_are_read(shared: Path) -> None:
    tess = shared / "data" / "originals" / "tess"
    for name, magic, rate in (
        ("YAF_germ_angry.wav", b"FORM", 24414),
        ("YAF_neat_fear.wav", b"FORM", 24414),
        ("OAF_food_fear.wav", b"RIFF", 96000),
    ):
        assert (tess / name).read_bytes()[:4] == magic
        waveform, facts = read_waveform(tess / name, None)
        assert (facts.sampling_rate, len(waveform)) == (rate, facts.frames)
        assert 1 < facts.seconds < 4


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24414, 44100, 48000, 96000, 192000])
def test_a_sine_of_any_rate_becomes_the_sine_at_16_khz(tmp_path: Path, rate: int) -> None:
    def sine(at: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 1234.5 * np.arange(at) / at)

    soundfile.write(tmp_path / "x.wav", sine(rate), rate, subtype="FLOAT")
    waveform, _ = read_waveform(tmp_path / "x.wav", 16000)
    assert len(waveform) == 16000
    assert np.abs(waveform - sine(16000))[1000:-1000].max() < 1e-5  # 100 dB below full scale


@pytest.mark.parametrize("container", ["WAV", "mp4", "mov"])  # mov: channels in turns
def test_the_requested_channel_is_used(tmp_path: Path, sample: Path, container: str) -> None:
    left = a_clip(sample)
    both = np.stack([left, -0.5 * left[::-1]])
    path = tmp_path / "x"
    if container == "WAV":
        path.write_bytes(by_libsndfile(both.T, 16000, "WAV", "FLOAT"))
    else:
        codec = "alac" if container == "mp4" else "pcm_s16le"
        path.write_bytes(contain(both, 16000, container, codec))
    for channels, expected in (("mean", both.mean(axis=0)), ("left", left), ("right", both[1])):
        waveform, facts = read_waveform(path, 16000, channels)
        assert facts.channels == 2
        np.testing.assert_allclose(waveform, expected, atol=2 / 2**15)
    with raises_about(UserError, "channels", "middle"):
        read_waveform(path, 16000, "middle")
    mono = write_wav(tmp_path / "mono.wav", left)
    only = [read_waveform(mono, 16000, channels)[0] for channels in CHANNELS]
    assert all(np.array_equal(one, only[0]) for one in only)


def test_without_a_rate_a_file_keeps_its_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 24414, subtype="DOUBLE")
    waveform, facts = read_waveform(tmp_path / "x.wav", None)
    assert facts.sampling_rate == 24414
    np.testing.assert_array_equal(waveform, TONE.astype(np.float32))


def refusal(content: bytes, path: Path) -> str:
    """Return the error for a bad clip, which must be one line, without the path."""
    path.write_bytes(content)
    with raises_about(BadClipError) as caught:
        read_waveform(path, 16000)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {caught.value.parts[-1]}")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "aac", {}),
        ("mp4", "aac", {"moov_size": "20000"}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("webm", "libopus", {}),
        ("OGG", "VORBIS", {}),
        ("OGG", "OPUS", {}),
        ("MP3", "MPEG_LAYER_III", {}),
    ],
)
def test_a_compressed_file_that_was_cut_is_refused_in_one_line(
    tmp_path: Path, sample: Path, container: str, codec: str, options: dict[str, str]
) -> None:
    if container.isupper():
        whole = by_libsndfile(a_clip(sample, 48000), 48000, container, codec)
    else:
        whole = contain(a_clip(sample, 48000), 48000, container, codec, **options)
    for part in (0.02, 0.3, 0.6, 0.9, 0.99):
        refusal(whole[: int(part * len(whole))], tmp_path / "x.m4a")


def test_audio_at_the_end_of_a_container_may_not_end_inside_a_packet(
    tmp_path: Path, sample: Path
) -> None:
    whole = contain(a_clip(sample, 48000), 48000, "mp4", "libopus", moov_size="20000")
    at = whole.index(b"mdat")
    assert whole.index(b"moov") < at
    open_end = whole[: at - 4] + bytes(4) + whole[at:]  # no size
    (tmp_path / "x.mp4").write_bytes(open_end)
    assert read_waveform(tmp_path / "x.mp4", 16000)[1].seconds == pytest.approx(2, abs=0.02)
    refusal(open_end[:-2000], tmp_path / "x.mp4")


def test_damaged_containers_give_audio_or_one_line(tmp_path: Path, sample: Path) -> None:
    draw = np.random.default_rng(0)
    refused = 0
    for whole in (
        contain(a_clip(sample), 16000, "mp4", "aac"),
        contain(a_clip(sample, 48000), 48000, "webm", "libopus"),
    ):
        for n in range(60):
            content = np.frombuffer(whole, np.uint8).copy()
            # Half of them in the headers, which stand at the two ends.
            reach = 600 if n % 2 else len(content) // 2
            places = draw.integers(8, reach, 8) * draw.choice([-1, 1], 8)
            content[places] = draw.integers(0, 256, 8)
            (tmp_path / "x.mp4").write_bytes(content.tobytes())
            try:
                waveform, _ = read_waveform(tmp_path / "x.mp4", 16000)
                assert np.isfinite(waveform).all()
            except BadClipError as error:
                assert "\n" not in str(error)
                refused += 1
    assert 20 < refused < 120


def lying(whole: bytes, milliseconds: float) -> bytes:
    """A Matroska file whose header tells of another duration."""
    at = whole.index(bytes.fromhex("448988")) + 3
    return whole[:at] + np.array(milliseconds, ">f8").tobytes() + whole[at + 8 :]


def test_durations_in_headers_are_not_trusted(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contain(a_clip(sample, 48000), 48000, "matroska", "libopus")
    (tmp_path / "x.mka").write_bytes(lying(whole, 1e9))
    assert read_waveform(tmp_path / "x.mka", 16000)[1].seconds == 2
    monkeypatch.setattr(audio, "MAX_SECONDS", 1.0)
    assert_names(refusal(lying(whole, 10), tmp_path / "x.mka"), "1 s")


def test_decoding_stops_at_the_first_sample_beyond_a_limit(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = a_clip(sample, 48000)
    whole = bytearray(contain(clip, 48000, "mp4", "aac", moov_size="20000"))
    whole[-3000:] = np.random.default_rng(0).bytes(3000)  # decoding would fail here
    path = tmp_path / "x"
    undecodable = refusal(bytes(whole), path)
    with monkeypatch.context() as change:
        change.setattr(audio, "MAX_DECODED_BYTES", 4 * 48000)
        too_large = refusal(bytes(whole), path)
        assert too_large != undecodable
        assert_names(too_large, "MiB")
    with monkeypatch.context() as change:
        change.setattr(audio, "MAX_SECONDS", 1.0)
        assert_names(refusal(bytes(whole), path), "1 s")
    with monkeypatch.context() as change:
        change.setattr(audio, "RATES", (1000, 44100))
        assert_names(refusal(bytes(whole), path), 48000, "44100 Hz")


def test_a_video_without_an_audio_track_is_refused(tmp_path: Path) -> None:
    undecodable = refusal(b"no audio", tmp_path / "x")
    for container in ("mp4", "webm"):
        assert refusal(film(None, container), tmp_path / "x") != undecodable


def test_only_common_audio_decoders_run(tmp_path: Path, sample: Path) -> None:
    content = contain(a_clip(sample, 48000), 48000, "matroska", "wavpack")
    assert_names(refusal(content, tmp_path / "x.mka"), "wavpack")


def test_a_clip_cannot_make_the_decoder_open_another_file(tmp_path: Path) -> None:
    secret = write_wav(tmp_path / "secret.wav", TONE)
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{secret}\n",
        f"ffconcat version 1.0\nfile {secret}\n",
        f"\0\0\0\10ftyp#EXTM3U\n{secret}\n",
    ):
        refusal(text.encode(), tmp_path / "x.mp4")


def test_without_pyav_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = contain(TONE, 16000, "mp4", "aac")
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not there
    assert_names(refusal(content, tmp_path / "x.m4a"), "'serpipe[formats]'")
    assert len(read_waveform(write_wav(tmp_path / "x.wav", TONE), 16000)[0]) == 16000


def test_nothing_is_printed_about_bad_containers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refusal(contain(TONE, 16000, "mp4", "aac")[:2000], tmp_path / "x.m4a")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "G721_32"])
def test_telephone_codecs_are_decoded_completely(tmp_path: Path, subtype: str) -> None:
    """Of some libsndfile cannot say how much is left: what is asked for must be a number."""
    container = "AU" if subtype == "G721_32" else "WAV"
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    soundfile.write(tmp_path / "a.wav", tone, 8000, subtype=subtype, format=container)
    waveform, facts = read_waveform(tmp_path / "a.wav", 8000)
    assert len(waveform) == facts.frames >= 8000
    assert np.corrcoef(waveform[:8000], tone)[0, 1] > 0.99
