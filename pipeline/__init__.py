"""The stages on top of cached embeddings: folds, heads, scores.

No audio and no torch here, but for the packages ``finetune`` and ``networks``.
"""
