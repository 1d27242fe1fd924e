"""dreamrl: train models that think in pictures, by reinforcement learning on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamrl.model import DreamingReasoningLLM

__all__ = ["DreamingReasoningLLM", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import the model on first use: ``dreamrl --help`` must not wait for torch."""
    if name == "DreamingReasoningLLM":
        from dreamrl.model import DreamingReasoningLLM

        return DreamingReasoningLLM
    raise AttributeError(f"module 'dreamrl' has no attribute {name!r}")
