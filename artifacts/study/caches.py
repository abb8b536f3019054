"""Find the cache of an encoder and a corpus of a study by its file name."""

from dataclasses import replace
from pathlib import Path

from ...choices import POOLINGS
from ...errors import UserError
from ...features.cache import Cache, open_cache
from ...features.names import cache_name
from ...features.options import ExtractOptions
from ..run.latest import CACHES
from .costs import options_of
from .study_file import StudyCorpus, StudyEncoder, recorded_name

#: Options on which the numbers do not depend, or that the name of a cache holds already.
_NOT_IN_NAMES = ("encoder", "revision", "devices", "batch_seconds")


def cache_path(corpus: StudyCorpus, encoder: StudyEncoder, pooling: str) -> Path:
    """Return the file in which embeddings are to be cached: one that holds no other embeddings.

    It is ``CORPUS-ENCODER.h5``, as ``serpipe extract`` names it for a corpus of this name. If that
    file has other options, those of this cache are part of its name.
    """
    default = _default_path(corpus, encoder)
    if not default.exists() or _holds(default, encoder.options, pooling):
        return default
    return _path_with_options(default, replace(encoder.options, pooling=pooling))


def find_cache(corpus: StudyCorpus, encoder: StudyEncoder, pooling: str) -> Cache | None:
    """Return the cache that holds the embeddings of an encoder with a pooling, if there is one."""
    default = _default_path(corpus, encoder)
    others = [
        _path_with_options(default, replace(encoder.options, pooling=each)) for each in POOLINGS
    ]
    for path in (default, *others):
        if path.is_file() and (cache := _holds(path, encoder.options, pooling)):
            return cache
    return None


def _default_path(corpus: StudyCorpus, encoder: StudyEncoder) -> Path:
    name = recorded_name(encoder.options)
    name = f"{name}-{encoder.name}" if encoder.is_ambiguous else name
    return CACHES / cache_name(corpus.name, name)


def _path_with_options(default: Path, options: ExtractOptions) -> Path:
    given = {**options_of(options), "pooling": options.pooling}
    parts = [
        f"{name}-{str(value).replace(',', '+')}"
        for name, value in given.items()
        if name not in _NOT_IN_NAMES
    ]
    return default.with_name("-".join([default.stem, *parts]) + default.suffix)


def _holds(path: Path, options: ExtractOptions, pooling: str) -> Cache | None:
    """Return an open cache if it holds the embeddings of some options."""
    try:
        cache = open_cache(path)
    except UserError:  # damaged, or no cache
        return None
    expected = {
        "encoder": recorded_name(options),
        "channels": options.channels,
        "trim_decibels": options.trim,
        "max_seconds": options.max_seconds,
        "dtype": options.dtype,
        "compiled": options.compile_blocks,
    }
    if options.precision != "auto":
        expected["precision"] = options.precision
    is_same = all(cache.key.get(name) == value for name, value in expected.items())
    # Keys name another engine than torch, with its version.
    is_same = is_same and ("engine" in cache.key) == (options.engine != "torch")
    return cache if is_same and set(pooling.split(",")) <= set(cache.poolings) else None
