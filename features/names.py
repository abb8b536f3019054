"""Names that stand in a cache. Apart from the rest, so that reading one does not wait for torch."""

#: The norm after the last block; the other layers are numbered, see :mod:`.pooling`.
FINAL_NORM = "final_norm"
POOLINGS = ("mean", "std")
