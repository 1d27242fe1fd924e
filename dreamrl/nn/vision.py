"""Pictures -> a pyramid of three token maps, fine to coarse, by one of four backbones.

lite is a small convolutional network of our own; vit, resnet and clip are models of ``transformers``. Batch
statistics and dropout are taken out of them: a policy must give the same probabilities when it samples and when
it learns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.vision_models import NUM_LEVELS, vision_model


class VisionBackbone(nn.Module):
    """A backbone, and the projection of its levels to D channels with places in the picture added.

    A level's tokens are layer-normalised and get sines and cosines of their row and column (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5, in two dimensions), counted in cells of the finest level: convolutions do not say
    where something is, and the levels must agree on it.

    Args:
        config: architecture; ``vision_backbone`` must not be none.
        architecture: :attr:`architecture` of a saved backbone, to build it without the directory that its first
            weights came from; None: follow ``config``.

    Attributes:
        architecture: what the backbone depends on beside weights and ``config``, as plain JSON; None for lite.
    """

    def __init__(self, config: DreamingConfig, architecture: dict[str, Any] | None = None):
        """See the class."""
        super().__init__()
        kind, dim = config.vision_backbone, config.embedding_dim
        assert kind != "none"
        mean, std = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
        self.architecture = None
        self.body: ConvolutionPyramid | TokenPyramid | StagePyramid
        if kind == "lite":
            self.body = ConvolutionPyramid(dim, max(1, config.patch_size // 4))
        else:
            model, self.architecture = vision_model(config, architecture)
            mean, std = self.architecture["mean"], self.architecture["std"]
            self.body = StagePyramid(model) if kind == "resnet" else TokenPyramid(model)
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, dim), nn.LayerNorm(dim)) for channels in self.body.channels
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """``pixels`` (B, 3, H, W) in [0, 1] -> three (B, L_i, D), fine to coarse, tokens row by row."""
        levels = []
        maps = self.body((pixels - self.mean) / self.std)
        for i, (level, project) in enumerate(zip(maps, self.project, strict=True)):
            tokens = project(level.flatten(2).transpose(1, 2))  # (B, L_i, D)
            levels.append(tokens + places(level.shape[2], level.shape[3], 2**i, tokens))
        return levels


def places(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """(height * width, D) sines and cosines of the cells' centres, cells being ``stride`` units wide."""
    quarter = like.shape[-1] // 4
    frequencies = 100.0 ** (-torch.arange(quarter, device=like.device) / quarter)
    down, right = (
        ((torch.arange(side, device=like.device) + 0.5) * stride).unsqueeze(1) * frequencies for side in (height, width)
    )
    rows = torch.cat([down.sin(), down.cos()], dim=-1).unsqueeze(1).expand(-1, width, -1)
    columns = torch.cat([right.sin(), right.cos()], dim=-1).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1).to(like.dtype)


def pad_to(pixels: Tensor, multiple: int) -> Tensor:
    """Grow ``pixels`` (B, 3, H, W) at the bottom and right by zeros, the mean colour, to whole patches."""
    height, width = pixels.shape[2:]
    return F.pad(pixels, (0, -width % multiple, 0, -height % multiple))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of (B, C, H, W): no place and no picture depends on another."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ConvolutionPyramid(nn.Module):
    """The lite backbone: patches of ``patch`` pixels, then two convolutions of stride 2.

    Args:
        dim: channels of each level.
        patch: side of a patch in pixels.
    """

    def __init__(self, dim: int, patch: int):
        """See the class."""
        super().__init__()
        self.patch = patch
        self.channels: tuple[int, ...] = (dim,) * NUM_LEVELS
        self.stem = nn.Sequential(nn.Conv2d(3, dim, patch, stride=patch), ChannelNorm(dim))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, stride=stride, padding=1), nn.GELU(), ChannelNorm(dim))
            for stride in (1, 2, 2)
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> three (B, C, H_i, W_i)."""
        x, levels = self.stem(pad_to(pixels, self.patch)), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class TokenPyramid(nn.Module):
    """Vision transformers: tokens after a third, two thirds and all of the layers, pooled by 1, 2 and 4.

    Args:
        model: ``ViTModel`` or ``CLIPVisionModel`` of transformers.
    """

    def __init__(self, model: Any):
        """See the class."""
        super().__init__()
        self.model = model
        self.patch: int = model.config.patch_size
        self.channels: tuple[int, ...] = (model.config.hidden_size,) * NUM_LEVELS

    def hidden(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in whole patches -> three (B, L, C), the class token left out; the last is the model's output.

        Position encodings are interpolated where the picture is not of the model's own size.
        """
        out = self.model(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True)
        layers = len(out.hidden_states) - 1
        early, middle = (out.hidden_states[-(-layers * part // NUM_LEVELS)] for part in (1, 2))
        return [tokens[:, 1:] for tokens in (early, middle, out.last_hidden_state)]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> three (B, C, H_i, W_i)."""
        pixels = pad_to(pixels, self.patch)
        rows = pixels.shape[2] // self.patch
        maps = (tokens.transpose(1, 2).unflatten(2, (rows, -1)) for tokens in self.hidden(pixels))
        return [average(level, 2**i) for i, level in enumerate(maps)]


def average(x: Tensor, stride: int) -> Tensor:
    """Means of blocks of ``stride`` x ``stride`` cells of (B, C, H, W); blocks at the edges may be smaller."""
    return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x


class StagePyramid(nn.Module):
    """Residual networks: the last three stages.

    Args:
        model: ``ResNetModel`` of transformers; its batch norms are replaced by what they do in evaluation.
    """

    def __init__(self, model: Any):
        """See the class."""
        super().__init__()
        freeze_batch_norms(model)
        self.model = model
        self.channels: tuple[int, ...] = tuple(model.config.hidden_sizes[-NUM_LEVELS:])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> three (B, C_i, H_i, W_i)."""
        return list(self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-NUM_LEVELS:])


class ChannelScale(nn.Module):
    """A batch norm whose statistics stand still, folded into one scale and one shift per channel.

    Both are trained, and saved as all parameters are; nothing depends on the other pictures of a batch.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        """Args: ``norm`` whose running statistics hold."""
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.weight = nn.Parameter(scale.detach())
        self.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def freeze_batch_norms(module: nn.Module) -> None:
    """Put a :class:`ChannelScale` in place of every batch norm below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, ChannelScale(child))
        else:
            freeze_batch_norms(child)
