"""Speech emotion recognition from frozen speech encoders.

Data flows one way: ``corpora`` (what clips there are) -> ``features`` (audio to cached
embeddings) -> ``pipeline`` (heads, trained and scored on top) -> ``artifacts`` (what a run leaves).
"""

from typing import TYPE_CHECKING

# Absolute: pytest imports this file by its path, under whatever name the folder has.
from serpipe._version import __version__ as __version__

if TYPE_CHECKING:
    from .api import extract, fit, report
    from .artifacts.models.saved_model import load_model as load

__all__ = ["extract", "fit", "load", "report"]


def __getattr__(name: str) -> object:
    """Import what is asked for, and only then: ``import serpipe`` must not wait for torch."""
    if name == "load":
        from .artifacts.models.saved_model import load_model

        return load_model
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'serpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what can be asked for, too."""
    return sorted({*globals(), *__all__})
