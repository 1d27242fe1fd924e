"""Experience of random play, made on the fly: the only thing that pretraining sees.

Batch ``index`` of a seed is the same on every machine and for every number of workers: scene i of the batch
has its own random stream, and worker r takes scenes r, r + W, r + 2 W and so on.
"""

from __future__ import annotations

import numpy as np
import torch

from dreamrl.config import RunConfig
from dreamrl.nn.codec import FrameCodes, ImageCodec, to_patches
from dreamrl.nn.text import TextTokenizer
from envs.questions import draw_question, prompt_pictures, stream
from envs.world import (
    Outcome,
    Question,
    QuestionKind,
    Rollout,
    Scene,
    Split,
    World,
    random_actions,
    random_play,
    roll,
)

CORRUPTED_SHARE = 0.25
"""Share of inverse-dynamics pairs that no single action explains."""
PRETRAINING = 1
"""Key of the batches that pretraining sees; only these may be noisy."""


class RandomPlay:
    """Batches of random-play rollouts with questions and simulator-verified answers."""

    def __init__(
        self, config: RunConfig, world: World, text: TextTokenizer, codec: ImageCodec, split: Split = Split.TRAIN
    ):
        """Args: the run's ``config``, its ``world``, text tokenizer, frozen codec, and the ``split`` to draw from."""
        self.config = config
        self.world = world
        self.text = text
        self.codes = FrameCodes(codec)
        self.split = split
        self.num_patches = world.max_patches

    def patches(self, scenes: int) -> torch.Tensor:
        """Distinct patches of random-play frames of ``scenes`` scenes, (n, 3 S S) in [0, 1], for the codec."""
        rng = stream(self.config.seed, 0)
        found = []
        for _ in range(scenes):
            scene = self.world.sample_scene(rng, self.split, int(rng.choice(self.world.sizes)))
            states = random_play(scene, len(self.world.actions), self.config.model.dream_length, rng).states
            found += [to_patches(scene.frame(s), self.world.patch_size) for s in states]
        return torch.from_numpy(np.unique(np.concatenate(found), axis=0)).float() / 255

    def batch(
        self, index: int, scenes: int, rank: int = 0, workers: int = 1, key: int = PRETRAINING
    ) -> dict[str, torch.Tensor]:
        """Batch ``index``: this worker's share of ``scenes`` scenes; ``key`` keeps different uses apart."""
        read = self._dreams_to_read(stream(self.config.seed, key, index, scenes))
        drawn = [stream(self.config.seed, key, index, i) for i in range(rank, scenes, workers)]
        records = [self._record(rng, read) for rng in drawn]
        batch = {name: torch.from_numpy(np.stack([r[name] for r in records])) for name in records[0]}
        for name in ("pair_what", "pair_result", "pair_grid", "pair_action"):
            batch[name] = batch[name].flatten(0, 1)
        if key == PRETRAINING:
            own = stream(self.config.seed, 12, index, rank)
            batch["noise_seed"] = torch.tensor(int(own.integers(2**62)))
        return batch

    def _dreams_to_read(self, rng: np.random.Generator) -> int:
        """How many of the N rollouts this batch is answered from: N in half of all batches, else 1 to N.

        A reasoner that always saw N dreams reads a single one badly (exact match 0.80 where the one dream was
        right 0.95 of the time).
        """
        count = self.config.model.num_dream_sequences
        return count if rng.random() < 0.5 else int(rng.integers(1, count + 1))

    def _record(self, rng: np.random.Generator, read: int) -> dict[str, np.ndarray]:
        """One scene, one question, N rollouts, as arrays; the answer rests on the first ``read`` of them."""
        model = self.config.model
        scene = self.world.sample_scene(rng, self.split, int(rng.choice(self.world.sizes)))
        predict = rng.random() < self.config.pretrain.predict_share
        question = draw_question(self.world, scene, predict, model.dream_length, rng)
        scene = question.scene
        rollouts, cloned = self._rollouts(question, read, rng)
        best, text = self.world.true_answer(question, rollouts[:read])
        wordings = self.world.wordings(text)
        text = wordings[rng.integers(len(wordings))]
        focus = np.zeros(read + 1, bool)
        focus[best or [read]] = True
        pairs = self._pairs(scene, rollouts, rng)
        if model.use_contrastive_loss:
            moves = [", ".join(self.world.actions[a] for a in r.actions) for r in rollouts]
            pairs["moves"] = np.stack([self.text.encode(m, model.max_prompt_tokens) for m in moves])
        if model.vision_backbone != "none":
            shown = prompt_pictures([[scene.frame(scene.start)]], self.world.max_side * self.world.patch_size)
            pairs |= {name: value[0] for name, value in shown.items()}
        return {
            "text": self.text.encode(question.text, model.max_prompt_tokens),
            "grid": np.array(scene.grid, np.int64),
            **self._dreams(question, rollouts),
            "cloned": cloned,
            "script": np.array(len(question.script) > 0),
            "focus_target": focus,
            "answer": self.text.encode(text, model.max_answer_tokens, end=True),
            **pairs,
        }

    def _rollouts(self, question: Question, read: int, rng: np.random.Generator) -> tuple[list[Rollout], np.ndarray]:
        """N rollouts and whether their actions are to be cloned.

        For PREDICT at least one of the first ``read`` follows the question's moves, and only those are cloned.
        """
        model, scene = self.config.model, question.scene
        count, num_actions = model.num_dream_sequences, len(self.world.actions)
        if question.kind is QuestionKind.PLAN:
            return [random_play(scene, num_actions, model.dream_length, rng) for _ in range(count)], np.ones(
                count, bool
            )
        follows = rng.random(count) < 0.5
        follows[rng.integers(read)] = True
        moves = [
            question.script if f else random_actions(scene, num_actions, len(question.script), rng) for f in follows
        ]
        return [roll(scene, m) for m in moves], follows

    def _dreams(self, question: Question, rollouts: list[Rollout]) -> dict[str, np.ndarray]:
        """Rollouts as dream arrays, with discounted returns of the reward that PPO will use."""
        length, count = self.config.model.dream_length, len(rollouts)
        frames = np.full((count, length + 1, self.num_patches), self.config.model.num_codes, np.int64)
        actions, beliefs = np.zeros((2, count, length), np.int64)
        returns = np.zeros((count, length), np.float32)
        for n, rollout in enumerate(rollouts):
            for t, state in enumerate(rollout.states):
                codes = self.codes(question.scene, state)
                frames[n, t, : len(codes)] = codes
            steps = len(rollout.actions)
            actions[n, :steps] = rollout.actions
            for t in range(steps):
                outcome = rollout.outcome if t == steps - 1 else Outcome.CONTINUE
                beliefs[n, t] = question.belief(outcome, t + 1)
            returns[n, :steps] = self._returns(question, rollout)
        lengths = np.array([len(r.actions) for r in rollouts], np.int64)
        return {"frames": frames, "actions": actions, "beliefs": beliefs, "lengths": lengths, "returns": returns}

    def _returns(self, question: Question, rollout: Rollout) -> np.ndarray:
        """(steps,) gamma^k where random play succeeded k steps later, else 0; for PREDICT, if on script."""
        steps, gamma = len(rollout.actions), self.config.ppo.gamma
        if question.kind is QuestionKind.PLAN:
            success = float(rollout.outcome is Outcome.SUCCESS)
        else:
            success = float(rollout.actions == question.script)
        return (success * gamma ** np.arange(steps - 1, -1, -1)).astype(np.float32)

    def _pairs(self, scene: Scene, rollouts: list[Rollout], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One (what, result, action) pair per rollout; some with class A, "no single action does this"."""
        count, none = len(rollouts), len(self.world.actions)
        pairs = np.full((2, count, self.num_patches), self.config.model.num_codes, np.int64)
        chosen = np.zeros(count, np.int64)
        for n, rollout in enumerate(rollouts):
            t = int(rng.integers(len(rollout.actions)))
            what, result, chosen[n] = rollout.states[t], rollout.states[t + 1], rollout.actions[t]
            codes = [self.codes(scene, what), self.codes(scene, result)]
            if rng.random() < CORRUPTED_SHARE:
                codes[1], chosen[n] = self._corrupt(scene, what, codes[1], rollouts, rng), none
            for side in (0, 1):
                pairs[side, n, : len(codes[side])] = codes[side]
        grid = np.broadcast_to(np.array(scene.grid, np.int64), (count, 2)).copy()
        return {"pair_what": pairs[0], "pair_result": pairs[1], "pair_grid": grid, "pair_action": chosen}

    def _corrupt(self, scene, what, result: np.ndarray, rollouts: list[Rollout], rng) -> np.ndarray:
        """A picture that no single action makes out of ``what``: a teleport if one is known, else repainted."""
        near = {scene.step(what, a)[0] for a in range(len(self.world.actions))}
        far = sorted({s for r in rollouts for s in r.states} - near - {what})
        if far and rng.random() < 0.7:
            return self.codes(scene, far[rng.integers(len(far))])
        painted = result.copy()
        place = rng.integers(len(painted))
        painted[place] = rng.choice(painted) if rng.random() < 0.5 else rng.integers(self.config.model.num_codes)
        if (painted == result).all():
            painted[place] = (painted[place] + 1) % self.config.model.num_codes
        return painted
