"""Does the curriculum of PPO save experience? Steps in the simulator until held-out boards are answered.

Both arms start from the same pretrained model of a seed and may take the same steps; one of them goes through the
stages of :mod:`dreamrl.curriculum`. A step is what the simulator was asked: a dreamed step of one dream, or an answer.
Every few iterations of PPO all sizes of validation boards are answered with all hops and ``DREAMS`` dreams.

Killed at any moment, it goes on where it was when it is started again with the same settings.

Run ``dreamrl bench curriculum seeds=0,1,2`` for the numbers; see :func:`bench` for what else can be set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.config import CurriculumConfig, DreamingConfig, PPOConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.errors import UserError
from dreamrl.evaluate import evaluate, held_out
from dreamrl.files import write_atomically
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import pretrain_loop
from dreamrl.process import settle
from dreamrl.saving import load_pretrained
from dreamrl.settings import completed, to_dict
from envs.world import Split

ARMS = ("plain", "curriculum")
DREAMS = 4
BOARDS_SEED = 0
"""Of the validation boards: the same for all."""
MILESTONES = (0.6, 0.7, 0.8)
"""Exact matches on the way that steps are counted to, besides the target."""
STAGE, SETTINGS = "ppo", "settings.json"


def bench(
    seeds: Sequence[int] = (0, 1, 2),
    target: float = 0.9,
    sizes: Sequence[int] = (3, 4, 5, 6),
    budget: int = 300_000,
    iterations: int = 60,
    questions: int = 256,
    every: int = 2,
    boards: int = 400,
    pretrain_steps: int = 720,
    dream_length: int = 10,
    embedding_dim: int = 64,
    out: Path = Path("runs/bench-curriculum"),
) -> dict[str, Any]:
    """Both arms for each seed.

    Args:
        seeds: of pretraining and PPO.
        target: exact match on the held-out boards that the steps are counted to.
        sizes: of the boards; the curriculum begins with the smallest.
        budget: steps after which an arm ends if it has not reached the target.
        iterations: of PPO over which the learning rate falls and which the stages share; more if the budget lasts.
        questions: of an iteration.
        every: iterations between two measurements.
        boards: held-out boards.
        pretrain_steps: updates of the pretraining that both arms share.
        dream_length: of the model.
        embedding_dim: of the model.
        out: where unfinished work is kept.

    Returns:
        {"arms": {arm: {seed: [measurements]}}, "steps_to": {exact match: {arm: steps of each seed or None, "ratio":
        curriculum over plain, mean over the seeds in which both came so far; None without any}}}.
    """
    settle()
    model = DreamingConfig(
        embedding_dim=embedding_dim, dream_length=dream_length, num_dream_sequences=DREAMS,
        max_prompt_tokens=2 * dream_length + 12, max_answer_tokens=2 * dream_length + 4,
    )  # fmt: skip
    ppo = PPOConfig(iterations=iterations, questions_per_iteration=questions, minibatch_size=min(80, questions))
    pretrain = PretrainConfig(steps=pretrain_steps, num_workers=1)
    world = WorldConfig(sizes=tuple(sizes))
    plain = RunConfig(model=model, world=world, pretrain=pretrain, ppo=ppo)
    arms: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    for seed in seeds:
        run, place = replace(plain, seed=seed), Path(out) / f"seed{seed}"
        limits = {"target": target, "budget": budget, "every": every, "boards": boards}
        same_settings({"run": to_dict(run), **limits}, place)
        if not (place / "pretrained").exists():
            pretrain_loop(run, place)
        for arm in ARMS:
            own = replace(run, curriculum=CurriculumConfig(enabled=arm == "curriculum"))
            arms[arm][str(seed)] = learn(own, place / arm, target, budget, every, boards)
    steps: dict[str, dict[str, Any]] = {}
    for goal in sorted({*(m for m in MILESTONES if m < target), target}):
        row: dict[str, Any] = {arm: [steps_to(curve, goal) for curve in arms[arm].values()] for arm in ARMS}
        pairs = [
            (ours, theirs) for ours, theirs in zip(row["curriculum"], row["plain"], strict=True) if ours and theirs
        ]
        row["ratio"] = round(float(np.mean([ours / theirs for ours, theirs in pairs])), 3) if pairs else None
        steps[str(goal)] = row
    return {"target": target, "arms": arms, "steps_to": steps}


def steps_to(curve: list[dict[str, Any]], goal: float) -> int | None:
    """Steps when ``goal`` was reached, linearly between two measurements, of which the arms have unequal numbers."""
    for i, point in enumerate(curve):
        if point["exact_match"] >= goal:
            if i == 0:
                return 0
            before = curve[i - 1]
            part = (goal - before["exact_match"]) / (point["exact_match"] - before["exact_match"])
            return round(before["steps"] + part * (point["steps"] - before["steps"]))
    return None


def learn(run: RunConfig, out: Path, target: float, budget: int, every: int, boards: int) -> list[dict[str, Any]]:
    """One arm's measurements until target or budget is reached, from its newest checkpoint under ``out`` if any."""
    loaded = replace(load_pretrained(out.parent / "pretrained", trusted=True), run=run)
    trainer = PPOTrainer(loaded)
    exam = held_out(loaded.world, loaded.world.sizes, boards, BOARDS_SEED, Split.VALIDATION, run.model.dream_length)
    curve: list[dict[str, Any]] = []
    if (found := newest_checkpoint(out, STAGE)) is not None:
        curve = found[2]["curve"]
        trainer.restore(found[1], found[2])
    steps = curve[-1]["steps"] if curve else 0
    while not curve or (curve[-1]["exact_match"] < target and steps < budget):
        for _ in range(every if curve else 0):
            trainer.iterate()
            steps += trainer.simulated
        result = evaluate(loaded, exam, [DREAMS], BOARDS_SEED)[DREAMS]
        stage = None if trainer.curriculum is None else trainer.curriculum.number + 1
        exact = round(float(result.exact.mean()), 4)
        curve.append({"iteration": trainer.iteration, "steps": steps, "exact_match": exact, "stage": stage})
        print(f"{out.parent.name} {out.name}", json.dumps(curve[-1]), flush=True)
        save_checkpoint(out, f"{STAGE}-{trainer.iteration:08d}", trainer.tensors(), trainer.state() | {"curve": curve})
    return curve


def same_settings(settings: dict[str, Any], out: Path) -> None:
    """A UserError if ``out`` holds work on other settings."""
    text = json.dumps(settings, indent=1)
    out.mkdir(parents=True, exist_ok=True)
    place = out / SETTINGS
    found = json.loads(place.read_text(encoding="utf-8")) if place.exists() else settings
    # What an older version did not know has its default.
    found = found | {"run": completed(found["run"], str(place))}
    if json.dumps(found, indent=1) != text:
        raise UserError(f"{out} holds a benchmark with other settings; give another out=DIR, or delete it")
    write_atomically(out / SETTINGS, text)
