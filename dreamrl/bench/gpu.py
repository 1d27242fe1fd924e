"""Training steps of one GPU (or CPU): how fast pretraining and PPO learn, and how much of the device that takes.

A step is what one Ray Train worker, or one learner, does between two updates of the weights: it makes its batch (random
play is played on the CPU), goes forward and backward, and updates. The same batch is made and learned from again and
again, so that every step asks for exactly the operations that were counted. The model is untrained and never ends a
dream early: what a step costs does not depend on what was learned. Sampling is not here, see ``dreamrl.bench.rollout``.

Operations are those of :func:`dreamrl.flops.count_flops` over a whole step: matrix products, convolutions and
attention, forward and backward, 2 for a multiplication and its addition; nothing element by element, and nothing that a
kernel computes twice. Per second they are FLOPs / (median time of a step). Divided by the peak of the device's bfloat16
units that is the model FLOPs utilisation (MFU) of Chowdhery et al. 2022 (arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dreamrl.bench.generate import lasting
from dreamrl.bench.run import at_least_one
from dreamrl.columns import OBS
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.device import Compute, compute_of
from dreamrl.errors import UserError
from dreamrl.flops import count_flops
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import PretrainStep
from dreamrl.printing import markdown_table
from dreamrl.process import settle
from dreamrl.saving import Loaded
from dreamrl.settings import load_settings
from envs.reasoning_batch import Phase

PEAKS = {"H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "H200": 989e12, "A100": 312e12}
"""Part of a GPU's name -> dense bfloat16 operations per second, by NVIDIA's data sheets; the first is the H100 SXM."""
LESS = "NVL"
"""In a name: a card of the same chip with another peak."""
WARM_UP = 3
"""Steps that do not count: they allocate, choose kernels and compile."""
PROFILED = 5
"""Most steps that are profiled."""


def bench(
    presets: Sequence[str] = ("nano",),
    device: str = "auto",
    precision: str = "float32",
    compiled: bool = False,
    overrides: Sequence[str] = (),
    steps: int = 20,
    peak: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Time training steps of each of the ``presets``.

    Args:
        presets: sizes of networks and batches.
        device: auto, cpu or cuda.
        precision: float32 or bfloat16.
        compiled: whether torch compiles the transformer blocks.
        overrides: settings of the runs, such as ppo.minibatch_size=320.
        steps: that are timed.
        peak: operations per second that the device could do; 0: what is known of it by its name.
        seed: of weights and batches.

    Returns:
        ``device``, ``precision``, ``compile``, ``peak`` (None if unknown), and for each of the presets ``parameters``,
        ``pretrain`` and ``ppo``: ``samples`` (scenes, or env steps) and ``triplets`` (steps of dreams) of one step,
        ``step_seconds`` (median), ``samples_per_second``, ``triplets_per_second``, ``flops`` of a step,
        ``flops_per_second``, ``mfu`` (None without a peak), ``data_share`` (time in which the batch is made; of PPO
        that of the replay), ``idle_share`` (time in which the GPU computes nothing) and ``peak_memory`` in bytes (both
        None on a CPU).
    """
    at_least_one(steps=steps)
    if not presets:
        raise UserError("presets must name at least one preset")
    how = [f"device={device}", f"precision={precision}", f"compile={str(compiled).lower()}"]
    runs = {name: load_settings(name, overrides=[*how, *overrides], seed=seed) for name in presets}
    settle()
    compute = compute_of(next(iter(runs.values())))
    name = torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else "CPU"
    best = given_peak(peak) or known_peak(name)
    found = {preset: measured(run, compute, steps, best) for preset, run in runs.items()}
    print("\n".join(report(found)))
    return {"device": name, "precision": precision, "compile": compiled, "peak": best, "presets": found}


def given_peak(peak: float) -> float:
    """``peak`` as a number: YAML takes 9e14 for text."""
    try:
        value = float(peak)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"peak ({peak}) must be operations per second, such as 989e12")
    return value


def known_peak(name: str) -> float | None:
    """Dense bfloat16 operations per second of the GPU ``name``; None if it is not in the table."""
    return None if LESS in name else next((peak for part, peak in PEAKS.items() if part in name), None)


class Work(NamedTuple):
    """Training of one kind: a ``step()`` learns from ``samples`` with ``triplets``, ``make()`` only makes its batch."""

    step: Callable[[], object]
    make: Callable[[], object]
    samples: int
    triplets: int


def measured(run: RunConfig, compute: Compute, steps: int, peak: float | None) -> dict[str, Any]:
    """Both kinds of training of one preset, one after the other, each with a model of its own."""
    result: dict[str, Any] = {}
    for kind, works in (("pretrain", pretraining), ("ppo", learning)):
        loaded = lasting(run, run.model.dream_length)
        loaded.model.codec.requires_grad_(False)
        loaded.model.to(compute.device)
        result["parameters"] = sum(p.numel() for p in loaded.model.parameters())
        work = works(loaded, compute)
        result[kind] = timed(loaded, compute, work, steps, peak)
    return result


