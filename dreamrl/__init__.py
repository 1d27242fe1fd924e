"""dreamrl: train models that think in pictures, by reinforcement learning on Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamrl.baseline import ImageTokenReasoningLLM
    from dreamrl.dreaming_config import DreamingConfig
    from dreamrl.model import DreamingReasoningLLM

__all__ = ["DreamingConfig", "DreamingReasoningLLM", "ImageTokenReasoningLLM", "__version__"]
__version__ = "0.1.0"

_HOMES = {"DreamingConfig": "dreaming_config", "DreamingReasoningLLM": "model", "ImageTokenReasoningLLM": "baseline"}


def __getattr__(name: str):
    """Import these on first use: ``dreamrl --help`` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dreamrl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dreamrl.{_HOMES[name]}"), name)
