"""Prove the GPU path and measure it: exactness, speed, the main job, training, out of memory.

python benchmarks/gpu.py --out DIR                          on a machine with one CUDA device
python benchmarks/gpu.py --out DIR --wheels WHEELS          where packages arrive as wheels
python benchmarks/gpu.py --out DIR --device cpu --quick     a small run without a GPU

Each stage runs in a process of its own and writes DIR/STAGE.json when it is done. A stage whose
file is there is not run again, so that a run that was stopped resumes. All clips and all weights
are drawn, so that nothing is downloaded: 1440 clips of 48 kHz named and about as long as those of
RAVDESS, and encoders of the real sizes. Only the score of each precision is measured on real
speech, the built-in sample. `python benchmarks/gpu_table.py DIR` prints the tables of
docs/benchmarks.md.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from random_encoder import SIZES, save_encoder  # type: ignore[import-not-found]  # beside this script

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("machine", "main", "speed", "memory", "exactness", "score", "finetune", "decoding")
_SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SMALL_WHISPER = {
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
}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
#: The encoders of a real size, a small one for quick runs, and a small one of each other family.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    **SIZES,
    "small": ("Wav2Vec2", _SMALL),
    "wav2vec2, layer norm": ("Wav2Vec2", {**_SMALL, **_STABLE}),
    "hubert": ("Hubert", _SMALL),
    "hubert, layer norm": ("Hubert", {**_SMALL, **_STABLE}),
    "wavlm": ("WavLM", _SMALL),
    "wavlm, layer norm": ("WavLM", {**_SMALL, **_STABLE}),
    "data2vec-audio": ("Data2VecAudio", {**_SMALL, "conv_pos_kernel_size": 9}),
    "unispeech": ("UniSpeech", _SMALL),
    "unispeech-sat": ("UniSpeechSat", _SMALL),
    "whisper": ("Whisper", _SMALL_WHISPER),
}


def main() -> None:
    """Run every stage that has not been run, each in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, offline")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="few clips and small encoders")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them, by comma")
    parser.add_argument("--seconds", type=float, default=570, help="start no stage after these")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        result = STAGE_OF[arguments.stage](arguments)
        text = json.dumps(result, indent=1) + "\n"
        (arguments.out / f"{arguments.stage}.json").write_text(text)
        return
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = prepare_environment(arguments.wheels)
    for stage in arguments.stages.split(","):
        if (arguments.out / f"{stage}.json").exists():
            print(f"{stage}: there already", flush=True)
            continue
        left = arguments.seconds - (time.monotonic() - start)
        if left < 5:
            print(f"{stage}: no time left", flush=True)
            continue
        before = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage]
        with (arguments.out / f"{stage}.log").open("w") as log:
            try:
                code = subprocess.run(
                    command, env=environment, stdout=log, stderr=log, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
        outcome = "done" if code == 0 else f"failed with code {code}"
        print(f"{stage}: {outcome} in {time.monotonic() - before:.1f} s", flush=True)
        if code:
            print((arguments.out / f"{stage}.log").read_text()[-2500:], flush=True)


def prepare_environment(wheels: Path | None) -> dict[str, str]:
    """Make `import serpipe` mean this repository, and install wheels beside it.

    Returns
    -------
    dict of str to str
        The environment of the stages.
    """
    work = Path(os.environ.setdefault("SERPIPE_BENCH", tempfile.mkdtemp(prefix="serpipe-gpu-")))
    source = work / "src"
    source.mkdir(exist_ok=True)
    if not (source / "serpipe").exists():
        (source / "serpipe").symlink_to(ROOT)
    paths = [str(source)]
    if wheels:
        site = work / "site"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade",
             "--no-cache-dir", "--target", str(site), *map(str, sorted(wheels.glob("*.whl")))],
            check=True,
        )  # fmt: skip
        paths.append(str(site))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def work_folder() -> Path:
    """Return where clips, encoders and caches of this run go."""
    return Path(os.environ["SERPIPE_BENCH"])


# What is measured on.


def encoder_folder(name: str) -> Path:
    """Save an encoder with drawn weights, once, and return its folder."""
    folder = work_folder() / "encoders" / name.replace(", ", "-").replace(" ", "-")
    if not folder.exists():
        save_encoder(folder, *ENCODERS[name])
    return folder


