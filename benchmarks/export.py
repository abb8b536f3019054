"""Scores and time of an exported file in onnxruntime beside those of serpipe, clip by clip."""

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime
import serpipe
import torch
from serpipe.corpora.data import find_data
from serpipe.errors import BadClipError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the bundle or directory that was exported")
    parser.add_argument("onnx", type=Path, help="the file")
    parser.add_argument("--encoder", help="of a bundle")
    parser.add_argument("--data", default="sample", help="clips")
    parser.add_argument("--every", type=int, default=1, help="take each n-th clip")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(given.onnx, options, providers=["CPUExecutionProvider"])
    model = serpipe.load(given.model, encoder=given.encoder)
    _, (scan,) = find_data([given.data])
    files = sorted(clip.file for clip in scan.clips)[:: given.every]
    clips = [model.read(file) for file in files]
    differences, others, spent = [], 0, np.zeros(2)
    for number, clip in enumerate([clips[0], *clips]):  # the first once more: to warm up
        began = time.perf_counter()
        (expected,) = model.predict_batch([clip], ["clip"])
        between = time.perf_counter()
        scores, *chosen = session.run(None, {"audio": clip[None]})
        if isinstance(expected, BadClipError) or not number:
            continue
        spent += between - began, time.perf_counter() - between
        differences.append(np.abs(scores[0] - list(expected.scores.values())).max())
        others += bool(chosen) and model.labels[int(chosen[0][0])] != expected.label
    torch_ms, onnx_ms = 1000 * spent / len(differences)
    beyond = sum(difference > 1e-4 for difference in differences)
    print(
        f"{given.onnx.name}: {given.onnx.stat().st_size / 1e6:.2f} MB, {len(differences)} clips, "
        f"largest difference {max(differences):.1e}, {beyond} beyond 1e-4, {others} other labels, "
        f"serpipe {torch_ms:.1f} ms, onnxruntime {onnx_ms:.1f} ms a clip"
    )


if __name__ == "__main__":
    main()
