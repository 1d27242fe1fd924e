"""Edits of the dream that an answer was read from, and the answers that each edit predicts.

An answer is predicted from what the edited dreams show, pictures and beliefs, as a person would read them. The edit
also takes the place of every other dream with the same actions: else the old answer could be read from a twin.
Nothing here knows how a model reads; :mod:`dreamrl.intervene` asks it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dreamrl.nn.codec import FrameCodes
from dreamrl.told_dreams import ToldDream, tell
from envs.world import Outcome, Question, QuestionKind, Rollout, Scene, State, World, roll

MAX_STATES = 4096
"""States that are searched for one with the wanted outcome."""
TRIES = 16
"""Permutations that are drawn until one changes something."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One answered question with its N dreams."""

    world: World
    question: Question
    codes: FrameCodes
    """Codes of true frames."""
    horizon: int
    """Longest dream about this question."""
    dreams: list[ToldDream]
    confirmed: list[bool]
    """Which dreams the simulator confirms, every picture and belief."""
    focus: int
    """The dream that the answer was read from; N for none."""
    answer: str
    foreign: list[ToldDream]
    """Dreams that other questions on boards of the same size were answered from."""

    @property
    def told(self) -> ToldDream:
        """The dream in focus."""
        return self.dreams[self.focus]

    @property
    def home(self) -> list[int]:
        """Places of the dream in focus and of those that take the same actions; N where none is read."""
        if self.focus == len(self.dreams):
            return [self.focus]
        return [n for n, dream in enumerate(self.dreams) if dream.actions == self.told.actions]


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """What is shown instead: N dreams; ``home``, where the dream that was read is now; the right answers.

    Without any right answer it is not known: it would depend on a dream that the simulator does not confirm.
    """

    dreams: list[ToldDream]
    home: list[int]
    right: frozenset[str]


def as_shown(dream: ToldDream) -> Rollout:
    """What the pictures and the last belief say, true or not: each different picture is a state."""
    belief = Outcome(dream.beliefs[-1])
    return Rollout(
        states=tuple(frame.tobytes() for frame in dream.frames),
        actions=dream.actions,
        outcome=Outcome.CONTINUE if belief is Outcome.STOP else belief,
    )


def right_answers(world: World, question: Question, dreams: Sequence[ToldDream]) -> frozenset[str]:
    """Every answer that ``dreams`` support, in every wording; dreams that are equally good are all right."""
    rollouts = [as_shown(dream) for dream in dreams]
    best, text = world.true_answer(question, rollouts)
    texts = [world.true_answer(question, [rollouts[n]])[1] for n in best] or [text]
    return frozenset(wording for text in texts for wording in world.wordings(text))


def supports(world: World, question: Question, dream: ToldDream) -> bool:
    """Whether ``dream`` alone is enough to answer from."""
    return len(world.true_answer(question, [as_shown(dream)])[0]) > 0


def nearest(scene: Scene, state: State, outcome: Outcome, num_actions: int) -> State | None:
    """The state with ``outcome`` that the fewest actions lead to from ``state``; None if there is none."""
    known, queue = {state}, deque([state])
    while queue and len(known) <= MAX_STATES:
        here = queue.popleft()
        for action in range(num_actions):
            after, found = scene.step(here, action)
            if found is outcome:
                return after
            if found is Outcome.CONTINUE and after not in known:
                known.add(after)
                queue.append(after)
    return None


class Retold(Scene):
    """A scene in which one action leads elsewhere: where an edited dream says."""

    def __init__(self, scene: Scene, state: State, action: int, after: State, outcome: Outcome):
        """Args: ``scene``, in which ``action`` in ``state`` now leads to ``after`` with ``outcome``."""
        self.key, self.grid, self.start = scene.key, scene.grid, scene.start
        self.scene, self.cause, self.effect = scene, (state, action), (after, outcome)

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        return self.effect if (state, action) == self.cause else self.scene.step(state, action)

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        return self.scene.frame(state)

    def distance(self, state):
        """That of the real scene."""
        return self.scene.distance(state)


def _put(case: Case, dream: ToldDream) -> list[ToldDream]:
    """The dreams with ``dream`` in the place of the one in focus and of its twins."""
    return [dream if n in case.home else old for n, old in enumerate(case.dreams)]


def _right(case: Case, dream: ToldDream | None) -> frozenset[str]:
    """The right answers once ``dream`` is in place (None: once nothing is there).

    None of them if they depend on whether a false dream is believed.
    """
    others = [n for n in range(len(case.dreams)) if n not in case.home]
    new = [] if dream is None else [dream]
    seen = right_answers(case.world, case.question, new + [case.dreams[n] for n in others])
    sure = right_answers(case.world, case.question, new + [case.dreams[n] for n in others if case.confirmed[n]])
    return seen if sure == seen else frozenset()


def _another(case: Case, rng: np.random.Generator) -> list[int]:
    """The actions of the dream in focus with another action at a random step."""
    actions, count = list(case.told.actions), len(case.world.actions)
    step = int(rng.integers(len(actions)))
    actions[step] = int((actions[step] + rng.integers(1, count)) % count)
    return actions


def _ending(dream: ToldDream, after: State, outcome: Outcome, codes: FrameCodes) -> ToldDream:
    """``dream`` with another last result and belief, the actions as they were."""
    belief = dream.question.belief(outcome, dream.steps)
    return replace(
        dream,
        frames=np.concatenate([dream.frames[:-1], codes(dream.question.scene, after)[None]]),
        shown=(*dream.shown[:-1], after),
        beliefs=(*dream.beliefs[:-1], int(belief)),
    )