def corpus_folder(quick: bool) -> Path:
    """Write clips with the names of RAVDESS and about its lengths, once; return their folder."""
    import numpy as np
    import soundfile

    folder = work_folder() / "ravdess"
    if folder.exists():
        return folder
    endings = ("01-01", "01-02", "02-01", "02-02")[: 1 if quick else 4]
    rng = np.random.default_rng(0)
    for actor in range(1, 5 if quick else 25):
        (folder / f"Actor_{actor:02d}").mkdir(parents=True)
        for emotion in range(1, 9):
            for intensity in (1, 2)[: 1 if quick or emotion == 1 else 2]:
                for last in endings:
                    seconds = round(30 * float(np.clip(rng.normal(3.7, 0.33), 2.9, 5.3))) / 30
                    samples = rng.standard_normal(round(48_000 * seconds), dtype=np.float32)
                    beats = np.linspace(0, seconds * float(rng.uniform(2, 6)), len(samples))
                    samples *= 0.05 + 0.05 * np.abs(np.sin(np.pi * beats, dtype=np.float32))
                    name = f"03-01-{emotion:02d}-{intensity:02d}-{last}-{actor:02d}.wav"
                    soundfile.write(folder / f"Actor_{actor:02d}" / name, samples, 48_000)
    return folder


def clips_of(folder: Path, n_clips: int | None = None) -> list[Any]:
    """Return the clips of a folder, or evenly spread ones."""
    from serpipe.corpora import scan
    from serpipe.corpora.data import find_source

    source = find_source(str(folder))
    clips = list(scan(source.folder, source.corpus).clips)
    step = max(1, len(clips) // n_clips) if n_clips else 1
    return clips[::step][:n_clips]


def waveforms_of(clips: Sequence[Any]) -> list[Any]:
    """Decode clips in threads."""
    from concurrent.futures import ThreadPoolExecutor

    from serpipe.features.audio import read_waveform

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda clip: read_waveform(clip.file, 16_000)[0], clips))


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


