"""What can be added to a training does what it says: a start, less to train, clips changed."""

import csv
import json
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks
from serpipe.api import workers
from serpipe.artifacts.run.record_finetune import record_finetuning
from serpipe.corpora import scan
from serpipe.corpora.data import listed
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import BadClipError, UserError
from serpipe.features.audio import Waveform, read_waveform
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.decoding import DecodingOptions, load_clip
from serpipe.features.encoder import load_encoder
from serpipe.pipeline.finetune.augment import add_noise, augment, change_speed, mix, shift_pitch
from serpipe.pipeline.finetune.data import Examples, Sounds, VariedExamples, decode_clips
from serpipe.pipeline.finetune.kinds import EncoderWithHead, Network, optimizer
from serpipe.pipeline.finetune.network_model import load_network
from serpipe.pipeline.finetune.options import TrainingOptions
from serpipe.pipeline.finetune.probe import (
    ProbeChoice,
    layer_index,
    pooled_states,
    start_from_probe,
)
from serpipe.pipeline.finetune.train import concordance, make_loss, predict
from serpipe.pipeline.finetune.train import train as train_model
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.measures import RATINGS
from serpipe.pipeline.options import Protocol

from .conftest import Command, made_once, write_wav
from .messages import assert_refused, raises_about
from .processes import Forked
from .test_finetune import rows, score

SPEAKERS = tuple("abcdef")


