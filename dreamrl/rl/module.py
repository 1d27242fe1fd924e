"""The model as an RLlib module: observations in, actions with their log-probabilities and values out.

It computes log-probabilities itself, because one action has parts for several dreams and two phases, each
with its own advantage. No logits leave it: with an image code book they would be the largest thing shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from dreamrl import policy
from dreamrl.columns import TRUTH
from dreamrl.curriculum import Stage, stages_of
from dreamrl.device import Compute
from dreamrl.process import settle
from dreamrl.saving import load_pretrained

UNIFORM = "uniform"
"""Optional input column (K, N, P + 2): the random numbers to sample dreams with."""
UNIFORM_ANSWER = "uniform_answer"
"""Optional input column (K, L + 1): the random numbers to sample answers with."""
SCORED = "scored"
"""Output of ``forward_train``: :class:`dreamrl.policy.Scored`."""


class DreamRLModule(TorchRLModule, ValueFunctionAPI):
    """Wraps :class:`dreamrl.model.DreamingReasoningLLM`; ``model_config`` holds ``model_dir`` and ``seed``."""

    def setup(self):
        """Load the model; what judges the dreams (codec, inverse dynamics) is not trained."""
        loaded = load_pretrained(Path(self.model_config["model_dir"]), trusted=True)
        self.run = loaded.run
        settle(self.run.deterministic)
        self.model = loaded.model
        self.model.codec.requires_grad_(False)
        self.model.inverse_dynamics.requires_grad_(False)
        self.generator = torch.Generator().manual_seed(int(self.model_config["seed"]))
        self.stages = stages_of(loaded.run, loaded.world)
        # A buffer: it goes wherever the weights go, so that a restarted env runner gets both together.
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.long))

    @property
    def compute(self) -> Compute:
        """How this process computes: RLlib has put the model where it is."""
        return Compute(device=self.model.device, precision=self.run.precision, compile=self.run.compile)

    @property
    def stage(self) -> Stage | None:
        """Stage of the curriculum; None without one."""
        return self.stages[int(self.get_buffer("stage_number"))] if self.stages else None

    def enter(self, number: int) -> None:
        """Sample and learn as stage ``number`` of the curriculum says, until another one is entered."""
        self.get_buffer("stage_number").fill_(number)

    def _limit(self) -> None:
        """Let the graph reasoner read as the stage says, which may have come with new weights."""
        stage = self.stage
        self.model.graph_reasoner.limit(None if stage is None else stage.hops)

    def _forward(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        """Sample dreams and answers; greedy answers and dreams are ``dreamrl.evaluate``'s business."""
        self._limit()
        compute = self.compute
        obs = compute.put(batch[Columns.OBS])
        uniform, answer_uniform = batch.get(UNIFORM), batch.get(UNIFORM_ANSWER)
        if uniform is None:
            shape = (*obs["actions"].shape[:2], obs["frames"].shape[-1] + 2)
            uniform = torch.rand(shape, generator=self.generator)
        if answer_uniform is None:
            shape = (len(obs["text"]), self.model.config.max_answer_tokens + 1)
            answer_uniform = torch.rand(shape, generator=self.generator)
        with compute.sampling():
            return policy.act(self.model, obs, compute.put(uniform), compute.put(answer_uniform))

    def _forward_train(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        """Score the actions that were taken."""
        self._limit()
        truth = {k: batch[k] for k in TRUTH}
        with self.compute.learning():
            return {SCORED: policy.score(self.model, batch[Columns.OBS], batch[Columns.ACTIONS], truth)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> torch.Tensor:
        """(K,) values of whole steps, as in ``VF_PREDS``; training uses the values stored when sampling."""
        return self._forward(batch)[Columns.VF_PREDS]
