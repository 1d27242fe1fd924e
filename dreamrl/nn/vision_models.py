"""Vision models of ``transformers``: with random weights, or with weights from a local directory.

Nothing is ever downloaded, and no weights but safetensors are read. Of a config only the fields that its class
declares itself are used, so that a file cannot switch on anything that loads code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.errors import UserError

NUM_LEVELS = 3
"""Levels of the pyramid that is read off a model."""
CLASSES = {
    "vit": ("ViTConfig", "ViTModel"),
    "resnet": ("ResNetConfig", "ResNetModel"),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel"),
}
"""Classes of ``transformers`` behind each backbone."""
MODEL_TYPES = {"vit": ("vit",), "resnet": ("resnet",), "clip": ("clip", "clip_vision_model")}
"""What the config.json of fitting weights says that it is; of a whole CLIP the text half is left out."""
COLOURS = {
    "vit": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "resnet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}
"""Mean and standard deviation of the pixels that each kind was trained on, if preprocessor_config.json says nothing.

The original ViT took [0, 1] to [-1, 1]; ResNet uses the statistics of ImageNet, CLIP those of its own data.
"""
NO_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")


def vision_model(config: DreamingConfig, architecture: dict[str, Any] | None) -> tuple[nn.Module, dict[str, Any]]:
    """A vision model without dropout, pooler or other parts that the pyramid does not read.

    Args:
        config: says ``vision_backbone``, ``vision_weights`` and the size of a model with random weights.
        architecture: what a call before returned, to build the same model with random weights, whatever
            ``config`` says about weights.

    Returns:
        the model; and its architecture, plain JSON: ``fields`` of its config, ``mean`` and ``std`` of pixels.

    Raises:
        UserError: transformers is missing, or weights or architecture do not fit the backbone.
    """
    kind = config.vision_backbone
    try:
        import transformers  # slow to import, and only three of the backbones need it
    except ImportError as error:
        raise UserError(f"model.vision_backbone ({kind}) needs the package transformers; install it") from error
    config_class, model_class = (getattr(transformers, name) for name in CLASSES[kind])
    weights, where = None, "the saved vision architecture"
    if architecture is None:
        architecture = dict(zip(("mean", "std"), COLOURS[kind], strict=True)) | {"fields": small_fields(config)}
        where = "model.vision_backbone"
        if config.vision_weights:
            weights = Path(config.vision_weights).expanduser()
            where = f"model.vision_weights ({weights})"
            architecture |= read_architecture(weights, kind, where)
    extra = {"add_pooling_layer": False} if kind == "vit" else {}
    try:
        fields = {k: v for k, v in architecture["fields"].items() if k in config_class.__annotations__}
        fields |= {k: 0.0 for k in NO_DROPOUT if k in config_class.__annotations__}
        own = config_class(**fields)
        check_fields(own)
        model = model_class(own, **extra) if weights is None else load(model_class, weights, own, extra)
    except Exception as error:  # transformers raises bare Exceptions, too
        raise UserError(f"{where} is no {kind} that can be used: {one_line(error)}") from error
    if kind == "clip":
        model.post_layernorm = nn.Identity()  # belongs to the class token's output, which the pyramid does not read
    return model, {**architecture, "fields": fields}


def small_fields(config: DreamingConfig) -> dict[str, Any]:
    """Fields of a model that suits ``embedding_dim``.

    A token of a transformer stands for half an image patch each way: with a quarter there are four times as many,
    and what they show was learned three times as slowly (per update; fifteen times as slowly per second).
    """
    dim = config.embedding_dim
    if config.vision_backbone == "resnet":  # strides 4, 8 and 16, whatever the patch size
        half = dim // 2
        return {"embedding_size": half, "hidden_sizes": [half, dim, dim], "depths": [1, 1, 1], "layer_type": "basic"}
    patch = config.patch_size // 2
    return {
        "hidden_size": dim,
        "num_hidden_layers": NUM_LEVELS,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 2 * dim,
        "patch_size": patch,
        "image_size": 8 * patch,
    }


def check_fields(config: Any) -> None:
    """Raise a ValueError unless a pyramid can be read off a model of this transformers ``config``."""
    stages = getattr(config, "hidden_sizes", None)
    if config.num_channels != 3:
        raise ValueError(f"num_channels ({config.num_channels}) must be 3, for pictures are in colour")
    if stages is not None and len(stages) < NUM_LEVELS:
        raise ValueError(f"hidden_sizes ({stages}) must name at least {NUM_LEVELS} stages")
    if stages is None and not isinstance(config.patch_size, int):
        raise ValueError(f"patch_size ({config.patch_size}) must be one number, for square patches")


def read_architecture(weights: Path, kind: str, where: str) -> dict[str, Any]:
    """``fields``, and ``mean`` and ``std`` if they are given, from the files beside pretrained weights."""
    if not weights.is_dir():
        raise UserError(f"{where} is not a directory; give a local one with config.json and model.safetensors")
    raw = read_json(weights / "config.json", where)
    if raw.get("model_type") not in MODEL_TYPES[kind]:
        fix = f"give weights of {' or '.join(MODEL_TYPES[kind])}, or change the backbone"
        raise UserError(f'{where} holds a "{raw.get("model_type")}", but model.vision_backbone is {kind}; {fix}')
    found: dict[str, Any] = {"fields": raw.get("vision_config", raw)}
    if (weights / "preprocessor_config.json").is_file():
        pixels = read_json(weights / "preprocessor_config.json", where)
        for name, key in (("mean", "image_mean"), ("std", "image_std")):
            if key not in pixels:
                continue
            found[name] = pixels[key]
            if not (isinstance(found[name], list) and [type(v) for v in found[name]] == [float] * 3):
                raise UserError(f"{where}: {key} in preprocessor_config.json ({found[name]}) must be 3 fractions")
    return found


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file; a :class:`UserError` if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: {path.name} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: {path.name} holds no JSON object; it is not a model's")
    return found


def load(model_class: Any, weights: Path, config: Any, extra: dict[str, Any]) -> nn.Module:
    """``model_class.from_pretrained`` that reads local safetensors only, in full precision, and misses no weight."""
    with quiet():
        model, found = model_class.from_pretrained(
            str(weights),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **extra,
        )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f'its safetensors lack {len(missing)} weights, such as "{missing[0]}"')
    return model


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers: a text model beside the vision model is no fault."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
