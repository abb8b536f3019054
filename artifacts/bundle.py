"""The import path that model cards of earlier versions name."""

from .models.bundle import load_bundle as load_bundle
