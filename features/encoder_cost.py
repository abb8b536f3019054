"""Measure what an encoder costs: its parameters, and the time that a few clips take."""

import importlib.util
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..corpora import Clip
from ..errors import BadClipError
from .checkpoint_limits import CONFIGS
from .decoding import DecodedClip
from .names import BUILT_IN, OPENSMILE
from .options import ExtractOptions

#: Number of clips of a corpus that are embedded to measure the time.
MEASURED_CLIPS = 8


@dataclass(frozen=True)
class EncoderCost:
    """What it costs to embed clips of a corpus."""

    parameters: int
    layers: int
    width: int
    device: str
    clips: int  #: Number of clips that were measured; the two times below are theirs.
    seconds: float  #: To decode, check and embed them.
    audio_seconds: float


def is_available_offline(name: str) -> bool:
    """Return whether an encoder can be loaded without the network."""
    if name in BUILT_IN or Path(name).exists():
        return True
    if name.startswith(OPENSMILE):
        return importlib.util.find_spec("opensmile") is not None
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(name, config) for config in CONFIGS)
    folders = [Path(each).parent for each in found if isinstance(each, str)]
    weights = (".safetensors", ".bin", ".pt")
    return any(file.suffix in weights for folder in folders for file in folder.iterdir())


def measure_encoder(
    options: ExtractOptions, corpora: Mapping[str, Sequence[Clip]], workers: int
) -> dict[str, EncoderCost]:
    """Embed a few clips of each corpus, and return what that costs, by corpus.

    Parameters
    ----------
    options : ExtractOptions
        The encoder, and how clips are embedded.
    corpora : mapping of str to sequence of Clip
        The clips of each corpus, of which :data:`MEASURED_CLIPS` are used. A corpus without usable
        ones among these is omitted.
    workers : int
        Number of threads.

    Returns
    -------
    dict of str to EncoderCost

    Raises
    ------
    UserError
        If the encoder cannot be loaded.
    """
    from .devices import choose_devices
    from .engine import open_engine

    engine = open_engine(options, choose_devices(options.devices), workers)
    encoder = engine.encoders[0]
    model = encoder.model
    costs: dict[str, EncoderCost] = {}
    for corpus, clips in corpora.items():
        step = max(1, len(clips) // MEASURED_CLIPS)
        chosen = clips[::step][:MEASURED_CLIPS]
        if not costs:  # the first clips wait for libraries to be loaded
            list(engine.embed(engine.plan(_usable(engine.check(chosen[:workers])))))
        began = time.perf_counter()
        usable = _usable(engine.check(chosen))
        for _ in engine.embed(engine.plan(usable)):
            pass
        seconds = time.perf_counter() - began
        if usable:
            costs[corpus] = EncoderCost(
                parameters=sum(each.numel() for each in model.parameters()),
                layers=len(engine.key["layers"]),
                width=int(engine.key["width"]),
                device=str(engine.key["device"]),
                clips=len(usable),
                seconds=seconds,
                audio_seconds=sum(each.facts.seconds for each in usable),
            )
    return costs


def _usable(checked: Iterable[DecodedClip | BadClipError]) -> list[DecodedClip]:
    return [each for each in checked if isinstance(each, DecodedClip)]
