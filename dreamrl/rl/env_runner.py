"""An env runner that steps many questions, and all their dreams, in one model call.

Question i of iteration k has its own random numbers, whoever asks it: runner r of W takes questions r, r + W,
and so on, so the number of runners does not change what is sampled.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from dreamrl.config import RunConfig
from dreamrl.rl.module import UNIFORM, UNIFORM_ANSWER, DreamRLModule
from dreamrl.rollout import own_steps, play, reward_parts, step_columns
from envs.reasoning_batch import ReasoningBatch
from envs.reasoning_env import ReasoningEnv


class DreamEnvRunner(SingleAgentEnvRunner):
    """Samples ``questions_per_iteration`` / W whole episodes a call, batched over questions."""

    def make_env(self) -> None:
        """One environment tells the spaces; ``num_envs`` is the number of questions stepped together."""
        super().make_env()
        assert self.env is not None
        self.env_one: ReasoningEnv = cast(Any, self.env.unwrapped).envs[0].unwrapped
        self.run: RunConfig = self.env_one.config
        self.shards = max(1, self.config.num_env_runners or 0)
        self.num_envs = self.run.ppo.questions_per_iteration // self.shards
        source = self.env_one.batch
        self.batch = ReasoningBatch(self.run, source.world, source.text, source.judge, source.dreams)

    def _sample(
        self, *, num_timesteps=None, num_episodes=None, explore, random_actions=False, force_reset=False
    ) -> list[SingleAgentEpisode]:
        """Whole episodes only: ``num_episodes`` of them, or as many as hold ``num_timesteps`` steps."""
        if num_timesteps is not None:
            num_episodes = max(1, -(-num_timesteps // (self.run.model.dream_length + 1)))
        iteration = int(self.config.env_config["start_iteration"]) + self._weights_seq_no
        shard = max(0, self.worker_index - 1)
        first = iteration * self.run.ppo.questions_per_iteration + shard
        numbers = [first + i * self.shards for i in range(int(num_episodes or self.num_envs))]
        if (stage := cast(DreamRLModule, self.module).stage) is not None:
            self.batch.enter(stage)
        trace = play(self.run, self.batch, numbers, self._act)
        episodes = [self._episode(trace, q) for q in range(len(numbers))]
        self.metrics.log_dict(reward_parts(self.batch), key="reward_parts", window=1)
        self._done_episodes_for_metrics.extend(episodes)
        steps = sum(len(e) for e in episodes)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(episodes))
        return episodes

    def _act(self, obs: dict, uniform: torch.Tensor, answer_uniform: torch.Tensor) -> dict[str, Any]:
        module = cast(DreamRLModule, self.module)
        return module.forward_exploration({Columns.OBS: obs, UNIFORM: uniform, UNIFORM_ANSWER: answer_uniform})

    def _episode(self, trace: list[dict], q: int) -> SingleAgentEpisode:
        """Question ``q`` of the trace as an RLlib episode."""
        steps, final = own_steps(trace, q), self.batch.final_info(q)
        columns = step_columns(self.run, steps, final)
        infos: list[dict] = [{"question": self.batch.questions[q].text}, *(s["info"] for s in steps)]
        infos[-1] = infos[-1] | final
        assert self.env is not None
        present = self.batch.present
        episode = SingleAgentEpisode(
            observations=[{k: v[q] for k, v in t["obs"].items()} for t in trace[: len(steps) + 1]],
            actions=[s["action"] for s in steps],
            rewards=[float(i["dream_rewards"][:present].mean() + i["answer_reward"]) for i in infos[1:]],
            infos=infos,
            terminated=True,
            extra_model_outputs={k: list(v) for k, v in columns.items()},
            observation_space=self.env.single_observation_space,
            action_space=self.env.single_action_space,
            len_lookback_buffer=0,
            t_started=0,
        )
        return episode.to_numpy()
