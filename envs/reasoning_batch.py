"""The decision process for many questions at once, in numpy: imagine N dreams step by step, then answer.

The simulator follows the actions that each dream claims and pays for what it shows. The batched env runner uses
this directly; ``envs.reasoning_env`` is the same process for one question, as a Gymnasium environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from dreamrl.config import RunConfig
from dreamrl.curriculum import Stage
from dreamrl.judge import Judge
from dreamrl.nn.text import TextTokenizer
from dreamrl.rewards import answer_correctness, coherence, creativity, faithfulness, naive_progress, progress
from envs.questions import draw_question, potentials, prompt_pictures, rollout_correctness, stream
from envs.world import Outcome, Question, Rollout, Split, Verdict, World


class Phase(IntEnum):
    """DREAM: imagine a step of every dream. ANSWER: read them and answer. OVER: answered."""

    DREAM = 0
    ANSWER = 1
    OVER = 2


@dataclass(kw_only=True)
class Scores:
    """What the simulator found in one dream so far: per-step lists and the pay at its end."""

    faithful: list[float] = field(default_factory=list)
    coherent: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    believed: list[bool] = field(default_factory=list)
    progress: float = 0.0
    correctness: float = 0.0
    creativity: float = 0.0

    def mean_faithfulness(self) -> float:
        """Mean over the steps in which something changed; 0 if nothing ever did."""
        return float(np.mean(self.faithful)) if self.faithful else 0.0

    def parts(self) -> dict[str, float]:
        """Reward components of this dream, unweighted."""
        return {
            "faithfulness": self.mean_faithfulness(),
            "coherence": float(np.mean(self.coherent)) if self.coherent else 0.0,
            "correctness": self.correctness,
            "creativity": self.creativity,
            "progress": self.progress,
        }


class ReasoningBatch:
    """Q questions with N dreams each, stepped together."""

    def __init__(self, config: RunConfig, world: World, text: TextTokenizer, judge: Judge, dreams: int):
        """Args: the run's ``config``, its ``world``, text tokenizer, frozen ``judge``, N ``dreams``."""
        self.config, self.world, self.text, self.judge, self.dreams = config, world, text, judge, dreams
        self.length = self.longest = config.model.dream_length
        self.num_patches = world.max_patches
        self.source, self.present = world, dreams

    def enter(self, stage: Stage) -> None:
        """Keep to ``stage`` from the next reset on. Shapes stay; dreams that are not ``present`` never take a step."""
        self.source, self.present, self.longest = stage.world, stage.dreams, stage.dream_length

    def horizon_of(self, question: Question) -> int:
        """Longest dream about ``question``: boards larger than those trained on get proportionally more steps."""
        trained, side = self.world.max_side, max(question.scene.grid)
        return max(self.longest, -(-self.longest * side // trained))

    def make_room(self, questions: Sequence[Question]) -> None:
        """Allow for pictures larger than those trained on, and for longer dreams."""
        self.length = max(self.length, *(self.horizon_of(q) for q in questions))
        self.num_patches = max(self.num_patches, *(q.scene.grid[0] * q.scene.grid[1] for q in questions))

    def reset(self, questions: Sequence[Question]) -> dict[str, np.ndarray]:
        """Start over with ``questions``; returns the first observation."""
        count, shape = len(questions), (len(questions), self.dreams)
        self.questions = list(questions)
        self.tokens = np.stack([self.text.encode(q.text, self.config.model.max_prompt_tokens) for q in questions])
        self.grid = np.array([q.scene.grid for q in questions], np.int64)
        self.horizon = [self.horizon_of(q) for q in questions]
        self.frames = np.full((*shape, self.length + 1, self.num_patches), self.config.model.num_codes, np.int16)
        self.actions = np.zeros((*shape, self.length), np.int8)
        self.beliefs = np.zeros((*shape, self.length), np.int8)
        self.lengths = np.zeros(shape, np.int16)
        self.active = np.tile(np.arange(self.dreams) < self.present, (count, 1)).astype(np.int8)
        self.phase = np.full(count, Phase.DREAM, np.int8)
        self.step_index = np.zeros(count, np.int16)
        self.pictures = {}
        if self.config.model.vision_backbone != "none":
            side = self.world.patch_size * max(self.world.max_side, int(self.grid.max()))
            self.pictures = prompt_pictures([[q.scene.frame(q.scene.start), *q.pictures] for q in questions], side)
        self.states = [[[q.scene.start] for _ in range(self.dreams)] for q in questions]
        self.outcomes = [[Outcome.CONTINUE] * self.dreams for _ in questions]
        self.scores = [[Scores() for _ in range(self.dreams)] for _ in questions]
        self.true_result = np.zeros((*shape, self.num_patches), np.int16)
        self.true_belief = np.zeros(shape, np.int8)
        self.sound = np.zeros(shape, bool)
        self.verdicts: list[Verdict | None] = [None] * count
        self.answers = [""] * count
        for index, question in enumerate(questions):
            first = self.judge.codes(question.scene, question.scene.start)
            self.frames[index, :, 0, : len(first)] = first
        return self.observation()

    def asked(self) -> dict[str, np.ndarray]:
        """The prompts: text, and pictures if the model looks at them."""
        return {"text": self.tokens.astype(np.int32), **self.pictures}

    def observation(self) -> dict[str, np.ndarray]:
        """Copies of everything that the policy may see; leading dimension Q."""
        return {
            **self.asked(),
            "grid": self.grid.astype(np.int8),
            "frames": self.frames.copy(),
            "actions": self.actions.copy(),
            "beliefs": self.beliefs.copy(),
            "lengths": self.lengths.copy(),
            "active": self.active.copy(),
            "step": self.step_index.copy(),
            "phase": self.phase.copy(),
        }

    def step(self, action: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Advance every question that is not over.

        Args:
            action: ``action`` (Q, N), ``result`` (Q, N, P), ``belief`` (Q, N) count in the dream phase,
                ``tokens`` (Q, L) in the answer phase; ``focus`` (Q,) never changes the world.

        Returns:
            rewards of the dreams (Q, N) and of the answers (Q,).
        """
        dream_rewards = np.zeros((len(self.questions), self.dreams), np.float32)
        answer_rewards = np.zeros(len(self.questions), np.float32)
        answering = self.phase == Phase.ANSWER
        dreaming = self.phase == Phase.DREAM
        self._step_dreams(action, dreaming, dream_rewards)
        for index in np.flatnonzero(answering).tolist():
            answer_rewards[index] = self._answer(index, action["tokens"][index])
        return dream_rewards, answer_rewards

    def _step_dreams(self, action: dict[str, np.ndarray], dreaming: np.ndarray, rewards: np.ndarray) -> None:
        moving = np.argwhere((self.active == 1) & dreaming[:, None])
        if len(moving):
            q, n = moving.T
            t = self.step_index[q]
            patches = np.arange(self.num_patches) < self.grid[q].prod(1)[:, None]
            # What is claimed past the picture is no part of the dream: it must not make dreams differ.
            self.frames[q, n, t + 1] = np.where(patches, action["result"][q, n], self.config.model.num_codes)
            self.actions[q, n, t] = action["action"][q, n]
            self.beliefs[q, n, t] = action["belief"][q, n]
            self.lengths[q, n] += 1
            probs = self.judge.action_probs(self.frames[q, n, t], self.frames[q, n, t + 1], self.grid[q])
            for (index, dream), action_probs in zip(moving, probs, strict=True):
                rewards[index, dream] = self._score_step(int(index), int(dream), action_probs)
        self.step_index[dreaming] += 1
        for index in np.flatnonzero(dreaming).tolist():
            if not self.active[index].any():
                self.phase[index] = Phase.ANSWER
                self._pay_creativity(index, rewards)

    def _score_step(self, index: int, dream: int, action_probs: np.ndarray) -> float:
        """Run the claimed action in the simulator, compare, and pay one step of one dream."""
        question, run = self.questions[index], self.config
        scores, states = self.scores[index][dream], self.states[index][dream]
        t, horizon = int(self.step_index[index]), self.horizon[index]
        action = int(self.actions[index, dream, t])
        belief = int(self.beliefs[index, dream, t])
        state, outcome = question.scene.step(states[-1], action)
        true_what = self.judge.codes(question.scene, states[-1])
        true_result = self.judge.codes(question.scene, state)
        states.append(state)
        self.outcomes[index][dream] = outcome
        size = len(true_result)
        what, result = self.frames[index, dream, t, :size], self.frames[index, dream, t + 1, :size]
        self.true_result[index, dream, :size] = true_result
        self.true_belief[index, dream] = question.belief(outcome, t + 1)
        self.sound[index, dream] = (true_what == what).all()
        belief_true = belief == self.true_belief[index, dream]
        faith = faithfulness(true_what, true_result, what, result, belief_true)
        coherent = coherence(action_probs, action)
        scores.believed.append(bool(belief_true))
        scores.exact.append(bool((true_result == result).all()))
        scores.coherent.append(coherent)
        pay = run.reward_weight("coherence") * (coherent - 1) / horizon
        if faith is not None:
            scores.faithful.append(faith)
            pay += run.reward_weight("faithfulness") * (faith - 1) / horizon
        phi = potentials(question, self.rollout(index, dream), horizon)
        potential_based = run.reward.shaping == "potential"
        shaped = progress(phi[-2], phi[-1], run.ppo.gamma) if potential_based else naive_progress(phi[-2], phi[-1])
        scores.progress += shaped
        pay += run.reward.progress * shaped
        if belief != Outcome.CONTINUE or t + 1 == horizon:
            self.active[index, dream] = 0
            believed = belief_true and belief != Outcome.CONTINUE
            scores.correctness = rollout_correctness(question, self.rollout(index, dream)) * believed
            pay += run.reward_weight("correctness") * scores.correctness
        return pay

    def _pay_creativity(self, index: int, rewards: np.ndarray) -> None:
        """Paid once, when the last dream of a question has ended, to all of them."""
        own = self.scores[index][: self.present]
        dreams = [self.frames[index, n, 1 : self.lengths[index, n] + 1] for n in range(self.present)]
        dreamed = [[frame.tobytes() for frame in frames] for frames in dreams]
        values = creativity(dreamed, [s.mean_faithfulness() for s in own])
        for scores, value in zip(own, values, strict=True):
            scores.creativity = float(value)
        rewards[index, : self.present] += self.config.reward_weight("creativity") * values

    def _answer(self, index: int, tokens: np.ndarray) -> float:
        self.phase[index] = Phase.OVER
        self.answers[index] = self.text.decode(tokens)
        verdict = self.world.verify(self.questions[index], self.answers[index])
        self.verdicts[index] = verdict
        return self.config.reward_weight("correctness") * answer_correctness(verdict.exact, verdict.success)

    def rollout(self, index: int, dream: int) -> Rollout:
        """What the simulator did on the actions that a dream claims."""
        actions = tuple(int(a) for a in self.actions[index, dream, : self.lengths[index, dream]])
        return Rollout(
            states=tuple(self.states[index][dream][: len(actions) + 1]),
            actions=actions,
            outcome=self.outcomes[index][dream],
        )

    def dreams_to_read(self, index: int) -> int:
        """How many of a question's dreams the reading loss shows: all for half of the scenes, else 1 to all.

        A reasoner that always saw N dreams calls a single good one "none" too often.
        """
        number = int(self.questions[index].scene.key[:8], 16)
        return self.present if number % 2 else 1 + (number // 2) % self.present

    def reading_target(self, index: int, shown: int) -> tuple[np.ndarray, np.ndarray]:
        """What should be answered from the first ``shown`` dreams: focus (N + 1,) bool and answer tokens (L,).

        Only dreams whose every picture and belief the simulator confirms count as seen.
        """
        question, count = self.questions[index], self.dreams
        rollouts = [self.rollout(index, n) for n in range(count)]
        sound = [s.exact != [] and all(s.exact) and all(s.believed) for s in self.scores[index]]
        seen = [n for n in range(shown) if sound[n]]
        best, answer = self.world.true_answer(question, [rollouts[n] for n in seen])
        wordings = self.world.wordings(answer)
        answer = wordings[int(question.scene.key[8:16], 16) % len(wordings)]
        focus = np.zeros(count + 1, bool)
        focus[[seen[i] for i in best] or [count]] = True
        return focus, self.text.encode(answer, self.config.model.max_answer_tokens, end=True)

    def step_info(self, index: int, dream_rewards: np.ndarray, answer_rewards: np.ndarray) -> dict:
        """What the last step of one question adds to its reward: per-dream pay, and the simulator's truth.

        ``true_result`` (N, P) and ``true_belief`` (N,) are what the dreams should have shown; they are a fair
        target where ``sound`` (N,): where the dream started that step from the true picture.
        """
        return {
            "dream_rewards": dream_rewards[index],
            "answer_reward": float(answer_rewards[index]),
            "true_result": self.true_result[index].copy(),
            "true_belief": self.true_belief[index].copy(),
            "sound": self.sound[index].copy(),
        }

    def final_info(self, index: int) -> dict:
        """What is known of a question once it is answered."""
        shown = self.dreams_to_read(index)
        focus, tokens = self.reading_target(index, shown)
        return {
            "answer": self.answers[index],
            "reward_parts": self.breakdown(index),
            "world": self.questions[index].scene.label,
            "focus_target": focus,
            "answer_tokens": tokens,
            "dreams_shown": shown,
        }

    def breakdown(self, index: int) -> dict[str, float]:
        """Mean reward components of one finished question, all in [0, 1] but progress."""
        scores, verdict = self.scores[index][: self.present], self.verdicts[index]
        assert verdict is not None, "the question is not answered yet"
        parts = [s.parts() for s in scores]
        return {
            **{name: float(np.mean([p[name] for p in parts])) for name in parts[0]},
            "exact_frame": float(np.mean([e for s in scores for e in s.exact])),
            "dream_length": float(self.lengths[index, : self.present].mean()),
            "exact_match": float(verdict.exact),
            "success": float(verdict.success),
        }


def training_question(
    config: RunConfig, world: World, index: int, split: Split = Split.TRAIN, length: int = 0
) -> Question:
    """Question number ``index`` of a run, to be dreamed about in ``length`` steps; the same whoever asks it."""
    rng = stream(config.seed, 2, index)
    size = int(rng.choice(world.sizes))
    pool = config.ppo.boards_per_size
    scene = world.sample_scene(stream(config.seed, 13, size, int(rng.integers(pool))) if pool else rng, split, size)
    length = length or config.model.dream_length
    return draw_question(world, scene, rng.random() < config.ppo.predict_share, length, rng)
