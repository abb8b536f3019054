"""Extraction against the plain way and against the forward pass alone, in one run.

python benchmarks/extract.py --data ../shared/data/ravdess --encoder whisper-tiny.en

plain    transformers as its documentation shows it: one clip at a time, all hidden states, mean
forward  the limit: the encoder alone, on inputs already in memory, no pooling, nothing stored
serpipe  the whole extraction, from audio files to HDF5

Each runs in a process of its own, so that its peak memory is its own. Loading the encoder is not
counted in any of them. "against forward" is also the share of the time in which the device
computes. Of many clips it takes every n-th by length, so that any number of clips
has the corpus' mix of lengths.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from serpipe.corpora import Clip, scan
from serpipe.corpora.data import find_source
from serpipe.features.audio import read_waveform
from serpipe.features.batching import plan
from serpipe.features.decoding import DecodedClip
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.engine import local_engine
from serpipe.features.extract import extract
from serpipe.features.in_order import in_order
from serpipe.features.names import BUILT_IN
from serpipe.features.options import ExtractOptions
from serpipe.provenance import cores, provenance

WAYS = ("plain", "forward", "serpipe")


def main() -> None:
    """Measure each way in a child process and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--encoder", default="whisper-tiny.en")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", help="of serpipe and of forward")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the fastest of each counts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    results: dict[str, dict[str, float]] = {}
    for _ in range(arguments.repeat):
        for way in WAYS:  # in turn, so that a slow minute of the machine hits all
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            child = subprocess.run(command, check=True, capture_output=True, text=True)
            result = json.loads(child.stdout.splitlines()[-1])
            if way not in results or result["seconds"] < results[way]["seconds"]:
                results[way] = result
    print(f"{arguments.encoder} on {arguments.data}, {arguments.clips} clips\n")
    print("| way | clips/s | audio-s/s | against plain | against forward | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    for way, told in results.items():
        ratios = [results[other]["seconds"] / told["seconds"] for other in ("plain", "forward")]
        print(
            f"| {way} | {told['clips'] / told['seconds']:.2f} "
            f"| {told['audio_seconds'] / told['seconds']:.1f} "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} | {told['peak_mib']:.0f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({**results, "provenance": provenance()}, indent=1))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one way in this process."""
    data = find_source(arguments.data)
    every = scan(data.folder, data.corpus).clips
    by_length = sorted(every, key=lambda clip: Path(str(clip.file)).stat().st_size)
    step = max(1, len(by_length) // arguments.clips)
    clips = by_length[::step][: arguments.clips]
    audio_seconds = sum(read_waveform(clip.file, 16000)[1].seconds for clip in clips)
    workers = arguments.jobs or cores()

    def load(precision: str) -> Encoder:
        return load_encoder(arguments.encoder, device=arguments.device, precision=precision)

    if arguments.way == "plain":
        plain = plain_loop(arguments.encoder, arguments.device)
        plain(clips[:1])
        start = time.perf_counter()
        plain(clips)
    elif arguments.way == "forward":
        encoder = load(arguments.precision)
        for module in encoder.model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        decoded = [DecodedClip(clip, read_waveform(clip.file, 16000)[1]) for clip in clips]
        on_cpu = encoder.device.type == "cpu"
        batches = plan(
            decoded, 0 if on_cpu else ExtractOptions.batch_seconds, encoder.window_seconds
        )
        inputs = [
            encoder._inputs([read_waveform(h.clip.file, 16000)[0] for h in batch]).tensors
            for batch in batches
        ]

        def forward(batch: dict[str, torch.Tensor]) -> None:
            if on_cpu:
                torch.set_num_threads(1)
            with torch.inference_mode():
                encoder.model(**{name: one.to(encoder.device) for name, one in batch.items()})

        lanes = workers if on_cpu else 1
        list(in_order(forward, inputs[:lanes], lanes, ahead=0))
        synchronize(encoder)
        start = time.perf_counter()
        for _ in in_order(forward, inputs, lanes, ahead=0):
            pass
        synchronize(encoder)
    else:
        encoder = load(arguments.precision)
        with tempfile.TemporaryDirectory() as scratch:
            warm, out = Path(scratch) / "warm.h5", Path(scratch) / "c.h5"
            extract(local_engine([encoder], workers=workers), clips[:workers], warm, provenance={})
            start = time.perf_counter()
            extract(local_engine([encoder], workers=workers), clips, out, provenance={})
    return {
        "seconds": time.perf_counter() - start,
        "clips": len(clips),
        "audio_seconds": audio_seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def plain_loop(source: str, device: str) -> Callable[[Sequence[Clip]], list[Any]]:
    """Return what embeds clips as the documentation of transformers shows it."""
    folder = BUILT_IN.get(source, source)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    is_whisper = "whisper" in type(extractor).__name__.lower()
    if is_whisper:
        whole = transformers.WhisperForAudioClassification.from_pretrained(
            folder, dtype=torch.float32
        )
        model: Any = whole.encoder
    else:
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    model = model.eval().to(device)

    def embed(clips: Sequence[Clip]) -> list[Any]:
        embedded = []
        for clip in clips:
            waveform, _ = read_waveform(clip.file, 16_000)
            inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
            first = next(iter(inputs.values())).to(device)
            with torch.no_grad():
                states = model(first, output_hidden_states=True).hidden_states
            frames = -(-len(waveform) // 320) if is_whisper else None
            embedded.append([state[0, :frames].mean(dim=0).cpu().numpy() for state in states])
        return embedded

    return embed


def synchronize(encoder: Encoder) -> None:
    """Wait until a GPU has done what it was given."""
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