@pytest.fixture(scope="session")
def pitches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 short tones of six speakers: low or high, and the pitch in kHz."""
    return made_once(tmp_path_factory, "pitches", write_pitches) / "pitches.csv"


def write_pitches(folder: Path) -> None:
    draw = np.random.default_rng(0)
    table = []
    for speaker in SPEAKERS:
        for take in range(10):
            khz = draw.uniform(0.2, 1.6)
            khz += 0.4 if khz > 0.9 else 0.0  # none is in between
            times = np.arange(int(16000 * draw.uniform(0.3, 0.5))) / 16000
            tone = np.sin(2 * np.pi * 1000 * khz * times)
            path = f"{speaker}-{take}.wav"
            write_wav(folder / path, 0.3 * tone + 0.01 * draw.standard_normal(len(tone)))
            table.append(f"{path},{speaker},{'high' if khz > 1.1 else 'low'},{khz:.4f}")
    (folder / "pitches.csv").write_text("\n".join(["path,speaker,pitch,khz", *table]) + "\n")


@pytest.fixture(scope="session")
def decoded(small_encoder: Path, sample: Path) -> Sounds:
    """Twelve clips of the sample, of different lengths."""
    clips = list(scan(sample, RAVDESS).clips)[::16]
    return decode_clips(clips, load_checkpoint(str(small_encoder), None).front_end)[0]


# A start


@pytest.mark.parametrize("family", ["wav2vec2-group", "wav2vec2-layer-stable", "hubert-group"])
def test_pooled_states_are_those_of_the_extractor(
    family: str, family_encoder: Callable[[str], Path], sample: Path
) -> None:
    name = str(family_encoder(family))
    kind = EncoderWithHead(load_checkpoint(name, None), TrainingOptions(), name)
    clips = list(scan(sample, RAVDESS).clips)[:5]
    front_end = kind.front_end
    sounds, _ = decode_clips(clips, front_end)
    examples = Examples(sounds, range(5), np.zeros((5, 2), np.float32))
    states = pooled_states(
        kind.build(["a", "b"], "classification"), examples, TrainingOptions(batch_size=3), "cpu"
    )
    encoder = load_encoder(name)
    waveforms = [load_clip(each, DecodingOptions(front_end.sampling_rate)) for each in sounds.clips]
    alone = encoder.embed(waveforms)["mean"]
    assert len(states) == 4
    for index, layer in enumerate(encoder.identity.layers[:4]):
        assert layer_index(layer, 3) == index
        np.testing.assert_allclose(states[index], alone[index], atol=2e-5, err_msg=layer)


@pytest.mark.parametrize("labels", [["angry", "calm", "sad"], ["angry", "sad"]])
def test_a_model_that_starts_from_a_probe_predicts_what_it_predicts(
    labels: list[str], decoded: Sounds, small_encoder: Path
) -> None:
    kind = EncoderWithHead(
        load_checkpoint(str(small_encoder), None), TrainingOptions(), str(small_encoder)
    )
    everyone = len(decoded.clips)
    truth = np.array([labels[n % len(labels)] for n in range(everyone)])
    names = [*labels, "absent"]
    examples = Examples(decoded, range(everyone), np.zeros((everyone, len(names)), np.float32))
    model = kind.build(names, "classification")
    states = pooled_states(model, examples, TrainingOptions(batch_size=4), "cpu")
    choice = ProbeChoice("lr", "2", {"C": 0.1, "max_iter": 1000})
    start_from_probe(model, choice, states, truth, (0.0, 1.0), seed=0)
    scores = torch.softmax(torch.tensor(predict(model, examples, TrainingOptions(), "cpu")), 1)
    probe = HEADS["lr"](choice.params).fit(states[2], truth, truth)
    expected = probe.predict_proba(states[2])
    assert np.ptp(expected, axis=0).min() > 0.3  # there is something to agree on
    np.testing.assert_allclose(scores[:, : len(labels)], expected, atol=2e-3)


def test_a_rating_starts_from_ridge_regression_in_its_own_units(
    decoded: Sounds, small_encoder: Path
) -> None:
    kind = EncoderWithHead(
        load_checkpoint(str(small_encoder), None), TrainingOptions(), str(small_encoder)
    )
    everyone = len(decoded.clips)
    truth = np.random.default_rng(0).uniform(3, 7, everyone)
    scale = float(truth.mean()), float(truth.std())
    examples = Examples(decoded, range(everyone), np.zeros((everyone, 1), np.float32))
    model = kind.build(["valence"], "regression")
    states = pooled_states(model, examples, TrainingOptions(batch_size=4), "cpu")
    choice = ProbeChoice("ridge", "1", {"alpha": 1.0})
    start_from_probe(model, choice, states, truth, scale, seed=0)
    predicted = predict(model, examples, TrainingOptions(), "cpu")[:, 0] * scale[1] + scale[0]
    expected = HEADS["ridge"](choice.params).fit(states[1], truth, truth.astype(str))
    np.testing.assert_allclose(predicted, expected.predict(states[1]), atol=0.02)
    assert np.ptp(predicted) > 0.5


def test_finetune_makes_its_probe_starts_from_it_and_is_reported_beside_it(
    pitches: Path, small_encoder: Path, serpipe: Command
) -> None:
    common = ("finetune", "--manifest", pitches, "--target", "pitch", "--encoder", small_encoder,
              "--split", "kfold:2", "--device", "cpu", "--epochs", 1, "--no-export")  # fmt: skip
    otherwise = ("extract", "--manifest", pitches, "--encoder", small_encoder, "--pool", "mean,std")
    assert serpipe(*otherwise).code == 0  # a cache of the same name, which the probe cannot use
    done = serpipe(*common, "--learning-rate", 0, "--head-learning-rate", 0)
    assert done.code == 0, done.err
    run = Path(done.out.splitlines()[-1])
    summary = json.loads((run / "run.json").read_text())
    probe = run.parent / summary["probe"]
    assert summary["heads"]["finetuned"]["grid"]["epoch"][0] == 0
    # Nothing was learnt: every fold keeps the head it began with.
    assert {c["parameters"]["epoch"] for c in summary["heads"]["finetuned"]["choices"]} == {0}
    frozen = {r["path"]: r for r in rows(probe, "predictions/lr.csv") if r["layer"] == "nested"}
    ours = [r for r in rows(run, "predictions/finetuned.csv") if r["layer"] == "nested"]
    agreed = np.mean([row["predicted"] == frozen[row["path"]]["predicted"] for row in ours])
    assert agreed > 0.85  # fitted without the validation speakers: the same but for that
    report = serpipe("report", run)
    assert report.code == 0 and (run / "report" / "probe.csv").is_file()
    # Epoch 0 is no edge of the grid: nothing comes before it.
    assert "SER015" not in report.out and "SER010" not in report.out
    made = (probe / "predictions" / "lr.csv").stat().st_mtime_ns
    random = serpipe(*common, "--random-head")
    assert random.code == 0, random.err
    content = json.loads((Path(random.out.splitlines()[-1]) / "run.json").read_text())
    assert content["heads"]["finetuned"]["grid"]["epoch"][0] == 1
    assert content["probe"] == probe.name  # the same one, made once
    assert (probe / "predictions" / "lr.csv").stat().st_mtime_ns == made


# Less to train


def test_lora_trains_all_its_matrices_and_nothing_else_of_the_encoder(
    family_encoder: Callable[[str], Path], sample: Path, tmp_path: Path
) -> None:
    clips = list(scan(sample, RAVDESS).clips)[:4]
    models, ours = [], []
    for family in ("wav2vec2-group", "hubert-layer-stable", "wavlm-layer-stable",
                   "data2vec-audio", "whisper"):  # fmt: skip
        name = str(family_encoder(family))
        options = TrainingOptions(lora=4, head_learning_rate=0.1, layer_decay=1.0)
        kind = EncoderWithHead(load_checkpoint(name, None), options, name)
        sounds, _ = decode_clips(clips, kind.front_end)
        examples = Examples(sounds, range(4), np.eye(4, 2, dtype=np.float32))
        model = kind.build(["a", "b"], "classification")
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        steps = optimizer(kind, model)
        inputs = kind.front_end.inputs([sounds.waveform(row) for row in range(4)])
        for _ in range(2):  # the first product is zero: A moves from the second step on
            model.train()
            loss = make_loss(examples.targets, 0.0)
            torch.autograd.backward(loss(model(**inputs), torch.from_numpy(examples.targets)))
            steps.step()
            steps.zero_grad()
        for key, tensor in model.state_dict().items():
            moved = not torch.equal(tensor, before[key])
            is_new = ".lora_" in key or key.startswith(("projector", "classifier", "layer_weights"))
            assert moved == is_new, f"{family}: {key}"
        ours.append(predict(model, examples, options, "cpu"))
        kind.save(model, tmp_path / family, {"corpora": ["ravdess"]})
        assert "lora" not in (tmp_path / family / "config.json").read_text()
        models.append(tmp_path / family)
    plain = score(models, [Path(str(clip.file)) for clip in clips])
    for model, logits, theirs in zip(models, ours, plain, strict=True):
        mine = torch.softmax(torch.tensor(logits), dim=1)
        expected = [[each["a"], each["b"]] for each in theirs]
        # Soundfile and soxr order clips as they were given, ours by name: the same here.
        np.testing.assert_allclose(mine, expected, atol=1e-5, err_msg=model.name)


def test_rates_fall_from_block_to_block_and_new_parameters_have_their_own(
    small_encoder: Path,
) -> None:
    name = str(small_encoder)
    options = TrainingOptions(learning_rate=1e-4, head_learning_rate=1e-2, layer_decay=0.5)
    kind = EncoderWithHead(load_checkpoint(name, None), options, name)
    rates = kind.rates(kind.build(["a", "b"], "classification"))
    of = "wav2vec2.encoder.layers.{}.attention.q_proj.weight".format
    assert [rates[of(block)] for block in range(3)] == [2.5e-5, 5e-5, 1e-4]
    assert rates["wav2vec2.feature_projection.projection.weight"] == 1.25e-5
    assert rates["classifier.weight"] == rates["layer_weights"] == 1e-2
    assert not any("feature_extractor" in name for name in rates)


def test_rates_of_the_parts_below_and_above_the_blocks(
    family_encoder: Callable[[str], Path],
) -> None:
    def rates(family: str) -> dict[str, float]:
        name = str(family_encoder(family))
        options = TrainingOptions(learning_rate=1e-4, layer_decay=0.5)
        kind = EncoderWithHead(load_checkpoint(name, None), options, name)
        return kind.rates(kind.build(["a", "b"], "classification"))

    below = rates("data2vec-audio")  # its positional convolutions are called layers, too
    positions = {rate for name, rate in below.items() if "pos_conv_embed.layers" in name}
    assert positions == {1.25e-5} == {below["data2vec_audio.encoder.layer_norm.weight"]}
    assert rates("hubert-layer-stable")["hubert.encoder.layer_norm.weight"] == 1e-4
    assert rates("hubert-group")["hubert.encoder.layer_norm.weight"] == 1.25e-5
    assert rates("whisper")["encoder.layer_norm.weight"] == 1e-4


def test_states_computed_again_by_another_thread_give_the_same_gradients(
    small_encoder: Path, decoded: Sounds
) -> None:
    name = str(small_encoder)
    options = TrainingOptions(train_front_end=True)
    kind = EncoderWithHead(load_checkpoint(name, None), options, name)
    inputs = kind.front_end.inputs([decoded.waveform(row) for row in range(3)])
    assert "attention_mask" in inputs
    gradients = []
    for checkpointing in (False, True):
        model = kind.build(["a", "b"], "classification").eval()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.eval()
        for block in model.wav2vec2.encoder.layers:
            block.attention.dropout = 0.0
        loss = model(**inputs)["logits"].square().sum()
        thread = threading.Thread(target=loss.backward)  # as a GPU's own does
        thread.start()
        thread.join()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert any("feature_extractor.conv_layers.0" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_an_error_about_a_clip_travels_between_processes() -> None:
    error = BadClipError("a.wav", "nothing", "a sound", "record it")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BadClipError) and str(again) == str(error)


def test_state_matrices_of_s4_learn_no_faster_than_published_and_never_decay() -> None:
    kind = Network("s4", TrainingOptions(head_learning_rate=1e-2))
    model = kind.build(["a", "b"], "classification")
    groups = optimizer(kind, model).param_groups
    where = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    settings = {name: where[id(parameter)] for name, parameter in model.named_parameters()}
    assert (
        settings["network.layers.0.a_imaginary"] == settings["network.layers.1.log_dt"] == (1e-3, 0)
    )
    assert settings["network.head.weight"] == (1e-2, 0.01)
    assert settings["network.head.bias"] == (1e-2, 0)


# Clips changed


def tone(hertz: float, seconds: float = 1.0) -> Waveform:
    waveform = np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)
    return (0.3 * waveform).astype(np.float32)


def loudest(waveform: Waveform) -> float:
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    peaks = find_peaks(spectrum)[0]
    return float(peaks[np.argmax(spectrum[peaks])] * 16000 / len(middle))


def test_speed_changes_length_and_pitch_and_a_shift_of_pitch_keeps_the_length() -> None:
    faster = change_speed(tone(400), 1.1)
    assert len(faster) == pytest.approx(16000 / 1.1, abs=1)
    assert loudest(faster) == pytest.approx(440, abs=3)
    for semitones in (-2.0, -0.5, 2.0):
        shifted = shift_pitch(tone(400), 16000, semitones)
        assert len(shifted) == 16000
        assert loudest(shifted) == pytest.approx(400 * 2 ** (semitones / 12), abs=3)
        assert np.abs(shifted[-200:]).max() > 0.2  # to its end


def test_noise_is_as_far_below_the_clip_as_requested() -> None:
    clean = tone(300)
    noise = add_noise(clean, 20.0, np.random.default_rng(0)) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(20, abs=0.2)


def test_half_of_the_clips_are_changed_and_never_by_more_than_a_tenth_in_length() -> None:
    lengths = np.array([
        len(augment(tone(300, 0.2), 16000, ("speed", "noise"), np.random.default_rng(seed)))
        for seed in range(200)
    ])  # fmt: skip
    assert 0.35 < np.mean(lengths != 3200) < 0.65
    assert lengths.min() >= 3200 / 1.1 - 1 and lengths.max() <= 3200 / 0.9 + 1
    assert lengths.min() < 3000 and lengths.max() > 3400


def test_a_clip_changes_with_the_epoch_and_with_nothing_else(decoded: Sounds) -> None:
    targets = np.eye(12, 3, dtype=np.float32)
    options = TrainingOptions(augment=("speed", "pitch", "noise"), mixup=0.4, seed=3)

    def epoch(number: int, order: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        varied = VariedExamples(Examples(decoded, range(12), targets), options)
        varied.set_epoch(number)
        return {index: varied[index] for index in order}

    one, again, other = epoch(1, range(12)), epoch(1, range(11, -1, -1)), epoch(2, range(12))
    for index in range(12):
        for values, same in zip(one[index], again[index], strict=True):
            np.testing.assert_array_equal(values, same)
        assert one[index][0].dtype == one[index][1].dtype == np.float32
        assert not np.array_equal(one[index][0], other[index][0])
        assert one[index][0].std() == pytest.approx(1, abs=1e-3)  # as the checkpoint asks for


def test_a_training_sets_the_epoch_of_its_clips(
    decoded: Sounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    monkeypatch.setattr(VariedExamples, "set_epoch", lambda self, epoch: epochs.append(epoch))
    options = TrainingOptions(epochs=3, augment=("noise",))
    kind = Network("cnn", options)
    examples = Examples(decoded, range(12), np.eye(2, dtype=np.float32)[[0, 1] * 6])
    model = kind.build(["a", "b"], "classification")
    train_model(model, kind, examples, None, options, tmp_path, "cpu")
    assert sorted(set(epochs)) == [0, 1, 2]


def test_clips_and_labels_are_mixed_in_the_same_shares(decoded: Sounds) -> None:
    quiet, loud = tone(300) * np.float32(0.01), tone(1000, 0.5)
    mixed = mix(quiet, loud, 0.7)
    assert len(mixed) == 16000
    spectrum = np.abs(np.fft.rfft(mixed[:8000]))
    assert spectrum[500] / spectrum[150] == pytest.approx(0.3 / 0.7, rel=0.02)
    np.testing.assert_allclose(mixed[8000:], 0.7 * quiet[8000:])
    targets = np.eye(12, dtype=np.float32)
    varied = VariedExamples(Examples(decoded, range(12), targets), TrainingOptions(mixup=0.4))
    for index in range(12):
        shares = varied[index][1]
        assert shares.sum() == pytest.approx(1) and shares.argmax() == index
        assert shares[index] >= 0.5
    assert any(varied[index][1].max() < 0.95 for index in range(12))


# What is trained


def test_batches_of_a_step_add_up_to_one_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(8, 3, generator=draw), torch.eye(3)[[0, 0, 1, 2, 0, 1, 0, 2]]
    loss = make_loss(labels.numpy(), label_smoothing=0.1)
    whole = loss({"logits": logits}, labels)
    parts = [
        loss({"logits": logits[half]}, labels[half], num_items_in_batch=labels.numel())
        for half in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(sum(parts), whole)
    sharper = make_loss(labels.numpy(), label_smoothing=0.0)
    sure = 50 * labels
    assert sharper({"logits": sure}, labels) < 1e-6 < 1 < loss({"logits": sure}, labels)


def test_the_concordance_that_is_trained_is_the_one_that_is_reported() -> None:
    draw = np.random.default_rng(0)
    truth = draw.uniform(1, 7, 50)
    predicted = 0.5 * truth + draw.standard_normal(50)
    trained = concordance(torch.tensor(predicted), torch.tensor(truth))
    assert float(trained) == pytest.approx(
        float(RATINGS.first(RATINGS.count(truth, predicted, ())))
    )
    assert float(concordance(torch.zeros(3), torch.zeros(3))) == 0


def test_ratings_are_learnt_and_the_exported_model_predicts_them_in_their_units(
    pitches: Path, small_encoder: Path, serpipe: Command
) -> None:
    done = serpipe(
        "finetune", "--manifest", pitches, "--target", "khz", "--encoder", small_encoder,
        "--split", "kfold:2", "--device", "cpu", "--probe", "none", "--epochs", 10,
        "--batch-size", 8, "--learning-rate", 2e-3, "--head-learning-rate", 1e-2,
        "--train-front-end",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    nested = [row for row in rows(run, "predictions/finetuned.csv") if row["layer"] == "nested"]
    truth, predicted = (
        np.array([float(row[name]) for row in nested]) for name in ("truth", "predicted")
    )
    assert float(RATINGS.first(RATINGS.count(truth, predicted, ()))) > 0.8
    clips = sorted(pitches.parent.glob("*.wav"))
    (of_model,) = score([run / "model"], clips)
    with pitches.open() as file:
        khz = {row["path"]: float(row["khz"]) for row in csv.DictReader(file)}
    plain = np.array([each["khz"] for each in of_model])
    assert np.abs(plain - np.array([khz[clip.name] for clip in clips])).mean() < 0.25


@pytest.mark.parametrize(("network", "epochs"), [("cnn", 12), ("s4", 1)])
def test_networks_are_tested_on_the_folds_of_fit_and_saved(
    network: str, epochs: int, pitches: Path, small_encoder: Path, serpipe: Command
) -> None:
    options = ("finetune", "--network", network, "--manifest", pitches, "--target", "pitch",
               "--split", "kfold:3", "--device", "cpu", "--epochs", epochs,
               "--batch-size", 8, "--head-learning-rate", 5e-3)  # fmt: skip
    done = serpipe(*options)
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    nested = [row for row in rows(run, f"predictions/{network}.csv") if row["layer"] == "nested"]
    learnt = network == "cnn"  # tests/test_networks.py shows that S4 learns, too
    assert not learnt or np.mean([row["truth"] == row["predicted"] for row in nested]) > 0.9
    assert serpipe("extract", "--manifest", pitches, "--encoder", small_encoder).code == 0
    quick = ("--layers", 2, "--grid", "C=1")
    probe = serpipe(
        "fit", "--head", "lr", "--target", "pitch", "--split", "kfold:3", *quick
    ).out.strip()
    assert (Path(probe) / "clips.csv").read_bytes() == (run / "clips.csv").read_bytes()
    report = serpipe("report", run, probe)
    assert report.code == 0, report.err
    assert f"1 {network} - 2 lr" in report.out
    beside = serpipe(*options, "--probe", probe)
    assert beside.code == 0, beside.err
    assert Path(beside.out.splitlines()[-1]) == run and "epoch 1 " not in beside.err
    assert serpipe("report", run).code == 0 and (run / "report" / "probe.csv").is_file()
    model = load_network(run / "model")
    assert model.outputs == ["high", "low"]
    predicted = []
    for path in sorted(pitches.parent.glob("*.wav")):
        wave = torch.from_numpy(read_waveform(path, 16000, "mean")[0])
        predicted.append(model.outputs[int(model(wave[None])["logits"].argmax())])
    with pitches.open() as file:
        truth = [row["pitch"] for row in sorted(csv.DictReader(file), key=lambda r: r["path"])]
    assert not learnt or np.mean([a == b for a, b in zip(predicted, truth, strict=True)]) > 0.9
    (run / "model" / "model.safetensors").write_bytes(b"no")
    with raises_about(UserError, run / "model" / "model.safetensors"):
        load_network(run / "model")
    (run / "model" / "files.json").unlink()
    with raises_about(UserError, run / "model"):
        load_network(run / "model")


def test_folds_trained_at_once_give_the_same_bits(
    pitches: Path,
    small_encoder: Path,
    tmp_path: Path,
    forked_workers: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Forked, the processes of both devices import nothing.
    forked = SimpleNamespace(get_context=lambda how: multiprocessing.get_context("forkserver"))
    monkeypatch.setattr("serpipe.pipeline.finetune.processes.multiprocessing", forked)
    options, encoder = TrainingOptions(epochs=1, augment=("noise",)), str(small_encoder)
    for name, devices, where in (
        ("run0", ("cpu",), None), ("run1", ("cpu", "cpu"), None), ("run2", ("cpu",), "local:1"),
    ):  # fmt: skip
        kind = EncoderWithHead(load_checkpoint(encoder, None), options, encoder)
        with workers(where) as cluster:
            record_finetuning(
                listed(pitches, None), kind, options,
                Protocol(target="pitch", split="kfold:2"), devices=devices, cluster=cluster,
                export=False, provenance={}, out=tmp_path / name,
            )  # fmt: skip
    for name in ("predictions/finetuned.csv", "search/finetuned.csv", "run.json"):
        one, *others = ((tmp_path / run / name).read_bytes() for run in ("run0", "run1", "run2"))
        assert others == [one, one], name


def test_a_killed_training_of_augmented_clips_resumes_to_the_same_bits(
    pitches: Path, tmp_path: Path, serpipe: Command
) -> None:
    options = ("finetune", "--network", "cnn", "--manifest", pitches, "--target", "pitch",
               "--split", "kfold:2", "--device", "cpu", "--epochs", 3, "--mixup", 0.4,
               "--augment", "speed,pitch,noise", "--tensorboard", "--no-export")  # fmt: skip
    (tmp_path / "whole").mkdir()
    undisturbed = Forked("serpipe", *options, cwd=tmp_path / "whole", err=Path("err"))
    assert undisturbed.wait() == 0
    progress = Path("err").read_text()
    assert "Traceback" not in progress and "Warning" not in progress
    (whole,) = (tmp_path / "whole" / "artifacts" / "runs").iterdir()
    assert list((whole / "tensorboard" / "fold-0002").glob("events.out.tfevents.*"))
    run = Path("artifacts") / "runs" / whole.name
    process = Forked("serpipe", *options)
    end = time.monotonic() + 100
    while not list(run.glob("parts/training/fold-0001/checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (run / "predictions").exists()
    done = serpipe(*options)
    assert done.code == 0, done.err
    assert Path(done.out.strip()) == run
    for name in ("predictions/cnn.csv", "search/cnn.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    ("wrong", "values"),
    [
        (("--network", "rnn"), ["--network rnn"]),
        (("--network", "cnn", "--lora", 4), ["--lora", "--network"]),
        (("--network", "cnn", "--probe", "make"), ["--probe make", "--network cnn"]),
        (("--augment", "speed,echo"), ["--augment echo"]),
        (("--mixup", -1), ["--mixup -1"]),
        (("--label-smoothing", 1), ["--label-smoothing 1"]),
        (("--layer-decay", 0), ["--layer-decay 0"]),
        (("--lora", 4, "--layer-decay", 0.9), ["--lora", "--layer-decay"]),
        (("--target", "khz", "--label-smoothing", 0.1), ["--label-smoothing"]),
    ],
)
def test_mistakes_are_reported_in_one_line(
    wrong: tuple[object, ...],
    values: list[str],
    pitches: Path,
    small_encoder: Path,
    serpipe: Command,
) -> None:
    done = serpipe("finetune", "--manifest", pitches, "--target", "pitch", "--encoder",
                   small_encoder, "--split", "kfold:3", "--device", "cpu", "--probe", "none",
                   *wrong)  # fmt: skip
    assert_refused(done, *values)
