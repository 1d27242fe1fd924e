"""What is watched while training: each world of a mixture by itself, under names that the glossary explains."""

import pytest
import torch

from dreamrl.metrics import explain
from dreamrl.probe import BY_WORLD, Probe
from dreamrl.saving import new_model
from dreamrl.settings import load_settings

TINY = ["model.embedding_dim=16", "model.code_levels=[4,4]", "model.dream_length=4", "model.num_dream_sequences=2"]
LAKE, GRID = "spatial.frozen_lake", "spatial.minigrid"


def new(*overrides):
    return new_model(load_settings(overrides=[*TINY, *overrides]))


@pytest.fixture(scope="module")
def mixed():
    return Probe(new("world.worlds=[frozen_lake@3-4*5, minigrid]"), scenes=12)


def test_one_world_is_not_named():
    found = Probe(new(), scenes=4)()
    assert not any("." in name for name in found)
    assert all(explain(f"pretrain/{name}") for name in found)


def test_the_worlds_of_a_mixture_are_named_and_averaged(mixed):
    found = mixed()
    for name in BY_WORLD:
        assert found[name] == pytest.approx((found[f"{name}/{LAKE}"] + found[f"{name}/{GRID}"]) / 2)
    assert all(explain(f"pretrain/{name}") for name in found)
    assert found == mixed()


def test_each_batch_is_of_its_own_world(mixed):
    mixed()
    texts = {
        name: [mixed.loaded.text.decode(t) for t in batch["text"].tolist()] for name, batch in mixed.batches.items()
    }
    assert [len(t) for t in texts.values()] == [6, 6]
    assert all("elf" in text or "gift" in text for text in texts[LAKE])
    assert not any("elf" in text or "gift" in text for text in texts[GRID])


def test_the_model_is_measured_as_it_is(mixed):
    """A world model that always says the same code paints no exact frame; the batches stay."""
    mixed()
    batches = dict(mixed.batches)
    with torch.no_grad():
        for parameter in mixed.loaded.model.dream_generator.parameters():
            parameter.zero_()
    assert mixed()["exact_frame"] == 0
    assert mixed.batches == batches
