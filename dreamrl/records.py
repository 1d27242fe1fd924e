"""Random play as records: pictures, moves and words, with no model in sight.

A record holds all that chance decides about one scene, so that a model's codec and tokenizer turn it into the
same arrays whenever and wherever that happens: at once (``dreamrl.data``) or from a file (``dreamrl.shards``).
Record i of update u depends on the settings, the seed, u and i alone, and on nothing drawn before it.

Pictures are kept as what they are made of: the record's distinct patches, and for each picture which patch stands
where. Worlds repeat themselves, so that is a few KB where the pictures are hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamrl.config import RunConfig
from envs.questions import draw_question, stream
from envs.world import Outcome, Question, QuestionKind, Rollout, Scene, Split, World, random_actions, random_play, roll

CORRUPTED_SHARE = 0.25
"""Share of inverse-dynamics pairs that no single action explains."""
TELEPORT_SHARE = 0.7
"""Share of those that show another true picture of the scene, where there is one out of reach."""
PRETRAINING = 1
"""Key of the batches that pretraining sees; only these may be noisy."""
CODEC_SCENES = 64
"""Scenes whose distinct patches the codec is trained on."""
NOTHING = -1
"""In an index: there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlayRecord:
    """One scene, one question about it, N rollouts of at most T moves, and what is to be learned from them.

    Example:
        On a board whose start, left and right look different, two rollouts "right, left" and "left" of T = 2 have
        ``pictures`` of the three (start, right, left), ``seen`` [[0, 1, 0], [0, 2, -1]], ``actions`` [[2, 0], [0, 0]]
        and ``lengths`` [2, 1].
    """

    text: str
    """The question."""
    answer: str
    """The answer that the first rollouts support, in one of its wordings."""
    scripted: bool
    """Whether the question names moves."""
    grid: tuple[int, int]
    """Size of a picture in patches, (rows, columns); P is their product."""
    patches: np.ndarray
    """(K, 3 S S) uint8, distinct patches of S x S pixels."""
    pictures: np.ndarray
    """(U, P) int32: for each picture the patch at each place, row by row."""
    seen: np.ndarray
    """(N, T + 1) int32: the picture of each state of each rollout, ``NOTHING`` after its end."""
    actions: np.ndarray
    """(N, T) int32, 0 after the end."""
    beliefs: np.ndarray
    """(N, T) int32: the true :class:`Outcome` after each move, 0 after the end."""
    lengths: np.ndarray
    """(N,) int32: moves of each rollout."""
    succeeded: np.ndarray
    """(N,) bool: whether the rollout did what was asked."""
    cloned: np.ndarray
    """(N,) bool: whether its moves are to be imitated."""
    focus: np.ndarray
    """(read + 1,) bool: which of the first ``read`` rollouts answer the question; the last entry: none does."""
    pair_pictures: np.ndarray
    """(2, N) int32: pictures before and after one move of each rollout, or before and of something else."""
    pair_actions: np.ndarray
    """(N,) int32: the move; the number of actions where no single one leads from the first to the second."""
    repaint: np.ndarray
    """(N, 3) int32 (place, source, code): repaint the second picture at ``place`` with what is at ``source``, or,
    if that is ``NOTHING``, as ``code``. Place ``NOTHING``: leave it as it is."""


