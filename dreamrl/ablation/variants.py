"""What `dreamrl ablate` compares: the same training with one thing changed at a time, over several seeds.

A piece of work is one variant with one seed. :mod:`dreamrl.ablation.runner` has the pieces done. Nothing slow is
imported here, so that mistakes are found before any work starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dreamrl.config import ConfigError, RunConfig
from dreamrl.errors import UserError, nearest
from dreamrl.settings import load_settings, to_dict

DEFAULT = "default"
VARIANTS: dict[str, tuple[str, list[str]]] = {
    DEFAULT: ("the model as it is", []),
    "baseline-params": ("no dreams: image tokens straight to the answer, as many parameters", []),
    "no-rl": ("pretraining only", ["ppo.iterations=0"]),
    "no-replay": ("PPO without the supervised loss on true transitions", ["ppo.replay_weight=0"]),
    "naive-progress": ("+1 closer, -0.2 farther instead of potential-based shaping", ["reward.shaping=naive"]),
    "mean-reader": ("dreams read without edges, mean pooling", ["model.graph_reader=mean"]),
    "shuffled-edges": ("edges between random nodes", ["model.graph_reader=shuffled"]),
    "dense": (
        "no mixture: one expert of two blocks, as much work a step as the best 2 of 4",
        ["model.num_experts=1", "model.moe_top_k=1", "model.expert_num_layers=2"],
    ),
    "baseline-flops": ("no dreams, the trunk looped until an answer costs as much as from the dreams", []),
    "baseline-time": (
        "no dreams, 4 times the updates (about the default's seconds), asked only what is measured: for paths",
        ["pretrain.predict_share=0", "ppo.predict_share=0"],
    ),
    "all-experts": ("all 4 experts think every step through", ["model.moe_top_k=4"]),
    "typed-experts": (
        "experts that read different things, with memory",
        ["model.expert_types=spatial,temporal,causal,abstract", "model.use_dream_memory=true"],
    ),
    "cross-expert": ("chosen experts attend to each other", ["model.use_cross_expert_attention=true"]),
    "noisy-gating": ("noisy top-k gating in pretraining", ["model.moe_noise_std=1"]),
    "loss-free-balance": (
        "a bias balances the experts instead of a loss",
        ["model.load_balance=bias", "model.load_balance_loss_weight=0.001"],
    ),
    "z-loss": ("router z-loss", ["model.router_z_loss_weight=0.001"]),
    "sparsemax": ("sparsemax for gating and attention", ["model.moe_gating=sparsemax", "model.attention=sparsemax"]),
    "no-local-mixing": ("patches meet in attention only", ["model.use_local_mixing=false"]),
    "memory": ("a dream step sees the earlier steps of its dream", ["model.use_dream_memory=true"]),
    "learned-edges": ("edges that the model chooses, too", ["model.use_learned_edges=true"]),
    "node-memory": ("nodes take messages in through a GRU", ["model.use_node_memory=true"]),
    "picture-reading": (
        "the reader sees where things are in the pictures, the decoder reads the last one",
        ["model.use_picture_reading=true"],
    ),
    "three-hops": ("three rounds of message passing instead of two", ["model.graph_reasoning_hops=3"]),
    "alibi": ("linear biases instead of rotary positions", ["model.positions=alibi"]),
    "learned-positions": ("tables of absolute positions instead of rotary ones", ["model.positions=learned"]),
    "contrastive": ("pictures and actions in words aligned in pretraining", ["model.use_contrastive_loss=true"]),
    "input-noise": (
        "prompts damaged in pretraining",
        ["model.embedding_dropout=0.15", "model.token_masking=0.1"],
    ),
    "lite-vision": ("a small vision backbone looks at the prompt's picture", ["model.vision_backbone=lite"]),
}
"""Variant -> what it is, and its settings in the language of :mod:`dreamrl.settings`. The order is that of the work."""
BASELINES = {"baseline-params": "parameters", "baseline-flops": "flops", "baseline-time": "parameters"}
"""Variants that are no settings of the dreaming model but another model: what it has in common with the default."""
MORE_UPDATES = {"baseline-time": 4}
"""Variants that train for so many times the budget."""
MORE_DREAMS = (2, 8)
"""Numbers of dreams that the default is measured with besides those of ``eval.dreams``."""
PPO_ONLY = ("ppo_clip_epsilon", "ppo_gae_lambda", "reward_components")
"""Fields of the model's settings that pretraining never reads."""
MAX_SEEDS = 1000
MIN_BUDGET, MAX_BUDGET = 1e-4, 1e4


