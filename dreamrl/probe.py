"""Quick held-out measurements while training, on a fixed batch of random play on validation boards."""

from __future__ import annotations

import numpy as np
import torch

from dreamrl.data import RandomPlay
from dreamrl.device import Compute
from dreamrl.losses import dream_rows, happened, prompt_rows, world_model_loss
from dreamrl.nn.moe import routing_metrics
from dreamrl.saving import Loaded
from envs.mixture import Mixture
from envs.world import Split, World

SCENES = 48


BY_WORLD = ("exact_frame", "focus_accuracy", "answer_accuracy")
"""What is measured in each world of a mixture, besides the mean over them."""


class Probe:
    """Callable that measures the model as it is now; the batches are made at the first call."""

    def __init__(self, loaded: Loaded, scenes: int = SCENES):
        """Args: ``loaded`` model to watch; ``scenes`` validation boards, shared out among a mixture's worlds."""
        self.loaded = loaded
        self.scenes = scenes
        self.batches: dict[str, dict[str, torch.Tensor]] = {}

    def __call__(self) -> dict[str, float]:
        """Shares in [0, 1]: exact next frames, right focus, right answers, right inverse dynamics, expert usage.

        Of a mixture the means over its worlds, and what ``BY_WORLD`` names for each, as in
        ``exact_frame/spatial.minigrid``.
        """
        if not self.batches:
            self.batches = {name: self._batch(world, count) for name, world, count in self._worlds()}
        found = {name: self._measure(batch) for name, batch in self.batches.items()}
        first = next(iter(found.values()))
        out = {key: float(np.mean([values[key] for values in found.values()])) for key in first}
        if len(found) > 1:
            out |= {f"{key}/{name}": values[key] for name, values in found.items() for key in BY_WORLD}
        return out

    def _worlds(self) -> list[tuple[str, World, int]]:
        """Name, world and number of scenes of each batch."""
        world = self.loaded.world
        if not isinstance(world, Mixture):
            return [("", world, self.scenes)]
        count = max(1, self.scenes // len(world.members))
        return [(f"{m.family}.{m.name}", world.only(m.name), count) for m in world.members]

    def _batch(self, world: World, count: int) -> dict[str, torch.Tensor]:
        data = RandomPlay(self.loaded.run, world, self.loaded.text, self.loaded.model.codec, Split.VALIDATION)
        return Compute(device=self.loaded.model.device).put(data.batch(0, count, key=6))

    @torch.no_grad()
    def _measure(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        model = self.loaded.model
        steps = batch["actions"].shape[-1]
        mask = happened(batch["lengths"], steps)
        rows = dream_rows(batch, mask, model.config.use_dream_memory)
        prompt = model.ask(batch)
        _, seen = world_model_loss(model, rows, prompt_rows(prompt, rows.question))
        count = batch["focus_target"].shape[1] - 1
        frames, actions, beliefs, lengths = (batch[k][:, :count] for k in ("frames", "actions", "beliefs", "lengths"))
        reading = model.read(frames, actions, beliefs, lengths, prompt, batch["grid"])
        answered = model.answer(reading, prompt)
        right = batch["focus_target"].gather(1, answered.focus.unsqueeze(1))
        written = [self.loaded.text.decode(t) for t in answered.tokens.tolist()]
        wanted = [self.loaded.text.decode(t) for t in batch["answer"].tolist()]
        told = batch["script"][rows.question]
        follows = (seen.action_logits.argmax(-1) == rows.action)[told & batch["cloned"][rows.question, rows.slot]]
        inverse = model.inverse_dynamics(batch["pair_what"], batch["pair_result"], batch["pair_grid"]).argmax(-1)
        out = {
            "exact_frame": float(seen.exact.float().mean()),
            "script_accuracy": float(follows.float().mean()) if len(follows) else 1.0,
            "focus_accuracy": float(right.float().mean()),
            "answer_accuracy": sum(a == b for a, b in zip(written, wanted, strict=True)) / len(wanted),
            "inverse_accuracy": float((inverse == batch["pair_action"]).float().mean()),
        }
        return out | {name: float(value) for name, value in routing_metrics(seen.routing).items()}
