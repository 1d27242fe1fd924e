"""What a world is: a family of scenes with named actions and questions that its simulator can verify."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from envs.scene import (
    Outcome,
    PictureScene,
    Question,
    QuestionKind,
    Rollout,
    Scene,
    Split,
    State,
    Verdict,
    WorldError,
    random_actions,
    random_play,
    roll,
    split_of,
)

__all__ = [
    "Outcome",
    "PictureScene",
    "Question",
    "QuestionKind",
    "Rollout",
    "Scene",
    "Split",
    "State",
    "Verdict",
    "World",
    "WorldError",
    "random_actions",
    "random_play",
    "action_problem",
    "roll",
    "shortest_plan",
    "split_of",
    "verify_plan",
]


class World(ABC):
    """A family of scenes with named actions, a patch-aligned picture of each state, and questions.

    A world must define the attributes without a value, :meth:`scene`, :meth:`sample_scene` and :meth:`tell`. The
    rest has defaults that fit plans ("find a way") and predictions ("what do these actions lead to").
    """

    name: str
    family: str
    """What it takes to answer: spatial, temporal, causal, abstract, or another word of your own; for the logs."""
    actions: tuple[str, ...]
    """Names, in small letters; they must be distinct and free of commas."""
    patch_size: int
    """Side of one image patch in pixels; every frame is a whole number of patches each way."""
    min_size: int = 1
    max_size: int = 1
    """``size`` of :meth:`sample_scene` lies between these; what it measures is the world's own business."""
    default_sizes: tuple[int, ...] = (1,)
    """Sizes that are trained on unless the user says otherwise."""
    kinds: tuple[QuestionKind, ...] = (QuestionKind.PLAN, QuestionKind.PREDICT)
    """Kinds of questions that can be asked; the first is the more important."""
    exam_predict_share: float = 0.0
    """Where both kinds can be asked: share of PREDICT questions in held-out evaluation."""
    plan_texts: tuple[str, ...] = ()
    """Paraphrases of the PLAN question."""
    predict_texts: tuple[str, ...] = ()
    """Paraphrases of the PREDICT question, with ``{moves}`` where the actions are named."""
    no_plan: str = "no dream gets there"
    """The answer to a PLAN question when no dream that was read succeeds."""

    _sizes: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that are trained on; :attr:`default_sizes` unless they were set."""
        return self._sizes or self.default_sizes

    @sizes.setter
    def sizes(self, sizes: Sequence[int]) -> None:
        self.check_sizes(sizes)
        self._sizes = tuple(sizes)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """A :class:`WorldError` unless the world has scenes of all ``sizes``."""
        if not sizes or not all(self.min_size <= size <= self.max_size for size in sizes):
            rule = f"hold at least one size, each {self.min_size} to {self.max_size} for {self.name}"
            raise WorldError(f"world.sizes ({list(sizes)}) must {rule}")

    @property
    def max_patches(self) -> int:
        """Patches of the largest frame that is trained on."""
        return max(rows * columns for rows, columns in map(self.grid_at, self.sizes))

    @property
    def max_side(self) -> int:
        """Patches along the longer side of the largest frame that is trained on."""
        return max(max(self.grid_at(size)) for size in self.sizes)

    @abstractmethod
    def scene(self, options: dict) -> Scene:
        """The scene that ``options`` describe; :class:`WorldError` names what is wrong with them."""

    @abstractmethod
    def sample_scene(self, rng: np.random.Generator, split: Split, size: int) -> Scene:
        """A random scene of ``split``, which depends on ``rng``'s state and the arguments alone."""

    @abstractmethod
    def tell(self, question: Question, rollout: Rollout) -> str:
        """The answer to a PREDICT ``question``, given its script's true ``rollout``."""

    def grid_at(self, size: int) -> tuple[int, int]:
        """Largest frame, in patches, (rows, columns), of the scenes of ``size``; by default size x size."""
        return size, size

    def draw(self, scene: Scene, predict: bool, length: int, rng: np.random.Generator) -> Question:
        """A question that ``length`` steps are enough to dream about; ``predict`` decides where both kinds exist.

        Mostly about ``scene``, but it may be about another scene made of it, so use ``question.scene`` afterwards.
        A PREDICT question is about 1 to ``length`` random moves (none after the end) unless a world knows better.
        """
        kind = self.kinds[0] if len(self.kinds) == 1 else QuestionKind.PREDICT if predict else QuestionKind.PLAN
        if kind is QuestionKind.PLAN:
            return self.ask(scene, kind, rng)
        moves = random_play(scene, len(self.actions), int(rng.integers(1, length + 1)), rng).actions
        return self.ask(scene, kind, rng, moves)

    def ask(self, scene: Scene, kind: QuestionKind, rng: np.random.Generator, script: Sequence[int] = ()) -> Question:
        """A question of ``kind`` in one of its paraphrases; for PREDICT about ``script`` (the actions it names)."""
        if kind is QuestionKind.PLAN:
            return Question(kind=kind, text=self.plan_texts[rng.integers(len(self.plan_texts))], scene=scene)
        text = self.predict_texts[rng.integers(len(self.predict_texts))].format(moves=self.plan_text(script))
        return Question(kind=kind, text=text, scene=scene, script=tuple(int(a) for a in script))

    def plan_text(self, actions: Sequence[int]) -> str:
        """``actions`` in words, such as "right, right, down"."""
        return ", ".join(self.actions[a] for a in actions)

    def parse_plan(self, answer: str) -> list[int]:
        """The actions that an answer states; empty unless it consists of action names and separators only."""
        words = [w for w in re.split(r"[,;.]|\bthen\b|\band\b", answer.strip().lower()) if w.strip()]
        names = {name: index for index, name in enumerate(self.actions)}
        known = [names.get(" ".join(w.split())) for w in words]
        return [] if None in known else [index for index in known if index is not None]

    def verify(self, question: Question, answer: str) -> Verdict:
        """Check ``answer`` against the simulator, strictly: see :func:`verify_plan`; a prediction word for word."""
        if question.kind is QuestionKind.PREDICT:
            truth = self.tell(question, roll(question.scene, question.script))
            exact = answer.strip().rstrip(".") == truth
            return Verdict(exact=exact, progress=float(exact), valid=answer.strip() != "", success=exact)
        plan = self.parse_plan(answer)
        if not plan:
            return Verdict(exact=False, progress=0.0, valid=False, success=False)
        return verify_plan(question.scene, plan)

    def true_answer(self, question: Question, rollouts: Sequence[Rollout]) -> tuple[list[int], str]:
        """What someone who saw only ``rollouts`` should answer: indices of the rollouts to read, and the text.

        For PLAN the shortest rollouts that succeed with no idle move, for PREDICT those on script. An empty list
        means that none of them supports an answer; the text of a PLAN question then says so.
        """
        if question.kind is QuestionKind.PREDICT:
            truth = roll(question.scene, question.script)
            return [i for i, r in enumerate(rollouts) if r.actions == truth.actions], self.tell(question, truth)
        good = [i for i, r in enumerate(rollouts) if r.outcome is Outcome.SUCCESS and r.moves_always]
        if not good:
            return [], self.no_plan
        shortest = min(len(rollouts[i].actions) for i in good)
        best = [i for i in good if len(rollouts[i].actions) == shortest]
        return best, self.plan_text(rollouts[best[0]].actions)

    def wordings(self, answer: str) -> list[str]:
        """Ways to word ``answer`` that the verifier takes for the same, ``answer`` first; trained on alike.

        By default a plan is "right, right, down" or "right then right then down".
        """
        if answer == self.no_plan or QuestionKind.PLAN not in self.kinds or not self.parse_plan(answer):
            return [answer]
        return [answer, answer.replace(", ", " then ")]

    def interpret(self, text: str, scene: Scene) -> Question | None:
        """The question that free ``text`` asks about ``scene``; None when it is none that can be verified.

        By default named actions make it a PREDICT question; any paraphrase of the PLAN question is one.
        """
        low = text.lower()
        if QuestionKind.PREDICT in self.kinds:
            names = sorted(self.actions, key=len, reverse=True)
            found = re.findall("|".join(rf"\b{re.escape(name)}\b" for name in names), low)
            if found:
                script = tuple(self.actions.index(name) for name in found)
                return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script)
        if low.strip(" .?!") in {t.lower().strip(" .?!") for t in self.plan_texts}:
            return Question(kind=QuestionKind.PLAN, text=text, scene=scene)
        return None

    def corpus(self) -> list[str]:
        """Sentences that cover the world's questions and answers, to train the text tokenizer on.

        A world whose :meth:`tell` says more than the names of its actions must add its sentences.
        """
        texts = [*self.plan_texts, self.no_plan] if QuestionKind.PLAN in self.kinds else []
        for first in self.actions:
            for second in self.actions:
                moves = f"{first}, {second}, {first}"
                texts += [t.format(moves=moves) for t in self.predict_texts] + self.wordings(moves)
        return texts

    def about(self, scene: Scene) -> World:
        """The world that ``scene`` belongs to; itself, unless this is a mixture of worlds."""
        return self