class Piece(NamedTuple):
    """One variant with one seed: its settings, and what a baseline has in common with the default ("": it dreams)."""

    variant: str
    seed: int
    run: RunConfig
    equal: str

    @property
    def name(self) -> str:
        """Stem of all file names."""
        return f"{self.variant}-seed{self.seed}"

    @property
    def pretraining(self) -> str:
        """Pieces with the same key start from the same pretrained model."""
        settings = to_dict(self.run)
        model = {name: value for name, value in settings["model"].items() if name not in PPO_ONLY}
        shared = {name: settings[name] for name in ("seed", "world", "pretrain")}
        gamma = self.run.ppo.gamma  # discounts the returns that pretraining predicts
        text = json.dumps([shared, model, gamma, self.equal], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def job(self, out: Path, budget: float) -> dict[str, Any]:
        """What its process is told."""
        dreams = {*self.run.eval.dreams, *(MORE_DREAMS if self.variant == DEFAULT else ())}
        return {
            "out": str(out.resolve()),
            "name": self.name,
            "variant": self.variant,
            "seed": self.seed,
            "equal": self.equal,
            "pretraining": self.pretraining,
            "dreams": sorted(dreams),
            "budget": budget,
            "settings": to_dict(self.run),
        }


def plan(variants: Sequence[str], seeds: int, budget: float, overrides: Sequence[str]) -> list[Piece]:
    """All pieces in the order of work; every mistake is a :class:`UserError` or ConfigError."""
    for flag, value, low, high in (("--seeds", seeds, 1, MAX_SEEDS), ("--budget", budget, MIN_BUDGET, MAX_BUDGET)):
        if not low <= value <= high:
            raise UserError(f"{flag} ({value:g}) must be between {low:g} and {high:g}")
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f'unknown variant "{name}"; {nearest(name, VARIANTS)} (see `dreamrl ablate --list`)')
    if any(text.partition("=")[0].strip() == "seed" for text in overrides):
        raise UserError("seed=... contradicts --seeds, which counts them from 0; drop it")
    load_settings(overrides=overrides)  # their own mistakes, before any variant is blamed
    pieces = []
    for name in (name for name in VARIANTS if name in variants):
        for seed in range(seeds):
            try:
                run = load_settings(overrides=[*overrides, *VARIANTS[name][1]], seed=seed)
            except ConfigError as error:
                raise UserError(f'variant "{name}" does not go with these settings: {error}') from error
            own = at_budget(run, budget * MORE_UPDATES.get(name, 1))
            pieces.append(Piece(name, seed, own, BASELINES.get(name, "")))
    return pieces


def at_budget(run: RunConfig, budget: float) -> RunConfig:
    """``run`` with updates of pretraining and iterations of PPO times ``budget``, but not 0 where it was not."""

    def scaled(count: int) -> int:
        return count and max(1, round(count * budget))

    return replace(
        run,
        pretrain=replace(run.pretrain, steps=scaled(run.pretrain.steps)),
        ppo=replace(run.ppo, iterations=scaled(run.ppo.iterations)),
    )


def variant_lines() -> list[str]:
    """What `dreamrl ablate --list` prints."""
    width = max(map(len, VARIANTS))
    rows = ((name, text, " ".join(settings)) for name, (text, settings) in VARIANTS.items())
    return [f"{name:<{width}}  {text}{f' ({settings})' if settings else ''}" for name, text, settings in rows]
