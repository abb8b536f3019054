"""Speech emotion recognition from frozen speech encoders.

Data flows one way: ``corpora`` (which clips there are) -> ``features`` (from audio to cached
embeddings) -> ``pipeline`` (heads, trained and scored on them) -> ``artifacts`` (what a run saves).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403
    from .artifacts.model import load_model

    load = load_model

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: ``import serpipe`` must not wait for torch."""
    if name == "load":
        from .artifacts.model import load_model

        return load_model
    api = import_module(f"{__name__}.api")
    if name == "__all__":
        return [*api.__all__, "load"]
    if name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module 'serpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names as well."""
    return sorted({*globals(), *import_module(f"{__name__}.api").__all__, "load"})
