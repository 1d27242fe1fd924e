"""One model for worlds of several families: what it answers, and what its experts are for.

A model that dreams and a baseline of equal parameters without dreams are trained on the same mixture of worlds, with
the same number of updates. Both answer the same held-out questions of every world. Of the model also: which experts
its dreams went through, and what is lost without each of them.

Everything is kept in small files: killed at any moment, it goes on where it was when it is started again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamrl.ablation.variants import at_budget
from dreamrl.ablation.work import Job, answers_of, ppo, pretrain, untrained
from dreamrl.baseline import ImageTokenReasoningLLM
from dreamrl.bench.curriculum import same_settings
from dreamrl.bench.families_report import draw_usage, markdown, summarise
from dreamrl.bench.frozen_lake import counter, train
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.drawing import differing_patches
from dreamrl.errors import UserError
from dreamrl.evaluate import evaluate, held_out
from dreamrl.files import write_atomically
from dreamrl.imagine import Imagined
from dreamrl.judge import Judge
from dreamrl.losses import pretrain_loss
from dreamrl.process import settle
from dreamrl.records import distinct_patches
from dreamrl.saving import Loaded, load_pretrained
from dreamrl.settings import load_settings, to_dict
from dreamrl.terminal import StageProgress
from envs.conformance import truth
from envs.mixture import Mixture
from envs.questions import stream
from envs.registry import world_of
from envs.world import Question, Split, World, random_play

DREAMS = 4
"""Dreams behind an answer; of the baseline: answers that vote."""
QUESTIONS_SEED, TRAIN_SEED = 0, 1
"""Of the held-out questions, and of the training questions that the best constant answer is chosen on."""
TRAIN_QUESTIONS = 400
CANDIDATES = 12
"""Constant answers that are tried for a topic: the most frequent true ones."""
PLAY_SCENES, PLAY_KEY = 32, 62
"""Held-out random play of each world on which losses are taken."""
CODEC_SCENES = 40
"""Held-out scenes of each world on which the image codec is measured."""


def bench(
    out: Path = Path("runs/bench-families"),
    preset: str = "families",
    seeds: int = 1,
    budget: float = 1.0,
    items: int = 300,
    shuffles: int = 1000,
) -> dict[str, Any]:
    """Train, measure by family, report; goes on where it was stopped.

    Args:
        out: directory of everything; the report is ``families.md`` and ``.json`` there, the experts ``families.png``.
        preset: settings to train with; ``world.worlds`` must hold at least two families.
        seeds: seeds 0 to seeds - 1, one training of each model each.
        budget: share of the preset's updates and iterations.
        items: held-out questions of each world.
        shuffles: of the families of questions, to compare the mutual information with.

    Returns:
        the report as plain JSON values.
    """
    for name, value, least in (("seeds", seeds, 1), ("items", items, 1), ("shuffles", shuffles, 1)):
        if type(value) is not int or value < least:
            raise UserError(f"{name} ({value}) must be a whole number >= {least}")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise UserError(f"budget ({budget}) must be a number > 0")
    runs = [at_budget(load_settings(str(preset), seed=seed), budget) for seed in range(seeds)]
    families = families_of(runs[0])
    settle()
    results = [_seed(Path(out) / f"seed{run.seed}", run, items) for run in runs]
    report = summarise(results, families, shuffles)
    write_atomically(Path(out) / "families.json", json.dumps(report, indent=1) + "\n")
    write_atomically(Path(out) / "families.md", markdown(report))
    draw_usage(report, Path(out) / "families.png")
    print(markdown(report))
    return report


def families_of(run: RunConfig) -> dict[str, str]:
    """World -> family of the mixture; a UserError unless there are two families, and experts to be left out."""
    world = world_of(run)
    found = {member.name: member.family for member in world.members} if isinstance(world, Mixture) else {}
    if len(set(found.values())) < 2:
        raise UserError(f"world.worlds ({list(run.world.worlds)}) must hold worlds of at least two families")
    if run.model.moe_top_k >= run.model.num_experts:
        rule = f"be < model.num_experts ({run.model.num_experts}), so that one can be left out"
        raise UserError(f"model.moe_top_k ({run.model.moe_top_k}) must {rule}")
    return found


def _seed(place: Path, run: RunConfig, items: int) -> dict[str, Any]:
    """Both trainings of a seed and all measurements; what is there already is read back."""
    same_settings({"run": to_dict(run)}, place)
    done = place / f"measured-{items}"
    done.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if not (done / f"{name}.json").exists():
            write_atomically(done / f"{name}.json", json.dumps(make(), indent=1) + "\n")
        return json.loads((done / f"{name}.json").read_text())

    if not (place / "dreams" / "model").exists():
        train(run, place / "dreams", ray=False)
    baseline = train_baseline(run, place / "baseline")
    pretrained, final = (load_pretrained(place / "dreams" / name, trusted=True) for name in ("pretrained", "model"))
    worlds, questions = members(final.world), test_questions(final, items)
    judge = Judge(pretrained.model)
    found = {"seed": run.seed, "settings": {"steps": run.pretrain.steps, "iterations": run.ppo.iterations}}
    found["parameters"] = {"model": parameters(final.model), "baseline": parameters(baseline)}
    found["topics"] = {name: [topic(q) for q in own] for name, own in questions.items()}
    found["codec"] = once("codec", lambda: {name: codec_errors(final, world) for name, world in worlds.items()})
    found["constant"] = once("constant", lambda: constants(worlds, questions, run))
    found["baseline"] = once("baseline", lambda: measure_baseline(baseline, questions))
    found["pretrained"] = once("pretrained", lambda: measure(pretrained, questions, judge))
    found["ppo"] = once("ppo", lambda: measure(final, questions, judge) | {"loss": play_losses(final)})
    found["without"] = [
        once(f"without{e}", lambda e=e: without(final, e, questions, judge)) for e in range(run.model.num_experts)
    ]
    return found


def train_baseline(run: RunConfig, place: Path) -> ImageTokenReasoningLLM:
    """The baseline of equal parameters after the same number of updates; goes on with what is in ``place``."""
    if not (place / "model").exists():
        paths = {"out": place, "name": "baseline", "pretraining": "baseline"}
        job = Job(**paths, run=run, equal="parameters", dreams=(DREAMS,), said={})
        loaded = untrained(job)
        pretrain(job, loaded)
        ppo(job, loaded)
        model: Any = loaded.model
        model.save_pretrained(place / "model")
    return ImageTokenReasoningLLM.load_pretrained(place / "model")


def parameters(model: torch.nn.Module) -> int:
    """How many numbers ``model`` consists of."""
    return sum(p.numel() for p in model.parameters())


def members(world: World) -> dict[str, Mixture]:
    """Each world of the mixture alone, as the model sees it, by name."""
    assert isinstance(world, Mixture), world.name
    return {member.name: world.only(member.name) for member in world.members}


def topic(question: Question) -> str:
    """What kind of question of its world it is."""
    return question.topic or question.kind.value


def test_questions(loaded: Loaded, items: int) -> dict[str, list[Question]]:
    """``items`` held-out questions of each world."""
    length = loaded.run.model.dream_length
    return {n: held_out(w, w.sizes, items, QUESTIONS_SEED, length=length) for n, w in members(loaded.world).items()}


def measure(loaded: Loaded, questions: dict[str, list[Question]], judge: Judge) -> dict[str, Any]:
    """How ``loaded`` answers the questions of each world.

    Returns:
        by world: ``exact`` 0 or 1 and ``usage`` (E,), the mean routed weight of each expert over the dream steps, of
        every question; ``frames``, the share of dreamed frames that equal the simulator's; ``pictures``, the share of
        answers drawn as what the simulator shows.
    """
    found: dict[str, Any] = {name: {} for name in ("exact", "usage", "frames", "pictures")}
    with StageProgress("eval", sum(map(len, questions.values()))) as bar:
        for world, own in questions.items():
            usage: list[list[float]] = []

            def keep(imagined: Imagined, first: int, usage=usage) -> None:
                weight = imagined.experts.sum(axis=(1, 2), dtype=np.float64)  # (Q, E); steps after the end are zero
                usage += (weight / weight.sum(axis=1, keepdims=True)).tolist()

            result = evaluate(loaded, own, [DREAMS], QUESTIONS_SEED, judge, counter(bar), keep)[DREAMS]
            values = (result.exact.tolist(), usage, result.exact_frame, result.exact_picture)
            for name, value in zip(found, values, strict=True):
                found[name][world] = value
    return found


def measure_baseline(model: ImageTokenReasoningLLM, questions: dict[str, list[Question]]) -> dict[str, Any]:
    """How the baseline answers the questions of each world: the most frequent of its answers."""
    with torch.no_grad():
        found = {world: answers_of(model, own, (DREAMS,))[DREAMS] for world, own in questions.items()}
    return {"exact": {world: [float(v.exact) for v in verdicts] for world, verdicts in found.items()}}


def without(loaded: Loaded, expert: int, questions: dict[str, list[Question]], judge: Judge) -> dict[str, Any]:
    """What :func:`measure` and :func:`play_losses` find when ``expert`` is left out."""
    moe = loaded.model.dream_generator.moe
    moe.leave_out(expert)
    try:
        return measure(loaded, questions, judge) | {"loss": play_losses(loaded)}
    finally:
        moe.leave_out(None)


@torch.no_grad()
def play_losses(loaded: Loaded) -> dict[str, float]:
    """The pretraining loss on held-out random play of each world, less that of the router, which is no error."""
    found = {}
    for name, world in members(loaded.world).items():
        data = RandomPlay(loaded.run, world, loaded.text, loaded.model.codec, Split.TEST)
        _, metrics = pretrain_loss(loaded.model, data.batch(0, PLAY_SCENES, key=PLAY_KEY))
        parts = {name: float(value) for name, value in metrics.items() if name.startswith("loss/")}
        found[name] = sum(parts.values()) - parts["loss/routing"]
    return found


def constants(worlds: dict[str, Mixture], questions: dict[str, list[Question]], run: RunConfig) -> dict[str, Any]:
    """How far one answer a topic gets, in each world: the ``answers``, and ``exact`` 0 or 1 of every question."""
    answers = {name: best_constants(world, run) for name, world in worlds.items()}
    exact = {
        name: [float(topic(q) in answers[name] and world.verify(q, answers[name][topic(q)]).exact) for q in own]
        for (name, world), own in zip(worlds.items(), questions.values(), strict=True)
    }
    return {"answers": answers, "exact": exact}


def best_constants(world: World, run: RunConfig) -> dict[str, str]:
    """For each topic the answer that is right most often on training questions."""
    training = held_out(world, world.sizes, TRAIN_QUESTIONS, TRAIN_SEED, Split.TRAIN, run.model.dream_length)
    by_topic: dict[str, list[Question]] = {}
    for question in training:
        by_topic.setdefault(topic(question), []).append(question)
    answers = {}
    for name, own in by_topic.items():
        known = Counter(answer for q in own if (answer := truth(world, q)) is not None)
        candidates = [answer for answer, _ in known.most_common(CANDIDATES)] or [world.no_plan]
        answers[name] = max(candidates, key=lambda answer: sum(world.verify(q, answer).exact for q in own))
    return answers


def codec_errors(loaded: Loaded, world: World) -> dict[str, float]:
    """What the image codec makes of held-out random play of ``world``.

    Returns:
        ``redrawn``: share of frames that look the same after coding, patch by patch. ``apart``: share of the distinct
        patches whose code no other of them has.
    """
    codec, size, same = loaded.model.codec, world.patch_size, []
    patches: set[bytes] = set()
    for index in range(CODEC_SCENES):
        rng = stream(QUESTIONS_SEED, PLAY_KEY, index)
        scene = world.sample_scene(rng, Split.TEST, world.sizes[index % len(world.sizes)])
        states = random_play(scene, len(world.actions), loaded.run.model.dream_length, rng).states
        frames = [scene.frame(state) for state in dict.fromkeys(states)]
        same += [not differing_patches(f, codec.decode(codec.encode(f), scene.grid), size) for f in frames]
        patches |= {patch.tobytes() for patch in distinct_patches(frames, size)[0]}
    column = np.frombuffer(b"".join(sorted(patches)), np.uint8).reshape(-1, size, 3)
    codes = Counter(codec.encode(column).tolist())
    return {"redrawn": float(np.mean(same)), "apart": sum(n == 1 for n in codes.values()) / len(patches)}
