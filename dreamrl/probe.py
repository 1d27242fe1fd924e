"""Quick held-out measurements while training, on a fixed batch of random play on validation boards."""

from __future__ import annotations

import torch

from dreamrl.data import RandomPlay
from dreamrl.losses import dream_rows, happened, prompt_rows, world_model_loss
from dreamrl.nn.moe import routing_metrics
from dreamrl.saving import Loaded
from envs.world import Split

SCENES = 48


class Probe:
    """Callable that measures the model as it is now; the batch is made at the first call."""

    def __init__(self, loaded: Loaded, scenes: int = SCENES):
        """Args: ``loaded`` model to watch; ``scenes`` validation boards."""
        self.loaded = loaded
        self.scenes = scenes
        self.batch: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Shares in [0, 1]: exact next frames, right focus, right answers, right inverse dynamics, expert usage."""
        model = self.loaded.model
        if self.batch is None:
            data = RandomPlay(self.loaded.run, self.loaded.world, self.loaded.text, model.codec, Split.VALIDATION)
            self.batch = data.batch(0, self.scenes, key=6)
        batch = self.batch
        steps = batch["actions"].shape[-1]
        mask = happened(batch["lengths"], steps)
        rows = dream_rows(batch, mask, model.config.use_dream_memory)
        prompt = model.ask(batch)
        _, seen = world_model_loss(model, rows, prompt_rows(prompt, rows.question))
        count = batch["focus_target"].shape[1] - 1
        frames, actions, beliefs, lengths = (batch[k][:, :count] for k in ("frames", "actions", "beliefs", "lengths"))
        reading = model.read(frames, actions, beliefs, lengths, prompt)
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
