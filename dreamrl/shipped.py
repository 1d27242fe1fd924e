"""Trained models that come with the package: their names stand wherever a model directory may."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""A directory for each, as :func:`dreamrl.saving.save_pretrained` writes it."""


def shipped() -> list[str]:
    """Names of the models that come along."""
    return sorted(path.name for path in MODELS.iterdir() if path.is_dir()) if MODELS.is_dir() else []


def model_directory(name: str | Path) -> Path:
    """The directory of the model ``name``: a path, or the name of a shipped model unless such a path exists."""
    path = Path(name)
    return MODELS / path if str(name) in shipped() and not path.exists() else path
