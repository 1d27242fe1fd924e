"""Questions on known boards whose dreams are steered by hand: what the tests of the decision process share."""

import numpy as np

from dreamrl.nn.codec import FrameCodes
from envs.reasoning_batch import ReasoningBatch
from envs.world import Outcome, Question, QuestionKind
from envs.worlds.frozen_lake import FrozenLake

LEFT, DOWN, RIGHT, UP = range(4)
CONTINUE, SUCCESS, FAILURE, STOP = Outcome
MAZE = ["SFF", "FHF", "FFG"]
PROBS = np.array([0.1, 0.2, 0.4, 0.1, 0.2])
COHERENT = PROBS / 0.4
"""Of the actions left, down, right, up by :class:`TileJudge`."""


class TileJudge:
    """Stands in for the frozen judge: one code a tile, and the same opinion on every pair of pictures."""

    def __init__(self, codec):
        self.codes = FrameCodes(codec)

    def action_probs(self, what, result, grid):
        return np.tile(PROBS, (len(what), 1))


def plan(desc=MAZE):
    return Question(kind=QuestionKind.PLAN, text="Find the way to the gift.", scene=FrozenLake().scene({"desc": desc}))


def predict(script, desc=MAZE):
    return Question(
        kind=QuestionKind.PREDICT, text="What happens?", scene=FrozenLake().scene({"desc": desc}), script=script
    )


class Play:
    """A batch of one question, whose dreams are steered by hand; ``run`` replaces the settings."""

    def __init__(self, loaded, codec, question, dreams, run=None):
        self.batch = ReasoningBatch(run or loaded.run, loaded.world, loaded.text, TileJudge(codec), dreams)
        self.text, self.question = loaded.text, question
        self.batch.make_room([question])
        self.batch.reset([question])
        self.states = [question.scene.start] * dreams
        self.size = question.scene.grid[0] * question.scene.grid[1]

    def truth(self, dream, action):
        """Codes and belief that a perfect dream imagines for ``action``; the state moves on."""
        scene = self.question.scene
        self.states[dream], outcome = scene.step(self.states[dream], action)
        codes = self.batch.judge.codes(scene, self.states[dream])
        return codes, self.question.belief(outcome, int(self.batch.step_index[0]) + 1)

    def step(self, *dreams):
        """One step: for each dream (action, codes or None for the true ones, belief or None for the true one)."""
        shape = (1, len(dreams))
        action = {
            "action": np.zeros(shape, int),
            "belief": np.zeros(shape, int),
            "result": np.full((*shape, self.batch.num_patches), self.batch.config.model.num_codes),
        }
        for n, (move, codes, belief) in enumerate(dreams):
            true_codes, true_belief = self.truth(n, move)
            action["action"][0, n] = move
            action["result"][0, n, : self.size] = true_codes if codes is None else codes
            action["belief"][0, n] = true_belief if belief is None else belief
        return self.batch.step(action)[0][0]

    def perfect(self, *moves):
        """Steps in which every dream shows the truth; a tuple of moves for each step."""
        return np.array([self.step(*((move, None, None) for move in step)) for step in moves])

    def answer(self, text):
        return self.batch.step({"tokens": self.text.encode(text, 12, end=True)[None]})[1][0]
