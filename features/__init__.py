"""Audio to cached embeddings: decode, run a frozen encoder once, pool every layer."""
