"""Image codec: patches of pixels <-> discrete codes, by finite scalar quantization (FSQ, arXiv:2309.15505).

Each patch is coded by itself, so any picture that is a whole number of patches has a code grid of its own
size, and one trained codec serves boards of every size. FSQ has no code book to collapse.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from dreamrl.nn.layers import mlp


class ImageCodec(nn.Module):
    """Patch auto-encoder with an FSQ bottleneck.

    Args:
        patch_size: side S of a patch in pixels.
        levels: FSQ levels; the code book has their product, V, entries.
        hidden: channels of the hidden layers.
    """

    def __init__(self, patch_size: int, levels: tuple[int, ...], hidden: int):
        """See the class."""
        super().__init__()
        self.patch_size = patch_size
        self.num_codes = int(np.prod(levels))
        pixels = 3 * patch_size * patch_size
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, len(levels))
        )
        self.quantizer = FSQ(levels=list(levels))
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.decoder = mlp(len(levels), hidden, pixels)
        self._cache: dict[bytes, int] = {}
        self.trained = False

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """``patches`` (n, 3 S S) in [0, 1] -> reconstruction (n, 3 S S) and codes (n,)."""
        quantized, codes = self.quantizer(self.latents(patches).unsqueeze(1))  # (n, 1, levels)
        return self.decoder(quantized.squeeze(1)).sigmoid(), codes.squeeze(1).long()

    def latents(self, patches: Tensor) -> Tensor:
        """(n, 3 S S) in [0, 1] -> (n, number of levels), before FSQ bounds and rounds them."""
        return self.encoder(patches * 2 - 1)

    def crowding(self, patches: Tensor) -> Tensor:
        """How far *different* ``patches`` (n, 3 S S) are from having different codes; 0 when all are apart.

        Squared hinge on the distance of two latents in units of levels (largest coordinate). Without it the
        squared error alone merges patches: in 8 of 8 seeds at least two of FrozenLake's 7 tiles shared a code.
        """
        half_width = (self.levels - 1) / 2
        bounded = self.latents(patches).tanh() * half_width
        apart = (bounded.unsqueeze(0) - bounded.unsqueeze(1)).abs().amax(-1)  # (n, n)
        crowded = torch.relu(1.5 - apart).square().fill_diagonal_(0)
        return crowded.sum() / max(1, len(patches) * (len(patches) - 1))

    def forget(self) -> None:
        """Drop cached codes; they hold only while the weights stand still."""
        self._cache.clear()

    @torch.no_grad()
    def encode(self, frame: np.ndarray) -> np.ndarray:
        """Codes of one uint8 frame (rows * S, columns * S, 3): int64 (rows * columns,), row by row.

        Codes of patches seen before come from a cache: rendered worlds repeat themselves.
        """
        patches = to_patches(frame, self.patch_size)
        keys = [patch.tobytes() for patch in patches]
        missing = [i for i, key in enumerate(keys) if key not in self._cache]
        if missing:
            device = next(self.parameters()).device
            fresh = torch.from_numpy(patches[missing]).to(device).float() / 255
            for i, code in zip(missing, self(fresh)[1].tolist(), strict=True):
                self._cache[keys[i]] = code
            if len(self._cache) > MAX_CACHED_PATCHES:
                self._cache = {k: self._cache[k] for k in keys}
        return np.array([self._cache[key] for key in keys], np.int64)

    @torch.no_grad()
    def decode(self, codes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Pixels of ``codes`` (rows * columns,): uint8 (rows * S, columns * S, 3)."""
        device = next(self.parameters()).device
        quantized = self.quantizer.indices_to_codes(torch.as_tensor(codes, device=device).unsqueeze(-1))
        pixels = self.decoder(quantized.reshape(len(codes), -1)).sigmoid()
        return from_patches((pixels * 255).round().byte().cpu().numpy(), grid, self.patch_size)


class FrameCodes:
    """Codes of a scene's states, computed once per (scene, state)."""

    def __init__(self, codec: ImageCodec, max_scenes: int = 2_000):
        """Args: frozen ``codec``; ``max_scenes`` scenes are remembered."""
        self.codec = codec
        self.max_scenes = max_scenes
        self._known: dict[str, dict] = {}

    def __call__(self, scene, state) -> np.ndarray:
        """int64 (P,) codes of ``scene.frame(state)``."""
        if scene.key not in self._known:
            if len(self._known) >= self.max_scenes:
                self._known.clear()
            self._known[scene.key] = {}
        codes = self._known[scene.key]
        if state not in codes:
            codes[state] = self.codec.encode(scene.frame(state))
        return codes[state]


MAX_CACHED_PATCHES = 200_000


def to_patches(frame: np.ndarray, size: int) -> np.ndarray:
    """(rows * S, columns * S, 3) -> (rows * columns, 3 S S), row by row."""
    height, width, channels = frame.shape
    if height % size or width % size:
        raise ValueError(f"frame of {height}x{width} pixels is not a whole number of {size}-pixel patches")
    tiled = frame.reshape(height // size, size, width // size, size, channels)
    return np.ascontiguousarray(tiled.transpose(0, 2, 1, 3, 4).reshape(-1, size * size * channels))


def from_patches(patches: np.ndarray, grid: tuple[int, int], size: int) -> np.ndarray:
    """Inverse of :func:`to_patches`."""
    rows, columns = grid
    tiled = patches.reshape(rows, columns, size, size, -1)
    return tiled.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, -1)
