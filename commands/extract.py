"""The command ``serpipe extract``."""

from typing import Any

from .. import api
from ..errors import counted
from .output import ResultFormat, ResultFormatOption, print_result, say


def extract(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Run a frozen encoder once over every clip and cache the pooled hidden states of every layer.

    A second run computes only what is missing, and a stopped run resumes where it stopped.
    """
    from ..artifacts.run.latest import CACHES
    from ..pipeline.target import columns_to_predict
    from ..progress import track
    from ..provenance import command_line, provenance
    from ..remote import as_location

    done = api.extract(**options, provenance=provenance(), track=track, say=say)
    target = as_location(options.get("out", done.cache.path))
    for error in done.bad:
        say(f"skipped  {error}")
    for group in done.same_recording:
        say(f"note     the same recording under {len(group)} names: {', '.join(group)}")
    for path, other in done.unconfirmed[:10]:
        say(f"warning  {path}: may be a copy of {other}; could not be read again to compare them")
    if done.unconfirmed[10:]:
        say(f"warning  ... and {len(done.unconfirmed) - 10} more clips that may be copies")
    if done.removed:
        say(f"dropped  {counted(len(done.removed), 'clip')} that the corpus no longer has")
    # `serpipe fit` looks in CACHES by default, and for emotions.
    needed: list[object] = [] if target.parent == CACHES else ["--cache", target]
    columns = columns_to_predict(done.cache.clips)
    if columns[1:] and not (done.cache.clips["emotion"] != "").any():
        say(f"note     columns to predict: {', '.join(columns)}")
        needed += ["--target", columns[0]]
    if needed:
        say(f"next     {command_line('fit', *needed)}")
    for name, count in done.copied.items():
        say(f"note     {counted(count, 'clip')} copied from {target.parent / name}")
    say(f"cache    {counted(done.computed, 'clip')} computed, {done.reused} already in the cache:")
    print_result(
        target,
        {
            "cache": str(target),
            "computed": done.computed,
            "reused": done.reused,
            "copied": dict(done.copied),
            "removed": list(done.removed),
            "same_bytes": [list(group) for group in done.same_bytes],
            "same_recording": [list(group) for group in done.same_recording],
            "unconfirmed": [list(pair) for pair in done.unconfirmed],
            "skipped": [str(error) for error in done.bad],
        },
        format,
    )
