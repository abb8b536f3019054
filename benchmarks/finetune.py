"""Steps per second of a training, beside a plain script around the same Trainer.

python benchmarks/random_encoder.py wav2vec2-base FOLDER
python benchmarks/finetune.py --encoder FOLDER --data ../shared/data/ravdess --steps 12

Both train the same standard class on the same number of clips with the same batch, the convolutions
frozen, dropout on. The plain script does what most do: clips in random order, padded to the longest
of the batch, with a mask, one learning rate. Each is run in a process of its own, in turn,
``--repeat`` times; the first step of each is not counted.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LABELS = ["angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"]


def main() -> None:
    """Run both in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", choices=["ours", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    told: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for _ in range(arguments.repeat):
        for which, found in told.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", which]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {
        which: statistics.median(f["seconds"] for f in found) for which, found in told.items()
    }
    print("| training | seconds a step, median [all] | padding | peak MiB |")
    print("|---|---|---:|---:|")
    for which, found in told.items():
        each = ", ".join(f"{f['seconds']:.2f}" for f in found)
        padding, peak = (statistics.median(f[name] for f in found) for name in ("padding", "peak"))
        print(f"| {which} | {middle[which]:.2f} [{each}] | {100 * padding:.1f} % | {peak:.0f} |")
    print(f"\nplain / ours: {middle['plain'] / middle['ours']:.2f}")


def measure(arguments: Any) -> dict[str, float]:
    """Train for some steps one way; return seconds a step, share of padding, and peak memory."""
    import numpy as np
    import torch
    from serpipe.corpora import scan
    from serpipe.corpora.data import find_source
    from serpipe.features.checkpoint import load_checkpoint
    from serpipe.pipeline.finetune.data import Collator, Examples, decode_clips
    from serpipe.pipeline.finetune.kinds import EncoderWithHead
    from serpipe.pipeline.finetune.options import TrainingOptions
    from serpipe.pipeline.finetune.train import train
    from transformers import (
        AutoModelForAudioClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    n_clips = arguments.steps * arguments.batch_size
    source = find_source(arguments.data)
    clips = list(scan(source.folder, source.corpus).clips)
    clips = clips[:: max(1, len(clips) // n_clips)][:n_clips]
    checkpoint = load_checkpoint(arguments.encoder, None)
    sounds, _ = decode_clips(clips, checkpoint.front_end, workers=2)
    places = [LABELS.index(each.clip.emotion) for each in sounds.clips]
    targets = np.eye(len(LABELS), dtype=np.float32)[places]
    times: list[float] = []
    padded: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    def watched(collate: Any) -> Any:
        def batch(examples: Any) -> Any:
            found = collate(examples)
            mask = found.get("attention_mask")
            padded.append(0.0 if mask is None else 1 - float(mask.float().mean()))
            return found

        return batch

    class Plain(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(places)

        def __getitem__(self, place: int) -> Any:
            return sounds.waveform(place), places[place]

    def plain_collate(examples: Any) -> Any:
        inputs = checkpoint.front_end.inputs([waveform for waveform, _ in examples])
        return {**inputs, "labels": torch.tensor([label for _, label in examples])}

    with tempfile.TemporaryDirectory() as folder:
        if arguments.one == "ours":
            module: Any = importlib.import_module("serpipe.pipeline.finetune.train")
            module.Collator = lambda front_end: watched(Collator(front_end))
            module._logging = lambda logs: [Clock()]
            options = TrainingOptions(
                epochs=1, batch_size=arguments.batch_size, precision=arguments.precision
            )
            kind = EncoderWithHead(checkpoint, options, arguments.encoder)
            examples = Examples(sounds, range(len(places)), targets)
            model = kind.build(LABELS, "classification")
            train(model, kind, examples, None, options, Path(folder), arguments.device)
        else:
            model = AutoModelForAudioClassification.from_pretrained(
                arguments.encoder,
                num_labels=len(LABELS),
                use_weighted_layer_sum=True,
                layerdrop=0.0,  # with its default the weighted sum raises an error
                apply_spec_augment=False,
            )
            model.freeze_feature_encoder()
            Trainer(
                model=model,
                args=TrainingArguments(
                    folder,
                    num_train_epochs=1,
                    per_device_train_batch_size=arguments.batch_size,
                    learning_rate=3e-5,
                    use_cpu=arguments.device == "cpu",
                    bf16=arguments.precision == "bf16",
                    remove_unused_columns=False,
                    save_strategy="epoch",
                    disable_tqdm=True,
                    report_to="none",
                ),
                train_dataset=Plain(),
                data_collator=watched(plain_collate),
                callbacks=[Clock()],
            ).train()
    if arguments.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    else:
        peak = torch.cuda.max_memory_allocated() / 2**20
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    return {"seconds": seconds, "padding": statistics.mean(padded), "peak": peak}


if __name__ == "__main__":
    main()