def action_problem(names: Sequence[str]) -> str:
    """What is wrong with the names of a world's actions, in words; empty if nothing is."""
    if not names:
        return "there are no actions"
    for name in names:
        if not name or name != " ".join(name.lower().split()) or "," in name:
            return f'action name "{name}" must be small letters without commas'
    return "" if len(set(names)) == len(names) else f"action names must differ: {list(names)}"


def shortest_plan(scene: Scene, num_actions: int, rng: np.random.Generator | None = None) -> list[int]:
    """Fewest actions from the start to success, as the simulator's distances lead; empty where they are not known.

    Args:
        scene: where to go.
        num_actions: of its world.
        rng: draws one of several shortest plans; None takes the first action that comes nearer.

    Raises:
        WorldError: The distances contradict the steps.
    """
    state, plan = scene.start, []
    while distance := scene.distance(state):
        after = [scene.step(state, action)[0] for action in range(num_actions)]
        nearer = [action for action, reached in enumerate(after) if scene.distance(reached) == distance - 1]
        if not nearer:
            raise WorldError(f"distance says {distance}, but no action leads to {distance - 1}")
        plan.append(nearer[0] if rng is None else int(rng.choice(nearer)))
        state = after[plan[-1]]
    return plan


def verify_plan(scene: Scene, plan: Sequence[int]) -> Verdict:
    """EM: legal, reaches the goal with its last move, of optimal length. PR: share of correct leading steps.

    A move that changes nothing is illegal, and so is one after the end. Where the simulator cannot tell the
    distance to success, every plan that succeeds is exact.
    """
    state, outcome, legal, leading = scene.start, Outcome.CONTINUE, True, True
    optimal = scene.distance(scene.start)
    correct = 0
    for action in plan:
        if outcome is not Outcome.CONTINUE:
            legal = False  # moves after the end
            break
        after, outcome = scene.step(state, action)
        legal &= after != state and outcome is not Outcome.FAILURE
        before_distance, after_distance = scene.distance(state), scene.distance(after)
        leading &= before_distance is not None and after_distance == before_distance - 1
        correct += leading
        state = after
    success = outcome is Outcome.SUCCESS and legal
    if optimal is None:
        return Verdict(exact=success, progress=float(success), valid=legal, success=success)
    return Verdict(exact=success and len(plan) == optimal, progress=correct / optimal, valid=legal, success=success)
