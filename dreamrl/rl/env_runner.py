"""An env runner that steps many questions, and all their dreams, in one model call.

Question i of iteration k has its own random numbers, whoever asks it: runner r of W takes questions r, r + W,
and so on, so the number of runners does not change what is sampled.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from dreamrl.config import RunConfig
from dreamrl.rl.columns import DREAM_LOGP, DREAM_VALUE, learned_columns
from dreamrl.rl.module import UNIFORM, UNIFORM_ANSWER, DreamRLModule
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch, training_question
from envs.reasoning_env import ReasoningEnv

STEP_COLUMNS = (Columns.ACTION_LOGP, Columns.VF_PREDS, DREAM_LOGP, DREAM_VALUE)


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
        trace = self._play(numbers)
        episodes = [self._episode(trace, q) for q in range(len(numbers))]
        parts = [self.batch.breakdown(q) for q in range(len(numbers))]
        self.metrics.log_dict(
            {k: float(np.mean([p[k] for p in parts])) for k in parts[0]}, key="reward_parts", window=1
        )
        self._done_episodes_for_metrics.extend(episodes)
        steps = sum(len(e) for e in episodes)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(episodes))
        return episodes

    def _play(self, numbers: list[int]) -> list[dict]:
        """Every step of all questions: observation, what the module returned, rewards."""
        run, batch, module = self.run, self.batch, cast(DreamRLModule, self.module)
        batch.reset([training_question(run, batch.world, i) for i in numbers])
        streams = [stream(run.seed, 3, i) for i in numbers]
        length, patches = run.model.dream_length, batch.num_patches
        dice = np.stack([s.random((batch.dreams, length, patches + 2)) for s in streams])
        answer_dice = np.stack([s.random(run.model.max_answer_tokens + 1) for s in streams])
        trace = []
        while not (batch.phase == Phase.OVER).all():
            obs = batch.observation()
            step = np.minimum(obs["step"], length - 1)
            inputs = {
                Columns.OBS: {k: torch.from_numpy(v) for k, v in obs.items()},
                UNIFORM: torch.from_numpy(dice[np.arange(len(numbers)), :, step]).float(),
                UNIFORM_ANSWER: torch.from_numpy(answer_dice).float(),
            }
            out = module.forward_exploration(inputs)
            action = {k: v.numpy() for k, v in out[Columns.ACTIONS].items()}
            dream_rewards, answer_rewards = batch.step(action)
            columns = {k: out[k].numpy() for k in STEP_COLUMNS}
            infos = [batch.step_info(q, dream_rewards, answer_rewards) for q in range(len(numbers))]
            trace.append({"obs": obs, "action": action, "columns": columns, "infos": infos})
        trace.append({"obs": batch.observation()})
        return trace

    def _episode(self, trace: list[dict], q: int) -> SingleAgentEpisode:
        """Question ``q`` of the trace as an RLlib episode."""
        steps = [t for t in trace[:-1] if t["obs"]["phase"][q] != Phase.OVER]
        infos: list[dict] = [{"question": self.batch.questions[q].text}]
        infos += [t["infos"][q] for t in steps]
        infos[-1] |= self.batch.final_info(q)
        obs = {k: np.stack([t["obs"][k][q] for t in steps]) for k in steps[0]["obs"]}
        columns = {k: np.stack([t["columns"][k][q] for t in steps]) for k in STEP_COLUMNS}
        columns |= learned_columns(obs, infos[1:], columns[DREAM_VALUE], columns[Columns.VF_PREDS], self.run)
        assert self.env is not None
        episode = SingleAgentEpisode(
            observations=[{k: v[q] for k, v in t["obs"].items()} for t in trace[: len(steps) + 1]],
            actions=[{k: v[q] for k, v in t["action"].items()} for t in steps],
            rewards=[float(i["dream_rewards"].mean() + i["answer_reward"]) for i in infos[1:]],
            infos=infos,
            terminated=True,
            extra_model_outputs={k: list(v) for k, v in columns.items()},
            observation_space=self.env.single_observation_space,
            action_space=self.env.single_action_space,
            len_lookback_buffer=0,
            t_started=0,
        )
        return episode.to_numpy()
