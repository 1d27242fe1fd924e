"""Models on disk: a directory with config.json, model.safetensors and tokenizer.json, nothing executable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamrl.checkpoint import load_model_files, present, save_model
from dreamrl.config import DreamingConfig, RunConfig, WorldConfig
from dreamrl.errors import UserError
from dreamrl.model import Assets, DreamingReasoningLLM
from dreamrl.nn.text import TextTokenizer
from dreamrl.settings import from_dict, to_dict
from envs.mixture import Mixture
from envs.registry import world_of
from envs.world import World


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with everything that it needs to be used."""

    run: RunConfig
    world: World
    text: TextTokenizer
    model: DreamingReasoningLLM


def new_model(run: RunConfig) -> Loaded:
    """An untrained model for ``run``; its weights depend on the seed only."""
    world = world_of(run)
    text = TextTokenizer.train(world.corpus(), run.model.vocab_size)
    return DreamingReasoningLLM(assets=Assets(run, world, text)).loaded


def make_assets(config: DreamingConfig, world: str, seed: int) -> Assets:
    """World and tokenizer for a model that is made by hand; the other settings are the defaults."""
    run = RunConfig(model=config, world=WorldConfig(name=world), seed=seed)
    made = world_of(run)
    return Assets(run, made, TextTokenizer.train(made.corpus(), config.vocab_size))


def named_world(loaded: Loaded, name: str) -> World:
    """The world ``name`` as a model that was trained on it sees it; a UserError if it was trained on others."""
    if name == loaded.world.name or name == loaded.run.world.name and not loaded.run.world.worlds:
        return loaded.world
    if isinstance(loaded.world, Mixture):
        return loaded.world.only(name)
    raise UserError(f'the model was trained on "{loaded.world.name}", not on "{name}"')


def weights(model: DreamingReasoningLLM) -> dict[str, Tensor]:
    """Every parameter once, under its first name; tables that parts share are not repeated."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def set_weights(model: DreamingReasoningLLM, state: dict[str, Tensor], origin: str) -> None:
    """Copy ``state`` into ``model``; a wrong name or shape is one clear error."""
    own = dict(model.named_parameters())
    for name in sorted(set(own) ^ set(state)):
        what = "lacks" if name in own else "has an unknown"
        raise UserError(f'{origin} {what} weight "{name}": it does not belong to this config')
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise UserError(f'{origin}: "{name}" has shape {list(state[name].shape)}, need {list(parameter.shape)}')
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    model.codec.forget()  # cached codes belong to the old weights


def save_pretrained(loaded: Loaded, directory: Path) -> None:
    """Write ``loaded`` as a model directory, atomically."""
    config = {
        "run": to_dict(loaded.run),
        "vocab_size": loaded.text.vocab_size,
        "actions": list(loaded.world.actions),
        "vision": loaded.model.input_tokenizer.architecture,
    }
    save_model(directory, weights(loaded.model), config, loaded.text.save)


def load_pretrained(directory: Path, trusted: bool = False) -> Loaded:
    """Read a model directory; every way in which it can be wrong is one :class:`UserError`.

    A model of a user's own world names a module: it is imported only if the directory is ``trusted``.
    """
    config, state = load_model_files(directory)
    for key, kind in (("run", dict), ("vocab_size", int), ("actions", list)):
        if not isinstance(config.get(key), kind):
            raise UserError(f'{directory}/config.json has no "{key}": it was not written by dreamrl, or edited')
    run = from_dict(config["run"], f"{directory}/config.json")
    world = world_of(run, trusted)
    try:
        text = TextTokenizer.load(present(directory) / "tokenizer.json")
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{directory}/tokenizer.json is not a tokenizer: {error}") from error
    if text.vocab_size != config["vocab_size"]:
        raise UserError(
            f"{directory}/tokenizer.json has {text.vocab_size} tokens, config.json says {config['vocab_size']}: "
            "the files belong to different models"
        )
    if list(world.actions) != config["actions"]:
        raise UserError(f"{directory}/config.json has actions {config['actions']}, {world.name} has other ones")
    model = DreamingReasoningLLM(assets=Assets(run, world, text, config.get("vision")))
    set_weights(model, state, str(directory / "model.safetensors"))
    model.codec.trained = True
    return model.loaded


def training_tensors(model: DreamingReasoningLLM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and optimizer, for a checkpoint."""
    return weights(model) | optimizer_tensors(optimizer)


def set_training(model: DreamingReasoningLLM, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`training_tensors`."""
    set_weights(model, model_tensors(tensors), "checkpoint")
    set_optimizer(optimizer, tensors)


def model_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights among a checkpoint's tensors, without what :func:`optimizer_tensors` added."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as flat named tensors, e.g. ``optimizer/3/exp_avg``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer/{i}/{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def set_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`optimizer_tensors`; hyperparameters stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
