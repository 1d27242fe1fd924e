"""Experience of random play as batches of tensors: the only thing that pretraining sees.

:class:`PlayEncoder` turns records into what the model reads, with its codec and tokenizer. :class:`RandomPlay` draws
the records on the fly; ``dreamrl.stored`` reads them from files.

Batch ``index`` of a seed is the same on every machine and for every number of workers: scene i of the batch
has its own random stream, and worker r takes scenes r, r + W, r + 2 W and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dreamrl.config import RunConfig
from dreamrl.nn.codec import ImageCodec, from_patches
from dreamrl.nn.text import TextTokenizer
from dreamrl.records import NOTHING, PRETRAINING, PlayDrawer, PlayRecord
from envs.questions import prompt_pictures, stream
from envs.world import Split, World


class PlayEncoder:
    """Records of random play as arrays and batches.

    Args:
        config: the run's settings.
        world: that the records are of.
        text: its tokenizer.
        codec: frozen image codec.
    """

    def __init__(self, config: RunConfig, world: World, text: TextTokenizer, codec: ImageCodec):
        """See the class."""
        self.config, self.world, self.text, self.codec = config, world, text, codec
        self.num_patches = world.max_patches

    def batch(
        self, records: Sequence[PlayRecord], index: int, rank: int = 0, key: int = PRETRAINING
    ) -> dict[str, torch.Tensor]:
        """``records``, this worker's share of batch ``index``, as tensors; ``key`` as for :meth:`RandomPlay.batch`."""
        encoded = [self.encode(record) for record in records]
        batch = {name: torch.from_numpy(np.stack([e[name] for e in encoded])) for name in encoded[0]}
        for name in ("pair_what", "pair_result", "pair_grid", "pair_action"):
            batch[name] = batch[name].flatten(0, 1)
        if key == PRETRAINING:
            own = stream(self.config.seed, 12, index, rank)
            batch["noise_seed"] = torch.tensor(int(own.integers(2**62)))
        return batch

    def encode(self, record: PlayRecord) -> dict[str, np.ndarray]:
        """One record as arrays."""
        model, size, pad = self.config.model, self.world.patch_size, self.config.model.num_codes
        patch_codes = self.codec.encode(record.patches.reshape(-1, size, 3))  # (K,): a picture of one column
        pictures, cells = record.pictures.shape
        codes = np.full((pictures + 1, self.num_patches), pad, np.int64)  # the last row is what NOTHING picks
        codes[:pictures, :cells] = patch_codes[record.pictures]
        grid = np.array(record.grid, np.int64)
        extra: dict[str, np.ndarray] = {}
        if model.use_contrastive_loss:
            played = [actions[:steps] for actions, steps in zip(record.actions, record.lengths, strict=True)]
            moves = [", ".join(self.world.actions[a] for a in actions) for actions in played]
            extra["moves"] = np.stack([self.text.encode(m, model.max_prompt_tokens) for m in moves])
        if model.vision_backbone != "none":
            start = from_patches(record.patches[record.pictures[record.seen[0, 0]]], record.grid, size)
            shown = prompt_pictures([[start]], self.world.max_side * size)
            extra |= {name: value[0] for name, value in shown.items()}
        return {
            "text": self.text.encode(record.text, model.max_prompt_tokens),
            "grid": grid,
            "frames": codes[record.seen],
            "actions": record.actions.astype(np.int64),
            "beliefs": record.beliefs.astype(np.int64),
            "lengths": record.lengths.astype(np.int64),
            "returns": self._returns(record),
            "cloned": record.cloned,
            "script": np.array(record.scripted),
            "focus_target": record.focus,
            "answer": self.text.encode(record.answer, model.max_answer_tokens, end=True),
            "pair_what": codes[record.pair_pictures[0]],
            "pair_result": self._repainted(codes[record.pair_pictures[1]], record.repaint),
            "pair_grid": np.broadcast_to(grid, (len(record.lengths), 2)).copy(),
            "pair_action": record.pair_actions.astype(np.int64),
            **extra,
        }

    def _returns(self, record: PlayRecord) -> np.ndarray:
        """(N, T) discounted returns of the reward that PPO will use: gamma^k where success came k steps later."""
        returns, gamma = np.zeros(record.actions.shape, np.float32), self.config.ppo.gamma
        for n, steps in enumerate(record.lengths):
            returns[n, :steps] = float(record.succeeded[n]) * gamma ** np.arange(steps - 1, -1, -1)
        return returns

    def _repainted(self, results: np.ndarray, repaint: np.ndarray) -> np.ndarray:
        """``results`` (N, P), changed where ``repaint`` says so; what would stay the same takes the next code."""
        for result, (place, source, code) in zip(results, repaint, strict=True):
            if place == NOTHING:
                continue
            before, paint = result[place], code if source == NOTHING else result[source]
            result[place] = (paint + 1) % self.config.model.num_codes if paint == before else paint
        return results


class RandomPlay:
    """Batches of random-play rollouts with questions and simulator-verified answers, made on the fly."""

    def __init__(
        self, config: RunConfig, world: World, text: TextTokenizer, codec: ImageCodec, split: Split = Split.TRAIN
    ):
        """Args: the run's ``config``, its ``world``, text tokenizer, frozen codec, and the ``split`` to draw from."""
        self.config, self.world, self.text = config, world, text
        self.drawer = PlayDrawer(config, world, split)
        self.encoder = PlayEncoder(config, world, text, codec)

    def patches(self, scenes: int) -> torch.Tensor:
        """Distinct patches of random-play frames of ``scenes`` scenes, (n, 3 S S) in [0, 1], for the codec."""
        return torch.from_numpy(self.drawer.patches(scenes)).float() / 255

    def batch(
        self, index: int, scenes: int, rank: int = 0, workers: int = 1, key: int = PRETRAINING
    ) -> dict[str, torch.Tensor]:
        """Batch ``index``: this worker's share of ``scenes`` scenes; ``key`` keeps different uses apart."""
        read = self.drawer.dreams_to_read(index, scenes, key)
        records = [self.drawer.draw(index, number, read, key) for number in range(rank, scenes, workers)]
        return self.encoder.batch(records, index, rank, key)