# The stages.


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what there is, and the rates of a matrix product and a copy here."""
    import importlib.metadata

    import torch

    versions = {}
    for package in ("torch", "transformers", "numpy", "h5py", "soundfile", "soxr", "scikit-learn",
                    "lightgbm", "accelerate", "triton"):  # fmt: skip
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    result: dict[str, Any] = {"versions": versions, "cores": os.cpu_count()}
    if not arguments.device.startswith("cuda"):
        return {**result, "device": arguments.device, "tflops": {}}
    properties = torch.cuda.get_device_properties(arguments.device)
    result["device"] = properties.name
    result["memory_gib"] = round(properties.total_memory / 2**30, 1)
    rates = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        one = torch.randn(8192, 8192, device=arguments.device).to(dtype)
        for _ in range(3):
            one @ one
        synchronize(arguments.device)
        start = time.perf_counter()
        for _ in range(10):
            one @ one
        synchronize(arguments.device)
        rates[name] = round(10 * 2 * 8192**3 / (time.perf_counter() - start) / 1e12, 1)
    return {**result, "tflops": rates}


def exactness(arguments: argparse.Namespace) -> dict[str, Any]:
    """Batch against alone against the CPU, and precisions against float32, for each family."""
    import numpy as np
    from serpipe.features.encoder import load_encoder

    rng = np.random.default_rng(1)
    n_clips = 4 if arguments.quick else 16
    lengths = rng.integers(8_000, 80_000, n_clips)
    waveforms = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in lengths]
    precisions = ["tf32", "bf16", "fp16"] if arguments.device.startswith("cuda") else ["bf16"]
    results: dict[str, Any] = {}
    families = list(ENCODERS)[list(ENCODERS).index("small") + 1 :]
    for family in families if arguments.quick else ["wav2vec2-base", *families]:
        folder = encoder_folder(family)

        def embed(device: str, precision: str, alone: bool, folder: Path = folder) -> Any:
            encoder = load_encoder(
                str(folder), device=device, precision=precision, poolings=("mean", "std")
            )
            if not alone:
                embedded = encoder.embed(waveforms)
            else:
                each = [encoder.embed([waveform]) for waveform in waveforms]
                embedded = {
                    name: np.concatenate([one[name] for one in each], 1) for name in each[0]
                }
            return np.stack([embedded["mean"], embedded["std"]])

        on_cpu = embed("cpu", "float32", alone=True)
        batch = embed(arguments.device, "float32", alone=False)
        alone = embed(arguments.device, "float32", alone=True)
        scale = float(np.abs(on_cpu).max())
        results[family] = {
            "largest_value": scale,
            "batch_alone": float(np.abs(batch - alone).max()),
            "device_cpu": float(np.abs(alone - on_cpu).max()),
        }
        for precision in precisions:
            other = embed(arguments.device, precision, alone=False)
            far = float(np.linalg.norm(other - batch) / np.linalg.norm(batch))
            results[family][precision] = {
                "relative": far, "largest": float(np.abs(other - batch).max())
            }  # fmt: skip
    return results


@contextlib.contextmanager
def timed(clock: dict[str, float], name: str, module: Any, attribute: str) -> Iterator[None]:
    """Add up the wall-clock seconds that all threads spend in a function."""
    function = getattr(module, attribute)

    def wrapper(*args: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **keywords)
        finally:
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - start

    setattr(module, attribute, wrapper)
    try:
        yield
    finally:
        setattr(module, attribute, function)


def extraction(
    clips: Sequence[Any], encoder: Any, workers: int, **options: Any
) -> tuple[dict[str, Any], Any]:
    """Extract into a file that is not there yet; return seconds by step, and the embeddings."""
    from serpipe.features.engine import local_engine
    from serpipe.features.extract import extract

    steps: dict[str, float] = {}

    def track(items: Any, label: Any, total: int) -> Any:
        start = time.perf_counter()
        yield from items
        steps[str(label).split(",")[0]] = time.perf_counter() - start

    with tempfile.TemporaryDirectory(dir=work_folder()) as scratch:
        start = time.perf_counter()
        done = extract(
            local_engine([encoder], workers=workers), clips, Path(scratch) / "cache.h5",
            provenance={}, track=track, **options,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        cache = done.cache
        layer = cache.layers[len(cache.layers) // 2]
        embeddings = cache.embeddings(layer, "mean")
    return {"seconds": seconds, "steps": steps}, embeddings


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the extraction with the plain loop of transformers and with the forward pass."""
    import numpy as np
    import torch
    from extract import plain_loop  # type: ignore[import-not-found]  # beside this script
    from serpipe.features import extract, parts, pooling
    from serpipe.features.decoding import Decoder
    from serpipe.features.encoder import Encoder, load_encoder
    from serpipe.features.options import ExtractOptions

    is_cuda = arguments.device.startswith("cuda")
    folder = corpus_folder(arguments.quick)
    every = clips_of(folder)
    workers = len(os.sched_getaffinity(0))
    names = ["small"] if arguments.quick else ["wav2vec2-base", "xls-r-300m", "wavlm-large"]
    names += ["whisper-tiny.en"]
    results: dict[str, Any] = {"clips": len(every)}
    all_waveforms = waveforms_of(every)
    results["audio_seconds"] = sum(map(len, all_waveforms)) / 16_000
    all_clips = every
    for name in names:
        # The large ones on a quarter of the clips: their rates are the same, and time is short.
        step = 4 if name in ("xls-r-300m", "wavlm-large") else 1
        every, waveforms = all_clips[::step], all_waveforms[::step]
        source = name if name.startswith("whisper") else str(encoder_folder(name))
        rows: dict[str, Any] = {}
        plain = plain_loop(source, arguments.device)
        few = clips_of(folder, 8 if arguments.quick else 96)
        plain(few[:4])
        start = time.perf_counter()
        plain(few)
        synchronize(arguments.device)
        rows["plain"] = {"seconds": time.perf_counter() - start, "clips": len(few)}
        runs = [("float32", False), ("tf32", False), ("bf16", False)]
        if name in ("wav2vec2-base", "xls-r-300m"):
            runs.append(("bf16", True))
        if not is_cuda:
            runs = runs[:1]
        reference = None
        for precision, compiled in runs:
            loaded = time.perf_counter()
            encoder = load_encoder(
                source, device=arguments.device, precision=precision, compile_blocks=compiled
            )
            loaded = time.perf_counter() - loaded
            row: dict[str, Any] = {"load_seconds": loaded}
            row |= {"clips": len(every), "audio_seconds": sum(map(len, waveforms)) / 16_000}
            start = time.perf_counter()
            encoder.embed(waveforms[:64])  # kernels are chosen and compiled
            encoder.embed(waveforms[:1])
            row["warm_up_seconds"] = time.perf_counter() - start
            extraction(every[:64], encoder, workers)
            if is_cuda:
                torch.cuda.reset_peak_memory_stats()
            clock: dict[str, float] = {}
            with contextlib.ExitStack() as stack:
                for label, module, attribute in (
                    ("waiting for decoding", Decoder, "_decode"),
                    ("scaling, stacking, pinning", Encoder, "prepare"),
                    ("launching the forward pass", pooling.LayerPooler, "__call__"),
                    ("embedding, all of it", Encoder, "embed_prepared"),
                    ("writing parts", parts.Parts, "flush"),
                    ("writing the cache", extract, "_consolidate"),
                ):
                    stack.enter_context(timed(clock, label, module, attribute))
                found, embeddings = extraction(every, encoder, workers)
            row |= found
            row["thread_seconds"] = clock
            if is_cuda:
                row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            batches = batches_of(waveforms, encoder, ExtractOptions.batch_seconds if is_cuda else 0)
            row["batches"] = len(batches)
            row["padding"] = 1 - sum(map(len, waveforms)) / sum(
                len(batch) * max(map(len, batch)) for batch in batches
            )
            counted = reference is None
            row["forward_seconds"], tflop = forward_pass(
                encoder, batches, arguments.device, counted
            )
            if counted:
                rows["tflop"] = tflop
            if is_cuda and precision == "bf16":
                row["kernels"] = kernel_times(every, encoder, workers)
            if reference is None:
                reference = embeddings
            row["relative_to_float32"] = float(
                np.linalg.norm(embeddings - reference) / np.linalg.norm(reference)
            )
            rows[f"{precision}, compiled" if compiled else precision] = row
            results[name] = rows
            (arguments.out / "speed.partial.json").write_text(json.dumps(results, indent=1))
            del encoder
            if is_cuda:
                torch.cuda.empty_cache()
    return results


