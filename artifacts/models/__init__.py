"""Saved models, and inference with them."""
