"""Extraction against the plain way and against the forward pass alone, in one run.

python benchmarks/extract.py --data ../shared/data/ravdess --encoder whisper-tiny.en

plain    transformers as its documentation shows it: one clip at a time, all hidden states, mean
forward  the limit: the encoder alone, on inputs already in memory, no pooling, nothing stored
serpipe  the whole extraction, from audio files to HDF5

Each runs in a process of its own, so that its peak memory is its own. Loading the encoder is not
counted in any of them. Of many clips it takes every n-th by length, so that any number of clips
has the corpus' mix of lengths.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("plain", "forward", "serpipe")


def main() -> None:
    """Measure each way in a child process and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--encoder", default="whisper-tiny.en")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--jobs", type=int)
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
        from serpipe.provenance import provenance

        arguments.json.write_text(json.dumps({**results, "provenance": provenance()}, indent=1))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one way in this process."""
    from serpipe.corpora import find_data, scan
    from serpipe.features.audio import read_waveform
    from serpipe.features.encoder import BUILT_IN, load_encoder
    from serpipe.provenance import cores

    data = find_data(arguments.data)
    every = scan(data.folder, data.corpus).clips
    by_length = sorted(every, key=lambda clip: clip.file.stat().st_size)
    step = max(1, len(by_length) // arguments.clips)
    clips = by_length[::step][: arguments.clips]
    audio_seconds = sum(read_waveform(clip.file, 16000)[1].seconds for clip in clips)
    workers = arguments.jobs or cores()
    folder = BUILT_IN.get(arguments.encoder, arguments.encoder)

    if arguments.way == "plain":
        import torch
        import transformers

        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        model = load_encoder(str(folder)).model  # the same weights
        for module in model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()

        def embed_plainly(clip: object) -> object:
            waveform, _ = read_waveform(clip.file, 16000)  # type: ignore[attr-defined]
            inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
            inputs.pop("attention_mask", None)
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states
            frames = -(-len(waveform) // 320) if config.model_type == "whisper" else None
            return [state[0, :frames].mean(dim=0).numpy() for state in states]

        embed_plainly(clips[0])
        start = time.perf_counter()
        for clip in clips:
            embed_plainly(clip)
    elif arguments.way == "forward":
        import torch
        from serpipe.features.batching import in_order

        encoder = load_encoder(str(arguments.encoder))
        for module in encoder.model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        inputs = [encoder.front_end.inputs([read_waveform(c.file, 16000)[0]]) for c in clips]

        def forward(one: dict[str, torch.Tensor]) -> None:
            torch.set_num_threads(1)
            with torch.inference_mode():
                encoder.model(**one)

        list(in_order(forward, inputs[:workers], workers, ahead=0))
        start = time.perf_counter()
        for _ in in_order(forward, inputs, workers, ahead=0):
            pass
    else:
        from serpipe.features.extract import extract

        encoder = load_encoder(str(arguments.encoder))
        with tempfile.TemporaryDirectory() as scratch:
            warm = Path(scratch) / "warm.h5"
            extract(clips[:workers], [encoder], warm, provenance={}, workers=workers)
            start = time.perf_counter()
            extract(clips, [encoder], Path(scratch) / "c.h5", provenance={}, workers=workers)
    return {
        "seconds": time.perf_counter() - start,
        "clips": len(clips),
        "audio_seconds": audio_seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