class PlayDrawer:
    """Draws records of random play.

    Args:
        config: the run's settings.
        world: whose scenes.
        split: of the scenes.
    """

    def __init__(self, config: RunConfig, world: World, split: Split = Split.TRAIN):
        """See the class."""
        self.config, self.world, self.split = config, world, split

    def patches(self, scenes: int = CODEC_SCENES) -> np.ndarray:
        """Distinct patches of random-play frames of ``scenes`` scenes, (n, 3 S S) uint8, for the codec."""
        rng = stream(self.config.seed, 0)
        found = []
        for _ in range(scenes):
            scene = self.world.sample_scene(rng, self.split, int(rng.choice(self.world.sizes)))
            states = random_play(scene, len(self.world.actions), self.config.model.dream_length, rng).states
            found.append(distinct_patches([scene.frame(s) for s in states], self.world.patch_size)[0])
        return np.unique(np.concatenate(found), axis=0)

    def dreams_to_read(self, index: int, scenes: int, key: int = PRETRAINING) -> int:
        """From how many of the N rollouts batch ``index`` is answered: N in half of all batches, else 1 to N.

        A reasoner that always saw N dreams reads a single one badly (exact match 0.80 where the one dream was
        right 0.95 of the time).
        """
        rng = stream(self.config.seed, key, index, scenes)
        count = self.config.model.num_dream_sequences
        return count if rng.random() < 0.5 else int(rng.integers(1, count + 1))

    def draw(self, index: int, number: int, read: int, key: int = PRETRAINING) -> PlayRecord:
        """Record ``number`` of batch ``index``; the answer rests on the first ``read`` rollouts.

        Args:
            index: of the batch.
            number: of the record in it.
            read: see :meth:`dreams_to_read`.
            key: keeps different uses apart.
        """
        rng = stream(self.config.seed, key, index, number)
        length = self.config.model.dream_length
        scene = self.world.sample_scene(rng, self.split, int(rng.choice(self.world.sizes)))
        predict = rng.random() < self.config.pretrain.predict_share
        question = draw_question(self.world, scene, predict, length, rng)
        scene = question.scene
        rollouts, cloned = self._rollouts(question, read, rng)
        best, answer = self.world.true_answer(question, rollouts[:read])
        wordings = self.world.wordings(answer)
        answer = wordings[rng.integers(len(wordings))]
        focus = np.zeros(read + 1, bool)
        focus[best or [read]] = True
        places = {state: place for place, state in enumerate(dict.fromkeys(s for r in rollouts for s in r.states))}
        patches, pictures = distinct_patches([scene.frame(s) for s in places], self.world.patch_size)
        return PlayRecord(
            text=question.text,
            answer=answer,
            scripted=len(question.script) > 0,
            grid=scene.grid,
            patches=patches,
            pictures=pictures,
            cloned=cloned,
            focus=focus,
            **_moves(question, rollouts, places, length),
            **self._pairs(scene, rollouts, places, rng),
        )

    def _rollouts(self, question: Question, read: int, rng: np.random.Generator) -> tuple[list[Rollout], np.ndarray]:
        """N rollouts and whether their actions are to be cloned.

        For PREDICT at least one of the first ``read`` follows the question's moves, and only those are cloned.
        """
        model, scene = self.config.model, question.scene
        count, num_actions = model.num_dream_sequences, len(self.world.actions)
        if question.kind is QuestionKind.PLAN:
            played = [random_play(scene, num_actions, model.dream_length, rng) for _ in range(count)]
            return played, np.ones(count, bool)
        follows = rng.random(count) < 0.5
        follows[rng.integers(read)] = True
        moves = [
            question.script if f else random_actions(scene, num_actions, len(question.script), rng) for f in follows
        ]
        return [roll(scene, m) for m in moves], follows

    def _pairs(
        self, scene: Scene, rollouts: Sequence[Rollout], places: dict, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """One (what, result, action) pair per rollout; some with class A, "no single action does this"."""
        count, none = len(rollouts), len(self.world.actions)
        pictures, actions = np.zeros((2, count), np.int32), np.zeros(count, np.int32)
        repaint = np.full((count, 3), NOTHING, np.int32)
        for n, rollout in enumerate(rollouts):
            t = int(rng.integers(len(rollout.actions)))
            what, result, actions[n] = rollout.states[t], rollout.states[t + 1], rollout.actions[t]
            if rng.random() < CORRUPTED_SHARE:
                actions[n] = none
                result, repaint[n] = self._corrupt(scene, what, result, rollouts, rng)
            pictures[:, n] = places[what], places[result]
        return {"pair_pictures": pictures, "pair_actions": actions, "repaint": repaint}

    def _corrupt(self, scene: Scene, what, result, rollouts: Sequence[Rollout], rng: np.random.Generator):
        """What no single action makes of ``what``: (state, repaint), a teleport if one is known, else repainted."""
        near = {scene.step(what, a)[0] for a in range(len(self.world.actions))}
        far = sorted(s for s in dict.fromkeys(s for r in rollouts for s in r.states) if s not in near and s != what)
        if far and rng.random() < TELEPORT_SHARE:
            return far[rng.integers(len(far))], (NOTHING, NOTHING, NOTHING)
        cells = scene.grid[0] * scene.grid[1]
        place = rng.integers(cells)
        if rng.random() < 0.5:
            return result, (place, rng.integers(cells), NOTHING)
        return result, (place, NOTHING, rng.integers(self.config.model.num_codes))


def distinct_patches(frames: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the patches that they are made of.

    Args:
        frames: uint8 (rows * S, columns * S, 3), all of one shape.
        size: S, side of a patch in pixels.

    Returns:
        the distinct patches (K, 3 S S) uint8 and for each frame which of them is where, (U, rows * columns) int32.
    """
    height, width = frames[0].shape[:2]
    tiled = np.stack(frames).reshape(len(frames), height // size, size, width // size, size, 3)
    patches = tiled.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 3 * size * size)
    known: dict[bytes, int] = {}
    indices = [known.setdefault(patch.tobytes(), len(known)) for patch in patches]
    distinct = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    return distinct, np.array(indices, np.int32).reshape(len(frames), -1)


def _moves(question: Question, rollouts: Sequence[Rollout], places: dict, length: int) -> dict[str, np.ndarray]:
    """What was seen, done and believed in each rollout, and whether it did what was asked."""
    count = len(rollouts)
    seen = np.full((count, length + 1), NOTHING, np.int32)
    actions, beliefs = np.zeros((2, count, length), np.int32)
    for n, rollout in enumerate(rollouts):
        steps = len(rollout.actions)
        seen[n, : steps + 1] = [places[state] for state in rollout.states]
        actions[n, :steps] = rollout.actions
        for t in range(steps):
            outcome = rollout.outcome if t == steps - 1 else Outcome.CONTINUE
            beliefs[n, t] = question.belief(outcome, t + 1)
    return {
        "seen": seen,
        "actions": actions,
        "beliefs": beliefs,
        "lengths": np.array([len(r.actions) for r in rollouts], np.int32),
        "succeeded": np.array([_did_as_asked(question, r) for r in rollouts]),
    }


def _did_as_asked(question: Question, rollout: Rollout) -> bool:
    if question.kind is QuestionKind.PLAN:
        return rollout.outcome is Outcome.SUCCESS
    return rollout.actions == question.script
