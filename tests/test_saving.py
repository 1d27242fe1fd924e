"""Model directories: the same model comes back, and everything else is refused in one line without running anything."""

import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from dreamrl.checkpoint import CONFIG, FORMAT_VERSION, TOKENIZER, WEIGHTS
from dreamrl.config import ConfigError
from dreamrl.errors import UserError
from dreamrl.imagine import answer, imagine
from dreamrl.saving import (
    load_pretrained,
    new_model,
    optimizer_tensors,
    save_pretrained,
    set_optimizer,
    set_weights,
    weights,
)
from envs.questions import stream
from envs.world import QuestionKind, Split, WorldError

PROBLEMS = (UserError, ConfigError, WorldError)
"""What the command line prints as one line."""


@pytest.fixture
def directory(loaded, tmp_path):
    save_pretrained(loaded, tmp_path / "model")
    return tmp_path / "model"


def outputs(loaded):
    """Everything that a model says about two boards."""
    asked = []
    for index, size in enumerate((3, 4)):
        rng = stream(1, index)
        asked.append(loaded.world.ask(loaded.world.sample_scene(rng, Split.TEST, size), QuestionKind.PLAN, rng))
    imagined = imagine(loaded, asked, 3, 0, 1.0)
    said = answer(loaded, imagined, 3)
    arrays = [imagined.batch.frames, imagined.batch.actions, imagined.experts, imagined.values, said.confidence]
    return said.texts, [s.coherent for scores in imagined.batch.scores for s in scores], arrays


def test_a_saved_model_says_the_same(loaded, directory):
    again = load_pretrained(directory)
    assert again.run == loaded.run and again.world.name == loaded.world.name
    for ours, theirs in zip(outputs(loaded), outputs(again), strict=True):
        if isinstance(ours, list) and isinstance(ours[0], np.ndarray):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        else:
            assert ours == theirs
    fresh = new_model(loaded.run)
    assert not np.array_equal(outputs(fresh)[2][3], outputs(loaded)[2][3])  # an untrained one does not


def test_saving_what_was_loaded_gives_the_same_files(directory, tmp_path):
    save_pretrained(load_pretrained(directory), tmp_path / "again")
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sorted(p.name for p in directory.iterdir()) == sorted([CONFIG, WEIGHTS, TOKENIZER])


def test_new_models_depend_on_their_seed_alone(loaded):
    torch.manual_seed(11)
    first = weights(new_model(loaded.run).model)
    state = torch.get_rng_state()
    second = weights(new_model(loaded.run).model)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    other = weights(new_model(dataclasses.replace(loaded.run, seed=4)).model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(not torch.equal(first[name], other[name]) for name in first) > len(first) / 2


def test_cached_codes_do_not_outlive_their_weights(loaded):
    scene = loaded.world.sample_scene(stream(2), Split.TRAIN, 4)
    fresh = new_model(loaded.run)
    before = fresh.model.codec.encode(scene.frame(scene.start)).tolist()
    set_weights(fresh.model, weights(loaded.model), "test")
    after = fresh.model.codec.encode(scene.frame(scene.start)).tolist()
    assert after == loaded.model.codec.encode(scene.frame(scene.start)).tolist() != before


def edit(directory, change):
    """Apply ``change`` to the config of a model directory."""
    config = json.loads((directory / CONFIG).read_text())
    change(config)
    (directory / CONFIG).write_text(json.dumps(config))


def replace_weights(directory, content):
    """Put other bytes in place of the weights, with a digest that fits."""
    (directory / WEIGHTS).write_bytes(content)
    edit(directory, lambda config: config.update(weights_sha256=hashlib.sha256(content).hexdigest()))


def refused(directory, *parts):
    with pytest.raises(PROBLEMS) as caught:
        load_pretrained(directory)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def set_key(*path, value):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change, parts",
    [
        (set_key("run", "model", "embedding_dim", value=32), ["has shape", ", 16]", "need", ", 32]"]),
        (set_key("run", "model", "num_experts", value=5), ["model.safetensors lacks weight", "experts.4"]),
        (set_key("run", "model", "trunk_layers", value=2), ["lacks weight", "trunk.1"]),
        (set_key("run", "model", "decoder_layers", value=1), ["unknown weight", "output_decoder.blocks.1"]),
        (set_key("run", "model", "use_dream_memory", value=True), ["lacks weight", "dream_generator.memory"]),
        (set_key("run", "model", "vision_backbone", value="lite"), ["lacks weight", "input_tokenizer"]),
        (set_key("format_version", value=FORMAT_VERSION + 1), ["config.json has format_version", "upgrade dreamrl"]),
        (set_key("format_version", value=FORMAT_VERSION - 1), ["it is older, train it again"]),
        (set_key("run", "model", "moe_top_k", value=9), ["moe_top_k (9) must be <= model.num_experts (4)"]),
        (set_key("run", "model", "embedding_dim", value="wide"), ["embedding_dim", "whole number"]),
        (set_key("run", "model", "layers", value=1), ['unknown key "model.layers"']),
        (set_key("run", "world", "name", value="frozenlake"), ['unknown world "frozenlake"', "frozen_lake"]),
        (set_key("run", value=[]), ["config.json"]),
        (lambda config: config.pop("run"), ["config.json"]),
        (set_key("actions", value=["left", "right"]), ["config.json"]),
        (set_key("vocab_size", value=7), ["config.json"]),
    ],
)
def test_a_config_that_does_not_fit_is_refused(directory, change, parts):
    edit(directory, change)
    refused(directory, *parts)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER])
