"""RLlib's own env runner, connectors and algorithm on the world of dreams, to compare ours with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.tune.registry import register_env

from dreamrl.columns import ADVANTAGES, ANSWER_ADVANTAGE, DREAM_VALUE, OBS, VF_PREDS, learned_columns, normalise
from dreamrl.config import RunConfig
from dreamrl.judge import Judge
from dreamrl.rl.algorithm import algorithm_config
from dreamrl.rl.learner import PLACE, DreamPPOLearner
from dreamrl.saving import Loaded
from envs.reasoning_env import ReasoningEnv

ENV_NAME = "dreamrl-stock"


def stock_config(run: RunConfig, loaded: Loaded, directory: Path) -> Any:
    """Settings of RLlib's own env runner on the same world; all environments share one judge, as ours do."""
    judge = Judge(loaded.model)
    config = algorithm_config(run, directory)
    register_env(ENV_NAME, lambda _: ReasoningEnv(run, loaded.world, loaded.text, judge))
    config.environment(ENV_NAME)
    config.env_runners(env_runner_cls=SingleAgentEnvRunner, num_envs_per_env_runner=run.ppo.questions_per_iteration)
    return config


def stock_algorithm(run: RunConfig, loaded: Loaded, directory: Path) -> Any:
    """RLlib's own algorithm, env runner and connectors, with our module and loss."""
    config = stock_config(run, loaded, directory)
    config.algo_class = PPO
    config.learners(learner_class=StockLearner, learner_connector=None, add_default_connectors_to_learner_pipeline=True)
    return config.build_algo()


class StockLearner(DreamPPOLearner):
    """The same loss on the rows that RLlib's connectors make; those after an episode's end teach nothing."""

    def build(self) -> None:
        """Also prepare the columns that the loss reads."""
        super().build()
        pipeline: Any = self._learner_connector
        pipeline.prepend(LearnedColumns(run=self.run))
        pipeline.append(Normalised())

    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out) -> torch.Tensor:
        """There is one learner: its place is the first."""
        rows = {**batch, PLACE: torch.zeros(1)}
        return super().compute_loss_for_module(module_id=module_id, config=config, batch=rows, fwd_out=fwd_out)


class LearnedColumns(ConnectorV2):
    """Adds to every episode what it has to teach."""

    def __init__(self, *args, run: RunConfig, **kwargs):
        """Args: ``run``, the settings of the run; the rest as in RLlib."""
        super().__init__(*args, **kwargs)
        self.run = run

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs) -> Any:
        """See the class."""
        episode: Any
        for episode in episodes:
            obs, extra = episode.get_observations(slice(0, len(episode))), episode.get_extra_model_outputs
            columns = learned_columns(obs, episode.get_infos()[1:], extra(DREAM_VALUE), extra(VF_PREDS), self.run)
            for name, column in columns.items():
                episode.extra_model_outputs[name] = InfiniteLookbackBuffer(column)
        return batch


class Normalised(ConnectorV2):
    """Scales the advantages as ours are."""

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs) -> Any:
        """See the class."""
        rows = batch[DEFAULT_MODULE_ID]
        columns = {f"{OBS}/{k}": rows[OBS][k].cpu().numpy() for k in ("phase", "active")}
        columns |= {k: rows[k].cpu().numpy() for k in (ADVANTAGES, ANSWER_ADVANTAGE)}
        normalise(columns)
        rows |= {k: torch.from_numpy(columns[k]).to(rows[k].device) for k in (ADVANTAGES, ANSWER_ADVANTAGE)}
        return batch
