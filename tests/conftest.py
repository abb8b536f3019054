"""What several test files need: real clips, small random encoders, the command line."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from filelock import FileLock
from serpipe.integrity import write_sealed_json

from .processes import ForkedReader, start_fork_server

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Small models of each kind: width 32, 3 blocks, the usual seven convolutions.
_SMALL: dict[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.5,  # would drop blocks at once if it were not switched off
    "mask_time_prob": 0.5,
}
_GROUP: dict[str, object] = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
_LAYER: dict[str, object] = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "wav2vec2-group": ("Wav2Vec2", _SMALL | _GROUP),
    "wav2vec2-layer-stable": ("Wav2Vec2", _SMALL | _LAYER),
    "wav2vec2-layer-post": ("Wav2Vec2", _SMALL | _LAYER | {"do_stable_layer_norm": False}),
    "hubert-group": ("Hubert", _SMALL | _GROUP),
    "hubert-layer-stable": ("Hubert", _SMALL | _LAYER),
    "wavlm-group": ("WavLM", _SMALL | _GROUP),
    "wavlm-layer-stable": ("WavLM", _SMALL | _LAYER),
    "unispeech-group": ("UniSpeech", _SMALL | _GROUP),
    "unispeech-sat-layer-stable": ("UniSpeechSat", _SMALL | _LAYER),
    "data2vec-audio": (
        "Data2VecAudio",
        _SMALL | {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
    ),
    "whisper": (
        "Whisper",
        {
            "d_model": 32,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "vocab_size": 100,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "encoder_layerdrop": 0.5,
        },
    ),
}


def save_encoder(
    folder: Path, family: str, *, do_normalize: bool = True, **changes: object
) -> Path:
    """Save a randomly initialised encoder and its feature extractor, as transformers would."""
    import torch
    import transformers

    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(settings | changes))
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    if name == "Whisper":
        extractor = transformers.WhisperFeatureExtractor()
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def family_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random encoder of a family; made once."""

    def make(family: str) -> Path:
        def save(folder: Path) -> None:
            save_encoder(folder / family, family)

        return made_once(tmp_path_factory, family, save) / family

    return make


@pytest.fixture(scope="session")
def small_encoder(family_encoder: Callable[[str], Path]) -> Path:
    """A small random wav2vec 2.0 with a group norm, as the base models have."""
    return family_encoder("wav2vec2-group")


#: Fewer and larger steps than usual, to the usual 320 samples: the time to trace an encoder grows
#: with the number of nodes of its graph.
FEW_NODES: dict[str, Any] = {
    "conv_dim": (16,) * 3,
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
}