def change_action(case: Case, rng: np.random.Generator) -> Edit | None:
    """Another action at one step, all pictures as they were: the plan with that action."""
    edited = replace(case.told, actions=tuple(_another(case, rng)))
    right = right_answers(case.world, case.question, [edited])
    return Edit(dreams=_put(case, edited), home=case.home, right=right)


def change_step(case: Case, rng: np.random.Generator) -> Edit | None:
    """Another action at one step, and the simulator's pictures of what follows.

    The later actions stay. Where the old end is no end any more, random play goes on to one or to the horizon, as in
    every dream of random play.
    """
    actions = _another(case, rng)
    actions += rng.integers(len(case.world.actions), size=case.horizon - len(actions)).tolist()
    edited = tell(case.question, roll(case.question.scene, actions), case.codes)
    return Edit(dreams=_put(case, edited), home=case.home, right=_right(case, edited))


def change_result(case: Case, rng: np.random.Generator) -> Edit | None:
    """The last result shows a failure, the actions stay: the plan of another dream, or none."""
    scene = case.question.scene
    after = nearest(scene, case.told.shown[-2], Outcome.FAILURE, len(case.world.actions))
    if after is None:
        return None
    edited = _ending(case.told, after, Outcome.FAILURE, case.codes)
    return Edit(dreams=_put(case, edited), home=case.home, right=_right(case, edited))


def swap_dream(case: Case, rng: np.random.Generator) -> Edit | None:
    """The dream of another question: what it shows if it is the best, and always what the remaining ones show."""
    foreign = [dream for dream in case.foreign if dream.actions != case.told.actions]
    if not foreign:
        return None
    edited = foreign[rng.integers(len(foreign))]
    followed, rejected = _right(case, edited), _right(case, None)
    right = followed | rejected if followed and rejected else frozenset()
    return Edit(dreams=_put(case, edited), home=case.home, right=right)


def change_outcome(case: Case, rng: np.random.Generator) -> Edit | None:
    """Another end of the moves that were asked about: its sentence."""
    told = case.told
    others = [o for o in (Outcome.CONTINUE, Outcome.SUCCESS, Outcome.FAILURE) if o is not as_shown(told).outcome]
    for index in rng.permutation(len(others)):
        scene, state, action = case.question.scene, told.shown[-2], told.actions[-1]
        after = nearest(scene, state, others[index], len(case.world.actions))
        if after is None:
            continue
        question = replace(case.question, scene=Retold(scene, state, action, after, others[index]))
        story = roll(question.scene, question.script)
        # A script that goes on, or that takes the same step earlier, would end elsewhere: that is no such dream.
        if story.actions == told.actions and story.outcome is others[index]:
            edited = _ending(told, after, others[index], case.codes)
            right = right_answers(case.world, question, [edited])
            return Edit(dreams=_put(case, edited), home=case.home, right=right)
    return None


def reorder(case: Case, rng: np.random.Generator) -> Edit | None:
    """The same dreams in another order: the same answer."""
    shown = [str((dream.actions, dream.beliefs, dream.frames.tolist())) for dream in case.dreams]
    for _ in range(TRIES):
        order = rng.permutation(len(shown)).tolist()
        if [shown[n] for n in order] != shown:
            home = [order.index(n) if n in order else n for n in case.home]
            return Edit(dreams=[case.dreams[n] for n in order], home=home, right=frozenset([case.answer]))
    return None


def copy_other(case: Case, rng: np.random.Generator) -> Edit | None:
    """A copy of a dream that was not read in the place of another one: the same answer."""
    others = [n for n in range(len(case.dreams)) if n not in case.home]
    pairs = [(a, b) for a in others for b in others if case.dreams[a].actions != case.dreams[b].actions]
    if not pairs:
        return None
    source, place = pairs[rng.integers(len(pairs))]
    dreams = [case.dreams[source] if n == place else dream for n, dream in enumerate(case.dreams)]
    return Edit(dreams=dreams, home=case.home, right=frozenset([case.answer]))


class Intervention(NamedTuple):
    """How dreams are edited: for which kind of question (None: any); a ``control`` predicts the old answer."""

    kind: QuestionKind | None
    edit: Callable[[Case, np.random.Generator], Edit | None]
    control: bool = False


INTERVENTIONS = {
    "action": Intervention(QuestionKind.PLAN, change_action),
    "step": Intervention(QuestionKind.PLAN, change_step),
    "result": Intervention(QuestionKind.PLAN, change_result),
    "swap": Intervention(QuestionKind.PLAN, swap_dream),
    "outcome": Intervention(QuestionKind.PREDICT, change_outcome),
    "order": Intervention(None, reorder, control=True),
    "copy": Intervention(None, copy_other, control=True),
}

LEFT_OUT = {
    "no_dream": "no dream was read",
    "false_dream": "the simulator does not confirm the dream that was read",
    "no_answer": "the dream that was read supports no answer",
    "no_edit": "there is no such edit",
    "uncertain": "the prediction depends on a dream that the simulator does not confirm",
    "same_answer": "the prediction is the old answer",
}
"""Why a question is not counted."""


def attempt(intervention: Intervention, case: Case, rng: np.random.Generator) -> Edit | str:
    """The edit, or why there is none: a key of ``LEFT_OUT``."""
    if not intervention.control:
        if case.focus == len(case.dreams):
            return "no_dream"
        if not case.confirmed[case.focus]:
            return "false_dream"
        if not supports(case.world, case.question, case.told):
            return "no_answer"
    edit = intervention.edit(case, rng)
    if edit is None:
        return "no_edit"
    if not edit.right:
        return "uncertain"
    return "same_answer" if case.answer in edit.right and not intervention.control else edit