def test_a_file_that_is_missing_or_cut_short_is_named(directory, name):
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) // 2])
    refused(directory, name)
    (directory / name).write_bytes(b"")
    refused(directory, name)
    (directory / name).unlink()
    refused(directory, name)


def test_weights_of_another_model_are_refused(loaded, directory):
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in weights(loaded.model).items()}
    name = "dream_generator.policy.weight"
    replace_weights(directory, save({k: v for k, v in state.items() if k != name}))
    refused(directory, "lacks weight", name)
    replace_weights(directory, save({**state, name: torch.zeros(5, 3)}))
    refused(directory, name, "has shape [5, 3]", "need [4, 32]")
    replace_weights(directory, save({**state, "extra": torch.zeros(1)}))
    refused(directory, "unknown weight", "extra")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"]["vocab"].pop("right"),
        lambda t: t.pop("model"),
        lambda t: t["model"].update(type="Lisp"),
        lambda t: t.update(added_tokens=[{"id": 0, "content": "<eos>"}]),
        lambda t: t.update(model={}),
    ],
    ids=["a word less", "no model", "no such model", "other special tokens", "empty model"],
)
def test_a_tokenizer_that_does_not_fit_is_refused(directory, change):
    content = json.loads((directory / TOKENIZER).read_text())
    change(content)
    (directory / TOKENIZER).write_text(json.dumps(content))
    refused(directory)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER])
def test_loading_runs_nothing(directory, tmp_path, name, kind):
    mark = tmp_path / "exploded"
    if kind == "pickle":
        content = pickle.dumps(Bomb(mark))
        pickle.loads(content)
    else:
        torch.save({"w": Bomb(mark)}, tmp_path / "bomb.pt")
        content = (tmp_path / "bomb.pt").read_bytes()
        torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert mark.exists()  # the bomb works
    mark.unlink()
    if name == WEIGHTS:
        replace_weights(directory, content)
    else:
        (directory / name).write_bytes(content)
    refused(directory, name)
    assert not mark.exists()


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['touch exploded']", "__import__('os').abort()"])
def test_code_in_the_config_is_text(directory, tmp_path, value, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (("run", "world", "name"), ("run", "seed"), ("run", "model", "code_levels")):
        edit(directory, set_key(*path, value=value))
        refused(directory)
    assert not (tmp_path / "exploded").exists()


def test_an_optimizer_goes_on_where_it_was():
    def make():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def train(net, optimizer, steps):
        for step in range(steps):
            loss = (net(torch.full((1, 3), float(step + 1))) - 1).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    net, optimizer = make()
    train(net, optimizer, 5)
    kept, state = optimizer_tensors(optimizer), {k: v.clone() for k, v in net.state_dict().items()}
    kept = {k: v.clone() for k, v in kept.items()}
    train(net, optimizer, 3)
    other, resumed = make()
    other.load_state_dict(state)
    set_optimizer(resumed, {**kept, "weight": torch.zeros(1)})  # model weights in the same checkpoint are left alone
    train(other, resumed, 3)
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    cold, fresh = make()
    cold.load_state_dict(state)
    train(cold, fresh, 3)
    assert not torch.equal(cold.weight, net.weight)