def batches_of(waveforms: Sequence[Any], encoder: Any, batch_seconds: float) -> list[list[Any]]:
    """Sort waveforms into the batches that the extraction makes."""
    from serpipe.corpora import Clip
    from serpipe.features.audio import AudioFacts
    from serpipe.features.batching import plan
    from serpipe.features.decoding import DecodedClip

    stand_ins = []
    for number, waveform in enumerate(waveforms):
        name = f"{number:06d}"
        clip = Clip(Path(name), name, name, "drawn", "1")
        stand_ins.append(DecodedClip(clip, AudioFacts(name, 16_000, 1, len(waveform))))
    batches = plan(stand_ins, batch_seconds, encoder.window_seconds)
    return [[waveforms[int(one.facts.sha256)] for one in batch] for batch in batches]


def forward_pass(
    encoder: Any, batches: Sequence[Any], device: str, counted: bool
) -> tuple[float, float]:
    """Return the seconds of the encoder alone on inputs on the device, and its 10^12 operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    hooks = [
        (module, dict(module._forward_hooks), dict(module._forward_pre_hooks))
        for name, module in encoder.model.named_modules()
        if not name.endswith("pos_conv_embed")
    ]
    for module, _, _ in hooks:
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    with torch.inference_mode():
        inputs = [
            {name: one.to(device) for name, one in encoder._inputs(batch).tensors.items()}
            for batch in batches
        ]
        encoder.model(**inputs[0])
        synchronize(device)
        start = time.perf_counter()
        for one in inputs:
            encoder.model(**one)
        synchronize(device)
        seconds = time.perf_counter() - start
        tflop = 0.0
        if counted:
            with FlopCounterMode(display=False) as counter:
                for one in inputs:
                    encoder.model(**one)
            tflop = counter.get_total_flops() / 1e12
    for module, after, before in hooks:
        module._forward_hooks.update(after)
        module._forward_pre_hooks.update(before)
    return seconds, tflop


def kernel_times(clips: Sequence[Any], encoder: Any, workers: int) -> dict[str, float]:
    """Return the milliseconds of the device by kind of kernel, over one extraction."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        extraction(clips, encoder, workers)
        torch.cuda.synchronize()
    kinds: dict[str, float] = {}
    for event in profiler.key_averages():
        key = event.key.lower()
        for kind, words in (
            ("copies", ("memcpy", "memset")),
            ("attention", ("attention", "flash", "fmha", "softmax", "sdpa")),
            ("convolutions", ("conv", "wgrad", "cudnn", "implicit", "xmma_fprop")),
            ("matrix products", ("gemm", "cutlass", "cublas", "nvjet", "xmma")),
            ("reductions", ("reduce",)),
            ("normalisation", ("norm",)),
            ("other", ("",)),
        ):
            if any(word in key for word in words):
                kinds[kind] = kinds.get(kind, 0.0) + event.self_device_time_total / 1000
                break
    return kinds


