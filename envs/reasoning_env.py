"""The decision process as a Gymnasium environment: one question, its dreams, one answer."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from dreamrl.config import RunConfig
from dreamrl.judge import Judge
from dreamrl.nn.text import TextTokenizer
from envs.reasoning_batch import Phase, ReasoningBatch, training_question
from envs.world import Outcome, Split, World


class ReasoningEnv(gym.Env):
    """One question at a time.

    Description: the policy imagines N dreams in parallel, each from its own pictures, then answers.
    Action Space: Dict of the dreams' ``action`` (N,), ``result`` (N, P), ``belief`` (N,), and the answer's
        ``focus`` and ``tokens`` (L,); the parts of the other phase are ignored.
    Observation: Dict of the prompt (``text``, ``grid``, with a vision backbone also ``pixels`` and
        ``picture_size``), the dreams so far (``frames`` as image codes,
        ``actions``, ``beliefs``, ``lengths``, ``active``), ``step`` and ``phase``.
    Rewards: mean over the dreams of what each earned, or the answer's; ``info["dream_rewards"]`` has each.
    Termination: after the answer; never truncated.
    """

    metadata = {"render_modes": []}

    def __init__(self, config: RunConfig, world: World, text: TextTokenizer, judge: Judge, split: Split = Split.TRAIN):
        """Args: as :class:`ReasoningBatch`; ``split`` to draw questions from."""
        self.batch = ReasoningBatch(config, world, text, judge, config.model.num_dream_sequences)
        self.config, self.world, self.split = config, world, split
        self.observation_space, self.action_space = reasoning_spaces(config, world, text)
        self.render_mode = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Ask a new question; ``options={"question": Question}`` asks that one."""
        super().reset(seed=seed)
        question = (options or {}).get("question")
        if question is None:
            index = int(self.np_random.integers(2**31))
            question = training_question(self.config, self.world, index, self.split)
        return self._first(self.batch.reset([question])), {"question": question.text}

    def step(self, action):
        """Advance the dreams by one step, or answer."""
        dream_rewards, answer_rewards = self.batch.step({k: np.asarray(v)[None] for k, v in action.items()})
        info = self.batch.step_info(0, dream_rewards, answer_rewards)
        over = bool(self.batch.phase[0] == Phase.OVER)
        if over:
            info |= self.batch.final_info(0)
        reward = float(dream_rewards[0].mean() + answer_rewards[0])
        return self._first(self.batch.observation()), reward, over, False, info

    @staticmethod
    def _first(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.asarray(value[0]) for name, value in observation.items()}


def reasoning_spaces(config: RunConfig, world: World, text: TextTokenizer) -> tuple[gym.spaces.Dict, gym.spaces.Dict]:
    """Observation and action space of one question."""
    model = config.model
    dreams, length, patches = model.num_dream_sequences, model.dream_length, world.max_patches
    actions, beliefs = len(world.actions), len(Outcome)

    def box(high: int, shape: tuple[int, ...], dtype) -> gym.spaces.Box:
        return gym.spaces.Box(0, high, shape, dtype)

    observation: dict[str, gym.Space] = {
        "text": box(text.vocab_size - 1, (model.max_prompt_tokens,), np.int32),
        "grid": box(127, (2,), np.int8),
        "frames": box(model.num_codes, (dreams, length + 1, patches), np.int16),
        "actions": box(actions - 1, (dreams, length), np.int8),
        "beliefs": box(beliefs - 1, (dreams, length), np.int8),
        "lengths": box(length, (dreams,), np.int16),
        "active": box(1, (dreams,), np.int8),
        "step": box(length, (), np.int16),
        "phase": box(len(Phase) - 1, (), np.int8),
    }
    if model.vision_backbone != "none":
        side = world.max_side * world.patch_size
        observation["pixels"] = box(255, (1, side, side, 3), np.uint8)
        observation["picture_size"] = box(side, (1, 2), np.int32)
    action: dict[str, gym.Space] = {
        "action": gym.spaces.MultiDiscrete([actions] * dreams),
        "result": gym.spaces.MultiDiscrete(np.full((dreams, patches), model.num_codes + 1)),
        "belief": gym.spaces.MultiDiscrete([beliefs] * dreams),
        "focus": gym.spaces.Discrete(dreams + 1),
        "tokens": gym.spaces.MultiDiscrete([text.vocab_size] * model.max_answer_tokens),
    }
    return gym.spaces.Dict(observation), gym.spaces.Dict(action)