def pretraining(loaded: Loaded, compute: Compute) -> Work:
    """Updates of :func:`dreamrl.pretrain.pretrain_loop`, as one of the run's workers does them."""
    settings = loaded.run.pretrain
    data = RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)
    module = PretrainStep(loaded.model)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=settings.weight_decay)
    made = data.batch(0, settings.scenes_per_step, 0, settings.num_workers)

    def make() -> dict[str, torch.Tensor]:
        return compute.put(data.batch(0, settings.scenes_per_step, 0, settings.num_workers))

    def step() -> None:
        batch = make()
        with compute.learning():
            loss, _ = module(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        optimizer.step()

    return Work(step, make, len(made["text"]), int(made["lengths"].sum()))


def learning(loaded: Loaded, compute: Compute) -> Work:
    """Gradient steps of PPO, as one of the run's learners does them, on a minibatch that was sampled for it."""
    ppo = loaded.run.ppo
    # Episodes have two steps or more: these questions are enough for one minibatch.
    few = replace(ppo, questions_per_iteration=-(-ppo.minibatch_size // 2), num_learners=1, num_env_runners=0, lr=1e-5)
    trainer = PPOTrainer(replace(loaded, run=replace(loaded.run, ppo=few, compile=False)))
    columns, _ = trainer.sample()
    batch = next(trainer.minibatches(columns))
    obs = batch[OBS]
    triplets = int(((obs["active"] == 1) & (obs["phase"] == Phase.DREAM).unsqueeze(1)).sum())

    def make() -> dict[str, torch.Tensor]:
        return compute.put(trainer.replay.batch(0, ppo.replay_scenes, key=4))

    return Work(lambda: trainer.learn(batch, 0), make, len(obs["text"]), triplets)


def timed(loaded: Loaded, compute: Compute, work: Work, steps: int, peak: float | None) -> dict[str, Any]:
    """What is reported of one kind of training."""
    work.step()  # what it sees for the first time, such as patches to be coded, does not count
    flops = count_flops(work.step, gradients=True)
    compute.prepare(loaded.model)  # compiled code cannot be counted
    for _ in range(WARM_UP):
        work.step()
    gpu = compute.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    seconds = statistics.median(one(work.step, compute) for _ in range(steps))
    memory = torch.cuda.max_memory_allocated(compute.device) if gpu else None
    making = statistics.median(one(work.make, compute) for _ in range(min(steps, PROFILED)))
    return {
        "samples": work.samples,
        "triplets": work.triplets,
        "step_seconds": seconds,
        "samples_per_second": work.samples / seconds,
        "triplets_per_second": work.triplets / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "mfu": flops / seconds / peak if peak else None,
        "data_share": making / seconds,
        "idle_share": idle_share(work.step, compute, min(steps, PROFILED)) if gpu else None,
        "peak_memory": memory,
    }


def one(work: Callable[[], object], compute: Compute) -> float:
    """Seconds until ``work`` is done, on the device, too."""
    started = time.perf_counter()
    work()
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return time.perf_counter() - started


def idle_share(step: Callable[[], object], compute: Compute, steps: int) -> float:
    """Share of the time in which no kernel runs on the GPU; copies are no kernels.

    The profiler slows the CPU down a little, so this is an upper bound.
    """
    torch.cuda.synchronize(compute.device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        wall = sum(one(step, compute) for _ in range(steps))
    kernels = [event for event in profiler.events() or () if event.device_type.name == "CUDA"]
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in kernels
        if not event.name.startswith(("Memcpy", "Memset"))
    ]
    return max(0.0, 1 - covered(spans) / (1e6 * wall))  # the profiler counts microseconds


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of ``spans``, each from its start to its end: kernels may run side by side."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def report(found: dict[str, Any]) -> list[str]:
    """The result as lines of a Markdown table."""
    header = ["preset", "training", "ms a step", "samples/s", "triplets/s", "TFLOP/s", "MFU", "batch", "idle", "GiB"]
    rows = []
    for preset, kinds in found.items():
        for kind in ("pretrain", "ppo"):
            got = kinds[kind]
            cells = [f"{1e3 * got['step_seconds']:.1f}", f"{got['samples_per_second']:.1f}"]
            cells += [f"{got['triplets_per_second']:.0f}", f"{got['flops_per_second'] / 1e12:.3f}"]
            cells += ["-" if got[key] is None else f"{got[key]:.1%}" for key in ("mfu", "data_share", "idle_share")]
            cells.append("-" if got["peak_memory"] is None else f"{got['peak_memory'] / 2**30:.2f}")
            rows.append([preset, kind, *cells])
    return markdown_table(header, rows)
