"""Speech emotion recognition from frozen speech encoders.

Data flows one way: ``corpora`` (what clips there are) -> ``features`` (audio to cached
embeddings) -> ``pipeline`` (heads, trained and scored on top) -> ``artifacts`` (what a run leaves).
"""

__version__ = "0.1.0"
