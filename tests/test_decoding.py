"""Decoding in processes, for encoders on a GPU: what is decoded, once, and kept."""

from pathlib import Path

import numpy as np
import pytest
from serpipe.corpora import CORPORA, Clip, scan
from serpipe.errors import BadClipError
from serpipe.features.batching import embed_batches
from serpipe.features.decoding import Decoder, DecodingOptions
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.engine import LocalEngine, local_engine


@pytest.fixture(scope="module")
def encoder(small_encoder: Path) -> Encoder:
    return load_encoder(str(small_encoder))


@pytest.fixture
def clips(few_clips: Path) -> list[Clip]:
    """Six real clips, of which the third is damaged."""
    scanned = list(scan(few_clips, CORPORA["ravdess"]).clips)[:6]
    Path(str(scanned[2].file)).write_bytes(b"RIFF no more")
    return scanned


def with_decoder(encoder: Encoder, decoder: Decoder) -> LocalEngine:
    engine = local_engine([encoder], workers=2)
    return LocalEngine(engine.encoders, engine.key, workers=2, decoder=decoder)


def test_processes_and_threads_decode_the_same(encoder: Encoder, clips: list[Clip]) -> None:
    decoder = Decoder(DecodingOptions(), 2)
    decoder.begin(clips)
    threads, processes = local_engine([encoder], workers=2), with_decoder(encoder, decoder)
    expected, checked = list(threads.check(clips)), list(processes.check(clips))
    assert [type(each) for each in checked] == [type(each) for each in expected]
    assert isinstance(checked[2], BadClipError)
    assert checked[2].parts == expected[2].parts  # type: ignore[union-attr]
    good = [each for each in checked if not isinstance(each, BadClipError)]
    assert good == [each for each in expected if not isinstance(each, BadClipError)]
    embedded = [list(engine.embed(engine.plan(good))) for engine in (threads, processes)]
    for (_, ours), (_, theirs) in zip(*embedded, strict=True):
        np.testing.assert_array_equal(ours["mean"], theirs["mean"])
    assert len(list(processes.check(clips))) == 6  # the engine can be used again


def test_each_clip_is_decoded_once(encoder: Encoder, clips: list[Clip]) -> None:
    decoder = Decoder(DecodingOptions(), 1)
    good = [each for each in with_decoder(encoder, decoder).check(clips)
            if not isinstance(each, BadClipError)]  # fmt: skip
    decoder.close()  # no process is left to decode
    for each in good:
        Path(str(each.clip.file)).unlink()
    batches = [(each,) for each in good]
    results = list(embed_batches([encoder], batches, 1, DecodingOptions(), decoder))
    assert len(results) == 5


def test_waveforms_that_do_not_fit_in_memory_are_decoded_again(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, clips: list[Clip]
) -> None:
    monkeypatch.setattr("serpipe.features.decoding.MOST_KEPT_BYTES", 0)
    decoder = Decoder(DecodingOptions(), 1)
    engine = with_decoder(encoder, decoder)
    good = [each for each in engine.check(clips) if not isinstance(each, BadClipError)]
    assert len(list(embed_batches([encoder], [(good[0],)], 1, DecodingOptions(), decoder))) == 1
    Path(str(good[1].clip.file)).write_bytes(Path(str(good[0].clip.file)).read_bytes())
    with pytest.raises(BadClipError):
        list(embed_batches([encoder], [(good[1],)], 1, DecodingOptions(), decoder))
