"""Records of random play: complete without a model, and every word of them true."""

import dataclasses

import numpy as np
import pytest

from dreamrl.nn.codec import from_patches, to_patches
from dreamrl.records import NOTHING, PlayDrawer, distinct_patches
from dreamrl.settings import load_settings
from envs.registry import world_of
from envs.world import Outcome, QuestionKind, Split, roll
from envs.worlds.frozen_lake import FrozenLake, tileset


class WatchedLake(FrozenLake):
    """FrozenLake that keeps the questions that it was asked to answer."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def true_answer(self, question, rollouts):
        self.asked.append(question)
        return super().true_answer(question, rollouts)


def drawer_of(*overrides, seed=3, world=None, split=Split.TRAIN):
    run = load_settings("nano", None, overrides, seed)
    return PlayDrawer(run, world or world_of(run), split)


def same(a, b):
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


@pytest.mark.parametrize(
    "overrides",
    [
        ["world.sizes=2,5"],
        ["world.worlds=[frozen_lake@3-4,minigrid*2]"],
        ["world.name=temporal"],
        ["world.name=patterns"],
    ],
)
def test_a_record_depends_on_its_number_alone(overrides):
    drawer, other = drawer_of(*overrides), drawer_of(*overrides)
    later = [other.draw(7, i, 3) for i in range(3)]  # what was drawn before plays no part
    assert len(later) == 3
    for number in range(6):
        assert same(drawer.draw(2, number, 2), other.draw(2, number, 2))
    assert not same(drawer.draw(2, 0, 2), drawer.draw(2, 1, 2))
    assert not same(drawer.draw(2, 0, 2), drawer.draw(3, 0, 2))
    assert not same(drawer.draw(2, 0, 2), drawer.draw(2, 0, 2, key=5))


def test_pictures_moves_and_beliefs_are_what_the_simulator_does():
    drawer = drawer_of("pretrain.predict_share=0.5", world=WatchedLake())
    for number in range(40):
        record = drawer.draw(0, number, 4)
        question = drawer.world.asked[-1]
        scene = question.scene
        assert (record.text, record.grid) == (question.text, scene.grid)
        assert record.scripted == (question.kind is QuestionKind.PREDICT)
        for n, steps in enumerate(record.lengths):
            rollout = roll(scene, record.actions[n, :steps].tolist())
            assert len(rollout.actions) == steps
            for t, state in enumerate(rollout.states):
                shown = from_patches(record.patches[record.pictures[record.seen[n, t]]], record.grid, 16)
                assert (shown == scene.frame(state)).all()
            assert (record.seen[n, steps + 1 :] == NOTHING).all()
            last = question.belief(rollout.outcome, int(steps))
            assert record.beliefs[n, :steps].tolist() == [Outcome.CONTINUE] * (int(steps) - 1) + [last]
            followed, arrived = rollout.actions == question.script, rollout.outcome is Outcome.SUCCESS
            assert record.succeeded[n] == (followed if record.scripted else arrived)


def test_pairs_show_a_true_move_or_what_no_move_does():
    drawer = drawer_of(world=WatchedLake())
    kinds = {"move": 0, "teleport": 0, "repaint": 0}
    for number in range(150):
        record = drawer.draw(0, number, 4)
        scene = drawer.world.asked[-1].scene
        frames = [from_patches(record.patches[p], record.grid, 16).tobytes() for p in record.pictures]
        state_of = {scene.frame(s).tobytes(): s for s in range(len(scene.next))}
        for before, after, action, (place, source, code) in zip(
            *record.pair_pictures, record.pair_actions, record.repaint, strict=True
        ):
            what, result = state_of[frames[before]], state_of[frames[after]]
            reachable = [scene.step(what, a)[0] for a in range(4)]
            if action < 4:
                kinds["move"] += 1
                assert reachable[action] == result and place == NOTHING
            elif place == NOTHING:
                kinds["teleport"] += 1
                assert result not in reachable and result != what
            else:
                kinds["repaint"] += 1
                assert 0 <= place < len(scene.next) and (source == NOTHING) != (code == NOTHING)
    assert min(kinds.values()) > 10, kinds


def test_the_answer_rests_on_the_rollouts_that_are_read():
    drawer = drawer_of()
    for number in range(20):
        record = drawer.draw(0, number, 2)
        assert record.focus.shape == (3,) and record.focus.any()


def test_all_rollouts_are_read_in_half_of_the_batches():
    drawer = drawer_of()
    read = [drawer.dreams_to_read(index, 32) for index in range(300)]
    assert set(read) == {1, 2, 3, 4}
    assert 0.55 < np.mean(np.array(read) == 4) < 0.72  # 1/2 + 1/2 * 1/4


def test_distinct_patches_are_the_pictures_and_none_twice():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    frames = [np.concatenate([np.concatenate([tiles[i] for i in row], 1) for row in rows]) for rows in
              (((0, 1, 1), (2, 0, 0)), ((1, 1, 1), (1, 1, 2)))]  # fmt: skip
    patches, pictures = distinct_patches(frames, 4)
    assert pictures.tolist() == [[0, 1, 1, 2, 0, 0], [1, 1, 1, 1, 1, 2]]
    assert (patches == tiles.reshape(3, -1)).all()
    for frame, picture in zip(frames, pictures, strict=True):
        assert (patches[picture] == to_patches(frame, 4)).all()


def test_patches_for_the_codec_are_distinct_and_the_same_everywhere():
    patches = drawer_of("world.sizes=3,4").patches(8)
    tiles = {tile.tobytes() for tile in tileset(16).reshape(-1, 16 * 16 * 3)}
    assert {patch.tobytes() for patch in patches} <= tiles
    assert len(patches) == len(np.unique(patches, axis=0)) >= 5
    assert (patches == drawer_of("world.sizes=3,4").patches(8)).all()
