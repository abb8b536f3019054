"""Speech emotion recognition from frozen speech encoders.

Data flows one way: ``corpora`` (which clips there are) -> ``features`` (from audio to cached
embeddings) -> ``pipeline`` (heads, trained and scored on them) -> ``artifacts`` (what a run saves).
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Absolute: pytest imports this file by its path, under whatever name the folder has.
from serpipe._version import __version__ as __version__

if TYPE_CHECKING:
    from .api import (
        convert,
        describe_cache,
        describe_corpora,
        download_corpus,
        estimate_study,
        evaluate,
        export,
        extract,
        finetune,
        fit,
        fit_cross_corpus,
        fit_repeated,
        list_corpora,
        predict,
        push,
        report,
        report_study,
        robustness,
        serve,
        study,
        verify_cache,
        write_clip_table,
        write_rater_table,
        write_study,
    )
    from .artifacts.models.saved_model import load_model as load
    from .features.options import ExtractOptions, SegmentOptions
    from .pipeline.finetune.options import TrainingOptions
    from .pipeline.options import FoldOptions, Protocol, TargetOptions
    from .serving.options import ServeOptions

__all__ = [
    "ExtractOptions",
    "FoldOptions",
    "Protocol",
    "SegmentOptions",
    "ServeOptions",
    "TargetOptions",
    "TrainingOptions",
    "convert",
    "describe_cache",
    "describe_corpora",
    "download_corpus",
    "estimate_study",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "fit",
    "fit_cross_corpus",
    "fit_repeated",
    "list_corpora",
    "load",
    "predict",
    "push",
    "report",
    "report_study",
    "robustness",
    "serve",
    "study",
    "verify_cache",
    "write_clip_table",
    "write_rater_table",
    "write_study",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: ``import serpipe`` must not wait for torch."""
    if name == "load":
        from .artifacts.models.saved_model import load_model

        return load_model
    if name in __all__:
        return getattr(import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module 'serpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names as well."""
    return sorted({*globals(), *__all__})