def main_job(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `serpipe extract` from a cold start to the finished file, three times."""
    folder = corpus_folder(arguments.quick)
    encoder = encoder_folder("small" if arguments.quick else "wav2vec2-base")
    precision = "bf16" if arguments.device.startswith("cuda") else "float32"
    runs = []
    code = (
        "import sys, time\n"
        "began = float(sys.argv.pop(1)); marks = {'python': time.time() - began}\n"
        "import torch; marks['torch'] = time.time() - began\n"
        "import transformers; marks['transformers'] = time.time() - began\n"
        "from serpipe.features import engine, extract, encoder\n"
        "import serpipe.api; marks['serpipe'] = time.time() - began\n"
        "def after(module, name, mark):\n"
        "    function = getattr(module, name)\n"
        "    def wrapper(*args, **keywords):\n"
        "        marks.setdefault(mark + ' begins', time.time() - began)\n"
        "        result = function(*args, **keywords)\n"
        "        marks[mark] = time.time() - began\n"
        "        return result\n"
        "    setattr(module, name, wrapper)\n"
        "after(encoder, 'load_checkpoint', 'checkpoint read')\n"
        "after(engine, 'load_encoder', 'encoder loaded')\n"
        "after(extract, 'check_clips', 'clips checked')\n"
        "after(extract, '_consolidate', 'file written')\n"
        "import atexit, json\n"
        "atexit.register(lambda: print('MARKS' + json.dumps(marks)))\n"
        "from serpipe.cli import main; main()\n"
    )
    for number in range(1 if arguments.quick else 2):
        out = work_folder() / f"main-{number}" / "cache.h5"
        began = time.time()
        child = subprocess.run(
            [sys.executable, "-c", code, str(began), "extract", "--data", str(folder),
             "--encoder", str(encoder), "--devices", arguments.device, "--precision", precision,
             "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if child.returncode:
            raise RuntimeError(child.stderr)
        seconds = time.time() - began
        marks = json.loads(child.stdout.partition("MARKS")[2].splitlines()[0])
        runs.append({"seconds": seconds, "marks": marks})
    return {"clips": len(clips_of(folder)), "precision": precision, "runs": runs}


def decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decode clips by one worker to all cores: threads of one process, and processes."""
    from serpipe.features.decoding import Decoder, DecodingOptions
    from serpipe.features.encoder import load_encoder
    from serpipe.features.engine import LocalEngine, cache_key

    clips = clips_of(corpus_folder(arguments.quick))
    encoder = load_encoder(str(encoder_folder("small")))
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {"threads": {}, "processes": {}}
    for number in sorted({1, 4, cores} & set(range(1, cores + 1))):
        part = clips[: len(clips) * number // cores]
        engine = LocalEngine((encoder,), cache_key(encoder), workers=number)
        start = time.perf_counter()
        list(engine.check(part))
        results["threads"][number] = len(part) / (time.perf_counter() - start)
        decoder = Decoder(DecodingOptions(), number)
        list(decoder.check(part[: 4 * number]))
        start = time.perf_counter()
        list(decoder.check(part))
        results["processes"][number] = len(part) / (time.perf_counter() - start)
        decoder.close()
    return results


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let memory run out: the budget halves, and the numbers are the same."""
    import numpy as np
    import torch
    from serpipe.features.encoder import load_encoder

    clips = clips_of(corpus_folder(arguments.quick), None if arguments.quick else 480)
    name = "small" if arguments.quick else "wav2vec2-base"
    encoder = load_encoder(str(encoder_folder(name)), device=arguments.device)
    workers = len(os.sched_getaffinity(0))
    ample, expected = extraction(clips, encoder, workers)
    if not arguments.device.startswith("cuda"):
        return {"skipped": "there is no memory of a device to limit", "ample": ample}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(arguments.device).total_memory
    limit = max(peak // 3, torch.cuda.memory_allocated() + (1 << 30))
    torch.cuda.set_per_process_memory_fraction(limit / total, arguments.device)
    scarce, found = extraction(clips, encoder, workers)
    return {
        "peak_mib": peak / 2**20, "limit_mib": limit / 2**20, "ample": ample, "scarce": scarce,
        "ooms": torch.cuda.memory_stats()["num_ooms"],
        "largest_difference": float(np.abs(found - expected).max()),
    }  # fmt: skip


def score(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the UAR on the built-in sample with the built-in encoder in each precision."""
    precisions = ["float32", "tf32", "bf16", "fp16"]
    if not arguments.device.startswith("cuda"):
        precisions = ["float32", "bf16"][: 1 if arguments.quick else 2]
    results = {}
    for precision in precisions:
        folder = work_folder() / f"score-{precision}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", "from serpipe.cli import main; main()"]
        subprocess.run(
            [*command, "extract", "--data", "sample", "--encoder", "whisper-tiny.en", "--precision",
             precision, "--devices", arguments.device, "--out", "c.h5"],
            cwd=folder, check=True,
        )  # fmt: skip
        grid = ["--grid", "C=0.01"] if arguments.quick else []
        subprocess.run(
            [*command, "fit", "--cache", "c.h5", "--head", "lr", *grid, "--out", "run"],
            cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        report = subprocess.run(
            [*command, "report", "run", "--format", "json"],
            cwd=folder, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        row = json.loads(report)["tables"]["nested"][0]
        results[precision] = {name: 100 * row[name] for name in ("uar", "uar_low", "uar_high")}
    return results


def finetune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train beside a plain Trainer, then one fold from end to end."""
    folder = corpus_folder(arguments.quick)
    encoder = encoder_folder("small" if arguments.quick else "wav2vec2-base")
    is_cuda = arguments.device.startswith("cuda")
    precision = "bf16" if is_cuda else "float32"
    batch = 4 if arguments.quick else 32
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "finetune.py"), "--encoder", str(encoder),
         "--data", str(folder), "--device", arguments.device.partition(":")[0], "--precision",
         precision, "--batch-size", str(batch), "--steps", "4" if arguments.quick else "30",
         "--repeat", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    results: dict[str, Any] = {"steps": done.stderr[-2000:] if done.returncode else done.stdout}
    command = [sys.executable, "-c", "from serpipe.cli import main; main()"]
    for name, options in {
        "fold": [],
        "fold, gradient checkpointing": ["--gradient-checkpointing"],
    }.items():
        out = work_folder() / f"finetune-{len(results)}"
        start = time.perf_counter()
        child = subprocess.run(
            [*command, "finetune", "--data", str(folder), "--encoder", str(encoder), "--device",
             arguments.device.partition(":")[0], "--precision", precision, "--split",
             "kfold:2" if arguments.quick else "holdout:70/10/20", "--epochs",
             "1" if arguments.quick else "3", "--batch-size", str(batch), "--out", str(out),
             *options],
            capture_output=True, text=True, check=False, cwd=work_folder(),
        )  # fmt: skip
        results[name] = {"seconds": time.perf_counter() - start, "code": child.returncode}
        print(child.stderr, child.stdout, flush=True)  # into the log of the stage
    return results


STAGE_OF: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "machine": machine,
    "exactness": exactness,
    "main": main_job,
    "speed": speed,
    "decoding": decoding,
    "memory": memory,
    "score": score,
    "finetune": finetune,
}

if __name__ == "__main__":
    main()
