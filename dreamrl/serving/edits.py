"""Edits that a person makes to dreams, and what the edited dreams say.

As in :mod:`dreamrl.edits`, an edit also takes the place of every other dream with the same actions: else the old
answer could be read from a twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dreamrl.edits import right_answers
from dreamrl.imagine import Imagined
from dreamrl.intervene import rewrite, told_dreams
from dreamrl.serving.limits import BAD_REQUEST, Refused
from dreamrl.serving.requests import Edit
from dreamrl.serving.results import is_checked
from dreamrl.told_dreams import ToldDream, tell
from envs.questions import stream
from envs.world import Outcome, QuestionKind, World, roll


def edit_dreams(
    imagined: Imagined, world: World, edits: Sequence[Edit], seed: int
) -> tuple[Imagined, list[str], list[int]]:
    """Dreams of one question after ``edits``.

    Args:
        imagined: the finished dreams of one question.
        world: of the question.
        edits: in order; a later one sees what the earlier ones did.
        seed: of the random moves with which a dream goes on whose end is no end any more.

    Returns:
        the edited dreams; the answers that they support where the question asks for a plan, else none; the dreams
        that were changed.
    """
    batch = imagined.batch
    dreams, changed = told_dreams(batch, 0), set()
    for number, edit in enumerate(edits):
        if edit.dream >= len(dreams):
            raise Refused(BAD_REQUEST, f"edits[{number}].dream ({edit.dream}) must be below {len(dreams)}")
        old = dreams[edit.dream]
        new = _edited(imagined, world, old, edit, number, seed)
        for n, dream in enumerate(dreams):
            if dream.actions == old.actions:
                dreams[n] = new
                changed.add(n)
    question = batch.questions[0]
    says: frozenset[str] = frozenset()
    if is_checked(imagined) and question.kind is QuestionKind.PLAN:
        says = right_answers(world, question, dreams)
    return rewrite(imagined, {0: dreams}), sorted(says), sorted(changed)


def _edited(imagined: Imagined, world: World, dream: ToldDream, edit: Edit, number: int, seed: int) -> ToldDream:
    if edit.mode == "belief":
        if edit.belief is None:
            raise Refused(BAD_REQUEST, f"edits[{number}].belief is missing")
        return replace(dream, beliefs=(*dream.beliefs[:-1], int(Outcome[edit.belief.upper()])))
    if edit.step >= dream.steps:
        raise Refused(BAD_REQUEST, f"edits[{number}].step ({edit.step}) must be below {dream.steps}")
    if edit.action not in world.actions:
        raise Refused(BAD_REQUEST, f"edits[{number}].action must be one of {', '.join(world.actions)}")
    actions = list(dream.actions)
    actions[edit.step] = world.actions.index(edit.action)
    if edit.mode == "label":
        return replace(dream, actions=tuple(actions))
    if not is_checked(imagined):
        raise Refused(BAD_REQUEST, f'edits[{number}].mode "replay" needs a simulator, which a bare picture lacks')
    horizon, rng = imagined.batch.horizon[0], stream(seed, 17, number)
    more = rng.integers(len(world.actions), size=max(0, horizon - len(actions))).tolist()
    return tell(dream.question, roll(dream.question.scene, actions + more), imagined.batch.judge.codes)


def edited_result(before: dict[str, Any], after: dict[str, Any], says: list[str], changed: list[int]) -> dict[str, Any]:
    """Both answers, what the edited dreams say, and whether the new answer follows them (None: nothing is said)."""
    follows = after["text"] in says if says else None
    return {"before": before, "after": after, "dreams_say": says, "follows": follows, "edited": changed}
