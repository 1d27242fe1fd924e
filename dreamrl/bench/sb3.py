"""Stable-Baselines3's PPO on the world of dreams, for comparison; the module itself cannot run there."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from dreamrl.bench.generate import SURE
from dreamrl.config import RunConfig
from dreamrl.judge import Judge
from dreamrl.saving import Loaded
from envs.reasoning_env import ReasoningEnv
from envs.world import Outcome


class FlatEnv(gym.Wrapper):
    """Observation and action as one vector each, which is what Stable-Baselines3 takes."""

    def __init__(self, env: gym.Env):
        """Args: ``env`` with dict spaces."""
        super().__init__(env)
        spaces: Any = env.action_space
        self.sizes = {
            name: np.atleast_1d(space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else space.n)
            for name, space in spaces.spaces.items()
        }
        self.action_space = gym.spaces.MultiDiscrete(np.concatenate([sizes.ravel() for sizes in self.sizes.values()]))
        self.observation_space = gym.spaces.flatten_space(env.observation_space)

    def reset(self, **kwargs):
        """See :meth:`gymnasium.Env.reset`."""
        obs, info = self.env.reset(**kwargs)
        return gym.spaces.flatten(self.env.observation_space, obs), info

    def step(self, action):
        """See :meth:`gymnasium.Env.step`."""
        ends = np.cumsum([sizes.size for sizes in self.sizes.values()])[:-1]
        parts = zip(self.sizes.items(), np.split(np.asarray(action), ends), strict=True)
        shapes: dict[str, Any] = {n: s.shape for n, s in self.env.action_space.spaces.items()}  # type: ignore[attr-defined]
        obs, *rest = self.env.step({name: part.reshape(shapes[name]) for (name, _), part in parts})
        return gym.spaces.flatten(self.env.observation_space, obs), *rest


class Perceptron:
    """Stable-Baselines3's PPO with two hidden layers, as many steps, epochs and rows of a minibatch as ours."""

    def __init__(self, run: RunConfig, loaded: Loaded):
        """Args: the ``run``, and the model whose world, judge and number of weights it takes."""
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import DummyVecEnv

        judge, questions, length = Judge(loaded.model), run.ppo.questions_per_iteration, run.model.dream_length + 1

        def make() -> gym.Env:
            return FlatEnv(ReasoningEnv(run, loaded.world, loaded.text, judge))

        one: Any = make()
        inputs, logits = one.observation_space.shape[0], int(one.action_space.nvec.sum())
        width = width_for(inputs, logits, sum(p.numel() for p in loaded.model.parameters()))
        self.steps = questions * length
        self.model = PPO(
            "MlpPolicy",
            DummyVecEnv([make] * questions),
            learning_rate=run.ppo.lr,
            n_steps=length,
            batch_size=run.ppo.minibatch_size,
            n_epochs=run.ppo.epochs,
            gamma=run.ppo.gamma,
            gae_lambda=run.model.ppo_gae_lambda,
            policy_kwargs={"net_arch": [width, width]},
            seed=run.seed,
            device="cpu",
        )
        self.parameters = sum(p.numel() for p in self.model.policy.parameters())
        self.speeds: list[float] = []
        bias: Any = self.model.policy.action_net.bias
        before = list(one.sizes)[: list(one.sizes).index("belief")]
        first, beliefs = sum(int(one.sizes[name].sum()) for name in before), one.sizes["belief"]
        with torch.no_grad():  # dreams last as long as the module's
            bias[first + np.cumsum([0, *beliefs[:-1]]) + int(Outcome.CONTINUE)] += SURE

    def iterate(self, count: bool) -> None:
        """One iteration; ``count`` says whether its time counts."""
        started = time.process_time()
        self.model.learn(self.steps, reset_num_timesteps=False)
        if count:
            self.speeds.append(self.steps / (time.process_time() - started))


def width_for(inputs: int, logits: int, parameters: int) -> int:
    """Width of two hidden layers, once for the policy and once for the value, for about ``parameters`` weights."""
    width = 1
    while 2 * (width + 1) * (inputs + width + 3) + (width + 2) * (logits + 1) <= parameters:
        width += 1
    return width
