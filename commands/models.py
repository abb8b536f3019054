"""The commands ``serpipe export``, ``serpipe push`` and ``serpipe serve``."""

from typing import Any

from .. import api
from ..errors import counted
from .output import ResultFormat, ResultFormatOption, print_result, say


def export(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Write a model as one ONNX file, from samples to scores, for onnxruntime in any language.

    The file is run on clips of several lengths before it is put in place, and is refused if a score
    differs from that of torch by more than 0.0001. Needs `pip install 'serpipe[onnx]'`.
    """
    done = api.export(**options, say=say)
    metadata, longest = done.metadata, done.metadata["maximum_samples"]
    say(
        f"input    audio: float32, clips by samples; mono, {metadata['sampling_rate']} Hz, from "
        f"{metadata['minimum_samples']} samples" + ("" if longest == "null" else f" to {longest}")
    )
    say(
        f"         not in the file: decoding, mixing down channels ({metadata['channels']}), "
        "resampling"
    )
    lengths = f"{min(done.seconds):.1f} to {max(done.seconds):.1f} s"
    say(
        f"checked  {counted(len(done.seconds), 'clip')} of {lengths} in onnxruntime: scores differ "
        f"from those of torch by at most {done.difference:.1e}"
    )
    say(f"onnx     {done.n_bytes / 1e6:.1f} MB in:")
    print_result(
        done.path,
        {
            "file": str(done.path),
            "bytes": done.n_bytes,
            "difference": done.difference,
            "seconds": list(done.seconds),
            "metadata": dict(metadata),
        },
        format,
    )


def push(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Publish a model on the Hugging Face hub, with a card that states protocol and licence.

    All files are uploaded in one commit. `serpipe predict --model USER/NAME` then loads it. Log in
    first: `hf auth login`.
    """
    done = api.push(**options, say=say)
    result = {
        "repository": done.repository,
        "commit": done.commit,
        "folder": None if done.folder is None else str(done.folder),
        "files": dict(done.files),
        "licence": done.licence,
    }
    print_result(done.folder or done.repository, result, format)


def serve(options: dict[str, Any]) -> None:
    """Serve a model over HTTP: an upload page, POST /recognize, and the contract of SageMaker.

    SIGTERM or Ctrl-C stops it once all requests in progress are answered. Needs
    `pip install 'serpipe[serve]'`.
    """
    api.serve(**options, say=say)
