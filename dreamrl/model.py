"""DreamingReasoningLLM: a model that imagines what actions lead to, reads its dreams, and answers.

    text, picture -> InputTokenizer -> DreamGenerator (MoE) x N dreams x T steps
                  -> GraphReasoner -> OutputDecoder -> text
                                   -> ImageDecoder  -> picture

This is the face that people use; the computation is in :mod:`dreamrl.nn.dreaming_model`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dreamrl.config import DreamingConfig, RunConfig
from dreamrl.nn.dreaming_model import DreamingModel
from dreamrl.nn.text import TextTokenizer

if TYPE_CHECKING:
    from PIL import Image

    from dreamrl.saving import Loaded
    from envs.world import World


class Assets(NamedTuple):
    """What a model is made for: the settings of its run, its world and its text tokenizer."""

    run: RunConfig
    world: World
    text: TextTokenizer
    vision: dict[str, Any] | None = None
    """How the vision backbone of a saved model is built; None: as the settings say."""


def usable(device: str | torch.device) -> torch.device:
    """``device``, or the CPU with a warning when it is a GPU that is not there."""
    asked = torch.device(device)
    if asked.type == "cuda" and not torch.cuda.is_available():
        warnings.warn(f'device "{device}" is not available; using the CPU', stacklevel=3)
        return torch.device("cpu")
    return asked


class DreamingReasoningLLM(DreamingModel):
    """The whole model.

    Args:
        config: architecture; by default that of the ``nano`` preset.
        embedding_dim: replaces ``config.embedding_dim``.
        vocab_size: replaces ``config.vocab_size``, the most tokens that the text tokenizer may learn.
        enable_rl: whether :meth:`train_step_rl` may be used; replaces ``config.use_ppo``.
        device: where the weights live; "cuda" without a GPU warns and takes the CPU.
        world: name of the world whose actions, pictures and questions the model is made for.
        seed: of the initial weights.
        assets: what a caller has already made of all this: ``(run, world, tokenizer)``.

    Example:
        >>> model = DreamingReasoningLLM(DreamingConfig(num_experts=2), embedding_dim=32)
        >>> model.config.embedding_dim, model.num_actions
        (32, 4)
    """

    def __init__(
        self,
        config: DreamingConfig | None = None,
        embedding_dim: int | None = None,
        vocab_size: int | None = None,
        enable_rl: bool | None = None,
        device: str | torch.device = "cpu",
        *,
        world: str = "frozen_lake",
        seed: int = 0,
        assets: Assets | None = None,
    ):
        """See the class."""
        if assets is None:
            from dreamrl.saving import make_assets

            given = {"embedding_dim": embedding_dim, "vocab_size": vocab_size, "use_ppo": enable_rl}
            config = replace(config or DreamingConfig(), **{k: v for k, v in given.items() if v is not None})
            assets = make_assets(config, world, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(assets.run.seed)
            super().__init__(assets.run.model, assets.text.vocab_size, len(assets.world.actions), assets.vision)
        self.assets = assets
        self.trainer: Any = None
        self.to(usable(device)).eval()

    @property
    def loaded(self) -> Loaded:
        """The model together with its settings, world and tokenizer."""
        from dreamrl.saving import Loaded

        return Loaded(run=self.assets.run, world=self.assets.world, text=self.assets.text, model=self)

    @classmethod
    def load_pretrained(cls, directory: str | Path, device: str | torch.device = "cpu") -> DreamingReasoningLLM:
        """The model saved in ``directory``, ready to :meth:`generate`; UserError if there is no sound one.

        The name of a shipped model will do, too.
        """
        from dreamrl.saving import load_pretrained
        from dreamrl.shipped import model_directory

        return load_pretrained(model_directory(directory)).model.to(usable(device))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model as a directory (config.json, model.safetensors, tokenizer.json), atomically."""
        from dreamrl.saving import save_pretrained

        save_pretrained(self.loaded, Path(directory))

    def generate(self, prompt: str = "", return_dreams: bool = False, **options: Any) -> dict[str, Any]:
        """Answer ``prompt``; :func:`dreamrl.generate.generate` has the ``options`` and the result.

        ``return_dreams`` adds the dreams as pictures.
        """
        from dreamrl.generate import generate
        from dreamrl.notebook import Result

        result = generate(self.loaded, prompt, **options)
        return result if return_dreams else Result({k: v for k, v in result.items() if k != "dreams"})

    def visualize_thinking(self, prompt: str = "", save: str | Path | None = None, **options: Any) -> Image.Image:
        """The dreams as filmstrips, and the graph in which they are read, as one picture.

        ``save`` also writes it as a PNG file; ``options`` as in :meth:`generate`.
        """
        from dreamrl.generate import visualize

        return visualize(self.loaded, prompt, None if save is None else Path(save), **options)

    def batches(self, num: int, scenes: int = 32) -> Iterator[dict[str, Tensor]]:
        """``num`` pretraining batches of random play; the image codec is trained first if it is not."""
        from dreamrl.pretrain import batches

        return batches(self.loaded, num, scenes)

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The pretraining loss of one of :meth:`batches`, to call ``backward()`` on; and its parts by name.

        Example:
            >>> model = DreamingReasoningLLM(embedding_dim=32)
            >>> optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
            >>> for batch in model.batches(2, scenes=4):
            ...     loss, parts = model.compute_loss(batch)
            ...     optimizer.zero_grad()
            ...     loss.backward()
            ...     norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            ...     optimizer.step()
        """
        from dreamrl.losses import pretrain_loss

        return pretrain_loss(self, batch)

    def train_step_rl(self) -> dict[str, float]:
        """One PPO iteration (sample, learn) without Ray; metrics by name. See :class:`dreamrl.ppo.PPOTrainer`.

        Size and schedule come from the model's settings (``model.assets.run.ppo``). The judge of the dreams is frozen
        as it is at the first call.
        """
        from dreamrl.ppo import PPOTrainer

        if not self.config.use_ppo:
            raise ValueError("this model was made with enable_rl=False (use_ppo=False); make it with enable_rl=True")
        if self.trainer is None:
            self.trainer = PPOTrainer(self.loaded)
        return self.trainer.iterate()

    def learn_from_feedback(
        self, examples: Sequence[dict[str, Any]], num_epochs: int = 3, **options: Any
    ) -> dict[str, float]:
        """Learn what people like: ratings or preferences; see :func:`dreamrl.feedback.examples.learn_from_feedback`."""
        from dreamrl.feedback.examples import learn_from_feedback

        return learn_from_feedback(self.loaded, examples, num_epochs, **options)
