"""Noise of pretraining: drawn from the batch's own seed, and never in replay, PPO or answering."""

import pytest
import torch

from dreamrl.config import WorldConfig
from dreamrl.data import RandomPlay
from dreamrl.losses import pretrain_loss

NOISES = {
    "dropout": {"embedding_dropout": 0.4},
    "masking": {"token_masking": 0.4},
    "gating": {"moe_noise_std": 2.0},
    "pictures": {"embedding_dropout": 0.3, "token_masking": 0.3, "vision_backbone": "lite"},
}


@pytest.fixture(scope="module", params=NOISES.values(), ids=NOISES)
def noisy(request, make_loaded):
    return make_loaded(model=request.param, world=WorldConfig(sizes=(2, 3)))


def play(loaded):
    return RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)


@torch.no_grad()
def parts(loaded, batch, seed=None):
    """Losses by name, with another noise seed, or with "none" without any."""
    batch = {k: v for k, v in batch.items() if k != "noise_seed" or seed is None}
    if isinstance(seed, int):
        batch["noise_seed"] = torch.tensor(seed)
    return {k: float(v) for k, v in pretrain_loss(loaded.model, batch)[1].items() if k.startswith("loss/")}


def test_the_same_seed_draws_the_same_noise(noisy):
    batch = play(noisy).batch(0, 6)
    torch.manual_seed(0)
    first = parts(noisy, batch)
    torch.manual_seed(1)  # the global generator plays no part
    state = torch.get_rng_state()
    assert parts(noisy, batch) == first
    assert torch.equal(torch.get_rng_state(), state)
    other = parts(noisy, batch, seed=int(batch["noise_seed"]) + 1)
    for name in ("loss/frame", "loss/action", "loss/value"):
        assert abs(other[name] - first[name]) > 1e-4, name
    assert other["loss/inverse"] == first["loss/inverse"]  # the judge-to-be sees everything as it is


def test_without_a_seed_nothing_is_random(noisy, make_loaded):
    """The same losses as those of a model with the same weights that has no noise in its settings."""
    batch = play(noisy).batch(0, 6)
    clean = parts(noisy, batch, seed="none")
    assert clean == parts(noisy, batch, seed="none")
    quiet = make_loaded(
        model={"vision_backbone": noisy.run.model.vision_backbone}, world=noisy.run.world
    )  # without the settings of noise
    own = dict(noisy.model.named_parameters())
    with torch.no_grad():
        for name, parameter in quiet.model.named_parameters():
            parameter.copy_(own[name])
    assert parts(quiet, batch, seed="none") == pytest.approx(clean, rel=1e-5)
    assert abs(parts(noisy, batch)["loss/frame"] - clean["loss/frame"]) > 1e-4


def test_without_settings_only_the_painter_is_disturbed(make_loaded):
    loaded = make_loaded(world=WorldConfig(sizes=(2, 3)))
    batch = play(loaded).batch(0, 6)
    clean, noisy = parts(loaded, batch, seed="none"), parts(loaded, batch)
    assert {name for name in clean if clean[name] != noisy[name]} == {"loss/picture"}


def test_batches_of_pretraining_carry_a_seed_of_their_own_and_others_none(loaded):
    data = play(loaded)
    seeds = [int(data.batch(index, 2, rank, 2)["noise_seed"]) for index in range(4) for rank in range(2)]
    assert len(set(seeds)) == 8  # another one for every update and every worker
    assert int(play(loaded).batch(3, 2, 1, 2)["noise_seed"]) == seeds[-1]
    for key in (4, 5, 6):  # replay, and what probes and tests draw
        assert "noise_seed" not in data.batch(0, 1, key=key)
