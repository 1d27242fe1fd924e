"""``dreamrl bench gpu``: what it counts and reports, run on the CPU; on a GPU also how idle that is."""

import json
import random

import pytest
import torch
from torch import nn

from dreamrl.bench.generate import lasting
from dreamrl.bench.gpu import bench, covered, known_peak
from dreamrl.bench.run import run_bench
from dreamrl.data import RandomPlay
from dreamrl.errors import UserError
from dreamrl.flops import count_flops
from dreamrl.losses import pretrain_loss
from dreamrl.nn.layers import Block
from dreamrl.settings import load_settings

TINY = (
    "model.embedding_dim=16", "model.num_heads=2", "model.graph_num_heads=2", "model.expert_num_heads=2",
    "model.dream_length=3", "world.sizes=3", "pretrain.scenes_per_step=2", "ppo.minibatch_size=6",
    "ppo.num_learners=1", "ppo.replay_scenes=1",
)  # fmt: skip


def test_it_runs_on_a_cpu():
    settings = ["device=cpu", "precision=float32", "presets=nano", "steps=2", "peak=1e12"]
    result = run_bench("gpu", [*settings, f"overrides={','.join(TINY)}"])
    assert json.loads(json.dumps(result)) == result
    assert (result["device"], result["precision"], result["compile"], result["peak"]) == ("CPU", "float32", False, 1e12)
    own = result["presets"]["nano"]
    assert own["pretrain"]["samples"] == 1  # of one of the preset's two workers
    assert own["ppo"]["samples"] == 6 and own["ppo"]["triplets"] % 4 == 0  # dreams that last: all four, or none
    for got in (own["pretrain"], own["ppo"]):
        assert got["flops_per_second"] * got["step_seconds"] == pytest.approx(got["flops"])
        assert got["samples_per_second"] * got["step_seconds"] == pytest.approx(got["samples"])
        assert got["triplets_per_second"] * got["step_seconds"] == pytest.approx(got["triplets"])
        assert got["mfu"] == pytest.approx(got["flops_per_second"] / 1e12)
        assert 0 < got["data_share"] < 1
        assert got["idle_share"] is None and got["peak_memory"] is None
    run = load_settings("nano", overrides=TINY)
    loaded = lasting(run, 3)
    loaded.model.codec.requires_grad_(False)
    batch = RandomPlay(run, loaded.world, loaded.text, loaded.model.codec).batch(0, 2, 0, 2)
    assert own["pretrain"]["triplets"] == int(batch["lengths"].sum())
    forward = count_flops(lambda: pretrain_loss(loaded.model, batch))
    assert 2 * forward < own["pretrain"]["flops"] <= 3 * forward  # what only reads inputs has no gradient to hand on


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps (0) must be >= 1"),
        ({"presets": ()}, "presets must name at least one preset"),
        ({"presets": ("nan",)}, 'unknown preset "nan"; did you mean "nano"?'),
        ({"precision": "half"}, "precision (half) must be one of float32, bfloat16"),
        ({"device": "cpu", "peak": "fast"}, "peak (fast) must be operations per second, such as 989e12"),
        ({"device": "cpu", "peak": -1.0}, "peak (-1.0) must be operations per second, such as 989e12"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(ValueError) as error:
        bench(**settings)
    assert str(error.value) == message
    assert isinstance(error.value, UserError) or type(error.value).__name__ == "ConfigError"


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Block(8, 2), (3, 5, 8)),
        (nn.Conv2d(8, 6, 3, padding=1), (2, 8, 4, 5)),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 4, 5)),  # as in LocalMixing
        (nn.Conv2d(8, 4, 2, stride=2, groups=2), (2, 8, 4, 6)),
    ],
)
def test_backward_is_counted_and_costs_twice_the_forward_pass(module, shape):
    rows = torch.zeros(shape, requires_grad=True)
    forward = count_flops(lambda: module(rows))
    assert count_flops(lambda: module(rows).sum().backward(), gradients=True) == 3 * forward
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 NVL", None),
        ("Tesla T4", None),
        ("CPU", None),
    ],
)
def test_peaks_are_those_of_the_card(name, peak):
    assert known_peak(name) == peak


def test_kernels_that_overlap_count_once():
    assert covered([]) == 0 and covered([(0, 2), (1, 3), (5, 6)]) == 4
    rng = random.Random(0)
    for _ in range(20):
        spans = [(start := rng.randrange(50), start + rng.randrange(10)) for _ in range(rng.randrange(12))]
        assert covered(spans) == len({tick for start, end in spans for tick in range(start, end)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_it_also_says_how_idle_that_is():
    result = bench(("nano",), "cuda", "bfloat16", overrides=TINY, steps=2, peak=1e14)
    assert result["device"] == torch.cuda.get_device_name()
    for got in (result["presets"]["nano"]["pretrain"], result["presets"]["nano"]["ppo"]):
        assert 0 < got["idle_share"] < 1 and 0 < got["mfu"] < 1 and got["peak_memory"] > 2**20