@pytest.fixture(scope="session")
def traceable_encoder(
    tmp_path_factory: pytest.TempPathFactory, family_encoder: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The folder of a small random encoder of a family with few operations; made once.

    It has one layer, or two where a norm follows the last one.
    """

    def make(family: str) -> Path:
        def save(folder: Path) -> None:
            n_layers = 2 if "stable" in family else 1
            save_encoder(folder / family, family, num_hidden_layers=n_layers, **FEW_NODES)

        if family == "whisper":  # has two convolutions
            return family_encoder(family)
        return made_once(tmp_path_factory, f"traceable-{family}", save) / family

    return make


@pytest.fixture(scope="session")
def sample() -> Path:
    """The built-in sample: 192 real clips."""
    return ROOT / "corpora" / "sample"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real audio beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: it holds the real corpora and is not part of serpipe")
    return SHARED


@pytest.fixture
def few_clips(tmp_path: Path, sample: Path) -> Path:
    """Forty real clips: five actors, all eight emotions."""
    return copy_clips(sample, tmp_path / "ravdess")


def copy_clips(sample: Path, folder: Path) -> Path:
    for actor in range(1, 6):
        shutil.copytree(sample / f"Actor_{actor:02d}", folder / f"Actor_{actor:02d}")
    return folder


@pytest.fixture(scope="session")
def extracted_once(
    tmp_path_factory: pytest.TempPathFactory, sample: Path, small_encoder: Path
) -> Path:
    """A working directory in which the forty clips are extracted: made once, to be copied."""

    def make(folder: Path) -> None:
        clips = copy_clips(sample, folder / "ravdess")
        (folder / "work").mkdir()
        call_in(folder / "work", "extract", "--data", clips, "--encoder", small_encoder)

    return made_once(tmp_path_factory, "extracted", make) / "work"


@pytest.fixture(scope="session")
def fitted_once(tmp_path_factory: pytest.TempPathFactory, extracted_once: Path) -> Path:
    """The same with a run of two heads."""

    def make(folder: Path) -> None:
        shutil.copytree(extracted_once, folder / "work")
        call_in(folder / "work", "fit", "--head", "lr,svm", "--grid", "svm.C=1,10")

    return made_once(tmp_path_factory, "fitted", make) / "work"


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder that the first process of the session fills, and all others use."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def call_in(work: Path, *arguments: object) -> None:
    """Run the command line in a folder; what it says is shown where the test fails."""
    with contextlib.chdir(work):
        assert run_main(*arguments) == 0


def run_main(*arguments: object, render_figures: bool = True) -> int:
    """Call the command line in this process, where torch is loaded already; its exit code.

    Rendering takes most of the time of a report. Without it the figures are still drawn, as objects
    of matplotlib, and blank files are written in their place.
    """
    from serpipe.cli import main

    on_interrupt = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["serpipe", *map(str, arguments)])
        if not render_figures and arguments[:1] in (("report",), ("study",)):
            patch.setattr("serpipe.artifacts.report.figures.as_bytes", lambda *_: b"blank")
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            signal.signal(signal.SIGINT, on_interrupt)  # pytest's own
    return 0


@pytest.fixture(scope="session", autouse=True)
def forked_readers() -> Iterator[None]:
    """Fork the processes that read caches, of which the tests need thousands.

    Commands that tests run in a process of their own start their readers themselves.
    """
    from serpipe.features import cache_child

    if "forkserver" not in multiprocessing.get_all_start_methods():  # on Windows
        yield
        return
    forked = SimpleNamespace(Popen=ForkedReader, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_child, "subprocess", forked)
        yield


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Start the workers of Dask that `local:N` starts by forking, which takes no imports."""
    import dask

    start_fork_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """Write a 16-bit WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code and the two streams."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def serpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command line, called in this process, in an empty working directory.

    Figures of reports are rendered only on request.
    """
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments: object, render_figures: bool = False) -> Finished:
        capsys.readouterr()
        code = run_main(*arguments, render_figures=render_figures)
        streams = capsys.readouterr()
        return Finished(code, streams.out, streams.err)

    return call


def run_python(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
        cwd=cwd,
    )


def write_unhashed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a ``run.json`` or ``bundle.json`` as it was before files were hashed."""
    versions = {"serpipe_run": 2, "serpipe_bundle": 1}
    earlier = {name: versions.get(name, value) for name, value in content.items()}
    path.write_text(json.dumps(without_hashes(earlier), indent=1))


def write_hashed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a changed ``run.json`` or ``bundle.json`` with a hash that fits its text."""
    write_sealed_json(path, {k: v for k, v in content.items() if k != "sha256"})


def without_hashes(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("files", "sha256")}


def extract_with(encoder: Any, clips: Any, out: Path, *, workers: int = 1, **options: Any) -> Any:
    """Extract with a loaded encoder; options are those of the engine or of the extraction."""
    from serpipe.features.engine import local_engine
    from serpipe.features.extract import extract
    from serpipe.features.options import ExtractOptions

    names = {field.name for field in fields(ExtractOptions)} & options.keys()
    own = ExtractOptions(**{name: options.pop(name) for name in names})
    engine = local_engine([encoder], own, workers=workers)
    return extract(engine, clips, out, provenance={"corpus": "x"}, **options)
