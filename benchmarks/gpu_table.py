"""Turn what benchmarks/gpu.py has measured into the GPU section of docs/benchmarks.md.

python benchmarks/gpu_table.py DIR --into docs/benchmarks.md

The section stands between two comments, and is replaced whole. Without --into it is printed. A
stage that was not run is named as not measured.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu: begin -->\n", "<!-- gpu: end -->\n"


def main() -> None:
    """Print the section, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    section = "\n".join(lines(read(arguments.folder))) + "\n"
    if arguments.into is None:
        print(section)
        return
    page = arguments.into.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.into.write_text(f"{before}{BEGIN}{section}{END}{after}", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return what each stage has written; of a speed stage that was stopped, what it had done."""
    results = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    if "speed.partial" in results:
        results.setdefault("speed", results["speed.partial"])
    return results


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the section."""
    if "machine" not in results:
        yield "not measured"
        return
    machine = results["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers")
    )
    rates = ", ".join(f"{name} {rate:g}" for name, rate in machine["tflops"].items())
    yield f"Machine: {machine['device']}, {machine['cores']} cores; {versions}."
    if rates:
        yield f"A matrix product of 8192 x 8192 runs there at (TFLOP/s): {rates}."
    for name, table in (
        ("exactness", exactness), ("main", main_job), ("speed", speed), ("memory", memory),
        ("score", score), ("finetune", finetune), ("decoding", decoding),
    ):  # fmt: skip
        yield ""
        if name in results:
            yield from table(results[name])
        else:
            yield f"Stage `{name}`: not measured."


def exactness(result: dict[str, Any]) -> Iterator[str]:
    """Yield the largest differences, and the distance of each precision from float32."""
    yield "**Exactness.** Largest absolute difference of an embedding in float32 with TF32 off, and"
    yield "the distance of other precisions from float32 (norm of the difference over the norm):"
    yield ""
    precisions = [name for name in ("tf32", "bf16", "fp16") if name in next(iter(result.values()))]
    yield f"| family | batch against alone | GPU against CPU | {' | '.join(precisions)} |"
    yield "|---|---:|---:|" + "---:|" * len(precisions)
    for family, row in result.items():
        far = " | ".join(f"{row[name]['relative']:.1e}" for name in precisions)
        yield f"| {family} | {row['batch_alone']:.1e} | {row['device_cpu']:.1e} | {far} |"


def main_job(result: dict[str, Any]) -> Iterator[str]:
    """Yield when each step of the main job was over."""
    best = min(result["runs"], key=lambda run: run["seconds"])
    marks = best["marks"]
    steps = [
        ("Python, torch and transformers imported", marks["transformers"]),
        ("checkpoint read (it imports the model's code)", marks["checkpoint read"]),
        ("encoder on the device", marks["encoder loaded"]),
        ("clips checked", marks["clips checked"]),
        ("clips embedded", marks["file written begins"]),
        ("file written", marks["file written"]),
        ("process ended", best["seconds"]),
    ]
    yield f"**The main job.** {result['clips']} clips of 48 kHz, wav2vec2-base (random weights),"
    yield f"{result['precision']}, from a cold start; the faster of {len(result['runs'])} runs:"
    yield ""
    yield "| step | over after |"
    yield "|---|---:|"
    for step, seconds in steps:
        yield f"| {step} | {seconds:.1f} s |"


def speed(result: dict[str, Any]) -> Iterator[str]:
    """Yield the speed of each encoder in each precision."""
    yield "**Speed** of an extraction once the encoder is loaded, from audio files to HDF5, beside"
    yield "the plain loop of transformers (float32, one clip at a time) and beside the bare forward"
    yield "pass on inputs that are on the device:"
    yield ""
    yield "| encoder | way | clips/s | audio-s/s | against plain | forward pass alone | peak MiB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for name, rows in result.items():
        if not isinstance(rows, dict):
            continue
        plain = rows["plain"]["clips"] / rows["plain"]["seconds"]
        yield f"| {name} | plain | {plain:.0f} | | 1.0 | | |"
        for way, row in rows.items():
            if way in ("plain", "tflop"):
                continue
            rate = row["clips"] / row["seconds"]
            peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
            yield (
                f"| | {way} | {rate:.0f} | {row['audio_seconds'] / row['seconds']:.0f} "
                f"| {rate / plain:.1f} | {row['forward_seconds']:.2f} s of {row['seconds']:.2f} s "
                f"| {peak} |"
            )


def memory(result: dict[str, Any]) -> Iterator[str]:
    """Yield what happened when memory ran out."""
    if "skipped" in result:
        yield f"**Out of memory.** Not measured: {result['skipped']}."
        return
    yield f"**Out of memory.** With {result['limit_mib']:.0f} MiB in place of the"
    yield f"{result['peak_mib']:.0f} MiB that the job takes, memory ran out {result['ooms']} times;"
    yield f"the job took {result['scarce']['seconds']:.1f} s in place of"
    yield f"{result['ample']['seconds']:.1f} s, and the largest difference of an embedding was"
    yield f"{result['largest_difference']:.1e}."


def score(result: dict[str, Any]) -> Iterator[str]:
    """Yield the UAR in each precision."""
    yield "**UAR** on the built-in sample, Whisper tiny.en, `fit --head lr`:"
    yield ""
    yield "| precision | UAR |"
    yield "|---|---:|"
    for precision, row in result.items():
        yield f"| {precision} | {row['uar']:.1f} [{row['uar_low']:.1f}-{row['uar_high']:.1f}] |"


def finetune(result: dict[str, Any]) -> Iterator[str]:
    """Yield the steps per second, and the time of a fold."""
    yield "**Fine-tuning** wav2vec2-base beside a plain Trainer, 32 clips a step:"
    yield ""
    yield from re.sub(r"\n\nplain / ours.*", "", result["steps"]).strip().splitlines()
    yield ""
    for name, row in result.items():
        if name != "steps":
            done = f"{row['seconds']:.0f} s" if row["code"] == 0 else "not measured"
            yield f"One {name}, three epochs: {done}."


def decoding(result: dict[str, Any]) -> Iterator[str]:
    """Yield the rate of decoding by workers."""
    yield "**Decoding** (48 kHz to 16 kHz, hashes, fingerprint), clips per second:"
    yield ""
    yield "| workers | threads | processes |"
    yield "|---:|---:|---:|"
    for number, rate in result["threads"].items():
        yield f"| {number} | {rate:.0f} | {result['processes'][number]:.0f} |"


if __name__ == "__main__":
    main()
