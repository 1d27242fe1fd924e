"""Questions drawn for training, and what the simulator says of the dreams that try to answer them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamrl.rewards import answer_correctness, potential
from envs.world import Outcome, Question, QuestionKind, Rollout, Scene, World, WorldError, roll


def stream(*key: int) -> np.random.Generator:
    """An independent random stream for each key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((len(key), *key))))


def draw_question(world: World, scene: Scene, predict: bool, length: int, rng: np.random.Generator) -> Question:
    """See :meth:`World.draw`; a script that needs longer dreams is a mistake of the world."""
    question = world.draw(scene, predict, length, rng)
    if len(question.script) > length:
        raise WorldError(
            f"{world.about(scene).name} asks about {len(question.script)} actions; set model.dream_length to at "
            f"least that (it is {length})"
        )
    return question


def prompt_pictures(prompts: Sequence[Sequence[np.ndarray]], side: int) -> dict[str, np.ndarray]:
    """The pictures of Q prompts as arrays, zeros where there is none.

    Args:
        prompts: for each question its pictures, uint8 (H, W, 3).
        side: least height and width of the arrays.

    Returns:
        ``pixels`` (Q, K, H, W, 3) uint8 and ``picture_size`` (Q, K, 2): height and width, 0 where there is none.
    """
    most = max(len(pictures) for pictures in prompts)
    sides = np.array([p.shape[:2] for pictures in prompts for p in pictures])
    height, width = np.maximum(sides.max(0), side)
    pixels = np.zeros((len(prompts), most, height, width, 3), np.uint8)
    size = np.zeros((len(prompts), most, 2), np.int32)
    for q, pictures in enumerate(prompts):
        for k, picture in enumerate(pictures):
            size[q, k] = picture.shape[:2]
            pixels[q, k, : picture.shape[0], : picture.shape[1]] = picture
    return {"pixels": pixels, "picture_size": size}


def potentials(question: Question, rollout: Rollout, length: int) -> list[float]:
    """Phi after each of 0, 1, ... actions; for PREDICT the distance is the number of asked moves left."""
    if question.kind is QuestionKind.PLAN:
        return [potential(question.scene.distance(s), length) for s in rollout.states]
    on_script = [rollout.actions[:t] == question.script[:t] for t in range(len(rollout.states))]
    return [potential(len(question.script) - t if ok else None, length) for t, ok in enumerate(on_script)]


def rollout_correctness(question: Question, rollout: Rollout) -> float:
    """What the verifier pays for a dream with these true consequences, were it the answer."""
    if question.kind is QuestionKind.PREDICT:
        followed = rollout.actions == roll(question.scene, question.script).actions  # moves after the end are void
        return answer_correctness(followed, False)
    optimal = question.scene.distance(question.scene.start)
    success = rollout.outcome is Outcome.SUCCESS and rollout.moves_always
    return answer_correctness(success and len(rollout.actions) == optimal, success)
