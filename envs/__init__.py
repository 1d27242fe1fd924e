"""Worlds and the Gymnasium environment that scores dreams about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.gymnasium_world import GymnasiumWorld

__all__ = ["GymnasiumWorld"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: gymnasium takes a while."""
    if name == "GymnasiumWorld":
        from envs.gymnasium_world import GymnasiumWorld

        return GymnasiumWorld
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
