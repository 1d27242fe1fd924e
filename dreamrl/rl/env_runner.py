"""An env runner that steps many questions, and all their dreams, in one model call.

Question i of iteration k has its own random numbers, and is dreamed together with the same others, whoever asks it:
runner r of W takes batches r, r + W, and so on, so the number of runners does not change what is sampled.

Nobody but the model sees the dreams while they are dreamed, as a rule: episodes are made of whole arrays when all is
over. Where a user's connectors or callbacks want to see every step, :class:`Watched` makes them step by step.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics import ENV_TO_MODULE_CONNECTOR, MODULE_TO_ENV_CONNECTOR, RLMODULE_INFERENCE_TIMER

from dreamrl.columns import LEARNED
from dreamrl.config import RunConfig
from dreamrl.policy import STEP_COLUMNS
from dreamrl.rl.module import UNIFORM, UNIFORM_ANSWER, DreamRLModule
from dreamrl.rollout import Played, episodes, play, reward_parts, shared_out, together
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.reasoning_env import ReasoningEnv

SEEN_BY = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end")
"""Callbacks that look into an episode while it goes on."""


class DreamEnvRunner(SingleAgentEnvRunner):
    """Samples ``questions_per_iteration`` / W whole episodes a call, batched over questions."""

    def make_env(self) -> None:
        """One environment tells the spaces; ``num_envs`` is the number of this runner's questions in an iteration."""
        super().make_env()
        assert self.env is not None
        self.env_one: ReasoningEnv = cast(Any, self.env.unwrapped).envs[0].unwrapped
        self.run: RunConfig = self.env_one.config
        self.shards = max(1, self.config.num_env_runners or 0)
        self.shard = max(0, self.worker_index - 1)
        self.num_envs = sum(map(len, shared_out(self.run, 0, self.shard, self.shards)))
        self.together = together(self.run)
        source = self.env_one.batch
        self.batch = ReasoningBatch(self.run, source.world, source.text, source.judge, source.dreams)

    @property
    def watched(self) -> bool:
        """Whether a connector or callback of the user has to see every step."""
        config: Any = self.config
        if config._env_to_module_connector is not None or config._module_to_env_connector is not None:
            return True
        return any(
            getattr(config, f"callbacks_{name}") is not None
            or any(getattr(type(c), name) is not getattr(RLlibCallback, name) for c in self._callbacks)
            for name in SEEN_BY
        )

    def _sample(
        self, *, num_timesteps=None, num_episodes=None, explore, random_actions=False, force_reset=False
    ) -> list[SingleAgentEpisode]:
        """``num_episodes`` whole episodes, by default one for each question; or exactly ``num_timesteps`` steps."""
        assert not random_actions, "the model dreams: there are no random actions to take"
        if num_timesteps is not None:
            return self._counted(self._exactly(num_timesteps, explore))
        return self.play_batches(shared_out(self.run, self.iteration, self.shard, self.shards, num_episodes), explore)

    @property
    def iteration(self) -> int:
        """The iteration of PPO that the weights are for."""
        return int(self.config.env_config["start_iteration"]) + self._weights_seq_no

    def play_batches(self, batches: Iterable[list[int]], explore: bool = True) -> list[SingleAgentEpisode]:
        """Whole episodes of the questions in ``batches``, which are dreamed batch by batch."""
        return self._counted([episode for numbers in batches for episode in self._play(numbers, explore)])

    def _counted(self, sampled: list[SingleAgentEpisode]) -> list[SingleAgentEpisode]:
        """``sampled``, which the metrics know of."""
        whole = [e for e in sampled if e.is_done]
        if parts := reward_parts([e.get_infos(-1) for e in whole]):
            self.metrics.log_dict(parts, key="reward_parts", window=1)
        self._done_episodes_for_metrics.extend(whole)
        steps = sum(map(len, sampled))
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(whole))
        return sampled

    def _exactly(self, steps: int, explore: bool) -> list[SingleAgentEpisode]:
        """Episodes with ``steps`` steps together. The last one is cut; what its steps have to teach stays theirs."""
        sampled: list[SingleAgentEpisode] = []
        most = self.run.model.dream_length + 1
        numbers = chain.from_iterable(shared_out(self.run, self.iteration, self.shard, self.shards, steps))
        while (missing := steps - sum(map(len, sampled))) > 0:
            sampled += self._play(list(islice(numbers, min(self.together, -(-missing // most)))), explore)
        while sampled and len(sampled[-1]) <= -missing:
            missing += len(sampled.pop())
        if missing:
            sampled[-1] = sampled[-1][: len(sampled[-1]) + missing]
        return sampled

    def _play(self, numbers: list[int], explore: bool) -> list[SingleAgentEpisode]:
        """Whole episodes of questions ``numbers``, dreamed together."""
        if (stage := cast(DreamRLModule, self.module).stage) is not None:
            self.batch.enter(stage)
        seen = Watched(self, numbers, explore) if self.watched else None
        if seen is None:
            trace = play(self.run, self.batch, numbers, lambda *given: self.act(_module_input(*given), explore))
        else:
            trace = play(self.run, self.batch, numbers, seen.act, seen.on_step)
        played = episodes(self.run, self.batch, trace)
        made = [self._episode(p, self._first_info(numbers, q)) for q, p in enumerate(played)]
        return made if seen is None else seen.finished(made)

    def act(self, given: dict[str, Any], explore: bool) -> dict[str, Any]:
        """What the module makes of its input."""
        module = cast(DreamRLModule, self.module)
        with self.metrics.log_time(RLMODULE_INFERENCE_TIMER):
            return module.forward_exploration(given) if explore else module.forward_inference(given)

    def _first_info(self, numbers: list[int], q: int) -> dict[str, Any]:
        """What is told of a question when it is asked."""
        return {"question": self.batch.questions[q].text, "number": numbers[q]}

    def _episode(self, played: Played, first_info: dict[str, Any]) -> SingleAgentEpisode:
        """A question as an RLlib episode."""
        assert self.env is not None
        episode = SingleAgentEpisode(
            observations=cast(Any, played.obs),
            actions=cast(Any, played.action),
            rewards=cast(Any, np.array([step_reward(info, self.batch.present) for info in played.infos])),
            infos=[first_info, *played.infos],
            terminated=True,
            extra_model_outputs=played.columns,
            observation_space=self.env.single_observation_space,
            action_space=self.env.single_action_space,
            len_lookback_buffer=0,
            t_started=0,
        )
        return episode


def _module_input(obs: dict, uniform: torch.Tensor, answer_uniform: torch.Tensor) -> dict[str, Any]:
    return {Columns.OBS: obs, UNIFORM: uniform, UNIFORM_ANSWER: answer_uniform}


def step_reward(info: dict[str, Any], present: int) -> float:
    """Reward of a whole step: the mean over the dreams that are ``present``, or the answer's."""
    return float(info["dream_rewards"][:present].mean() + info["answer_reward"])


class Watched:
    """Episodes that grow step by step, through RLlib's connectors and callbacks, as its own env runner does it.

    What connectors write into an observation stays in its episode, and the world gets the actions that they hand on.
    Questions that are over are shown to the module once more, with their last observation, and then no longer.

    Args:
        runner: whose connectors and callbacks.
        numbers: of the questions.
        explore: whether the module explores.
    """

    def __init__(self, runner: DreamEnvRunner, numbers: list[int], explore: bool):
        """See the class."""
        self.runner, self.numbers, self.explore = runner, numbers, explore
        self.growing: list[Any] = [None] * len(numbers)
        self.shown = list(range(len(numbers)))
        """Questions in the module's next input."""
        self.shared: dict[str, Any] = {}

    def act(self, obs: dict, uniform: torch.Tensor, answer_uniform: torch.Tensor) -> dict[str, Any]:
        """See :data:`dreamrl.rollout.Act`."""
        runner, rows = self.runner, self.shown
        if self.growing[0] is None:
            self._start({k: v.numpy() for k, v in obs.items()})
        given = self.to_module | {UNIFORM: uniform[rows], UNIFORM_ANSWER: answer_uniform[rows]}
        out = cast(Any, runner._module_to_env)(
            rl_module=runner.module,
            batch=runner.act(given, self.explore),
            episodes=[self.growing[q] for q in rows],
            explore=self.explore,
            shared_data=self.shared,
            metrics=runner.metrics,
            metrics_prefix_key=(MODULE_TO_ENV_CONNECTOR,),
        )
        self.actions = out.pop(Columns.ACTIONS)
        to_world = out.pop(Columns.ACTIONS_FOR_ENV, self.actions)
        self.outputs = out
        spread = {k: self._all(v) for k, v in to_world.items()}
        return {Columns.ACTIONS: spread} | {k: self._all(np.asarray(out[k])) for k in STEP_COLUMNS}

    def on_step(self, step: dict[str, Any], obs: dict[str, np.ndarray]) -> None:
        """See :data:`dreamrl.rollout.OnStep`."""
        runner, batch = self.runner, self.runner.batch
        going_on = [(row, q) for row, q in enumerate(self.shown) if not self.growing[q].is_done]
        for row, q in going_on:
            over = bool(batch.phase[q] == Phase.OVER)
            info = step["infos"][q]
            self.growing[q].add_env_step(
                observation={k: v[q] for k, v in obs.items()},
                action={k: v[row] for k, v in self.actions.items()},
                reward=step_reward(info, batch.present),
                infos=info | batch.final_info(q) if over else info,
                terminated=over,
                extra_model_outputs={k: v[row] for k, v in self.outputs.items()},
            )
        self.shown = [q for _, q in going_on]
        self._look()
        for q in self.shown:
            runner._make_on_episode_callback("on_episode_step", q, self.growing)
            if self.growing[q].is_done:
                runner._make_on_episode_callback("on_episode_end", q, self.growing)

    def finished(self, made: list[SingleAgentEpisode]) -> list[SingleAgentEpisode]:
        """The watched episodes, with the columns to learn from that those ``made`` without watching have."""
        for episode, plain in zip(self.growing, made, strict=True):
            for name in LEARNED:
                column = plain.get_extra_model_outputs(name)
                episode.extra_model_outputs[name] = InfiniteLookbackBuffer(list(np.asarray(column)))
        return [e.to_numpy() if self.runner.episodes_to_numpy else e for e in self.growing]

    def _start(self, obs: dict[str, np.ndarray]) -> None:
        runner = self.runner
        for q in self.shown:
            runner._new_episode(q, self.growing)
            first = {k: v[q] for k, v in obs.items()}
            self.growing[q].add_env_reset(observation=first, infos=runner._first_info(self.numbers, q))
        self._look()
        for q in self.shown:
            runner._make_on_episode_callback("on_episode_start", q, self.growing)

    def _look(self) -> None:
        """Let the connectors make the module's next input."""
        runner = self.runner
        self.to_module: dict[str, Any] = cast(Any, runner._env_to_module)(
            rl_module=runner.module,
            episodes=[self.growing[q] for q in self.shown],
            explore=self.explore,
            shared_data=self.shared,
            metrics=runner.metrics,
            metrics_prefix_key=(ENV_TO_MODULE_CONNECTOR,),
        )

    def _all(self, values: np.ndarray) -> torch.Tensor:
        """``values`` of the questions that are shown as a tensor over all of them, zeros elsewhere."""
        spread = torch.zeros(len(self.numbers), *values.shape[1:], dtype=torch.from_numpy(values[:0]).dtype)
        spread[self.shown] = torch.from_numpy(values)
        return spread
