"""FrozenLake against Gymnasium's own environment, and the verifier against every plan there is."""

import itertools
from collections import Counter

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from envs.questions import stream
from envs.registry import make_world
from envs.world import Outcome, QuestionKind, Split, WorldError, split_of, verify_plan
from envs.worlds.frozen_lake import ACTIONS, NO_PLAN, FrozenLake

WORLD = FrozenLake()
OPEN = ["SFF", "FFF", "FFG"]
MAZE = ["SFF", "FHF", "FFG"]


def board(size, index=0, split=Split.TRAIN, world=WORLD):
    return world.sample_scene(stream(4, size, index), split, size)


def gymnasium_env(desc, patch_size):
    env = FrozenLakeEnv(render_mode="rgb_array", desc=list(desc), is_slippery=False)
    env.cell_size = (patch_size, patch_size)
    env.window_size = (patch_size * len(desc[0]), patch_size * len(desc))
    env.reset(seed=0)
    env.lastaction = None
    return env


@pytest.mark.parametrize("patch_size", [16, 32])
@pytest.mark.parametrize("size", range(2, 9))
def test_frames_are_those_that_gymnasium_renders(size, patch_size):
    world = FrozenLake(patch_size)
    scene = board(size, world=world)
    env = gymnasium_env(scene.desc, patch_size)
    pictures = set()
    for state in range(size * size):
        env.s = state
        assert (env.render() == scene.frame(state)).all()
        pictures.add(scene.frame(state).tobytes())
    env.close()
    assert len(pictures) == size * size
    assert scene.grid == (size, size)


@pytest.mark.parametrize("desc", [["SFFHG"] + ["FFFFF"], ["SF", "HF", "FF", "FG"]])
def test_boards_that_are_not_square(desc):
    scene = WORLD.scene({"desc": desc})
    env = gymnasium_env(desc, 16)
    for state in range(len(desc) * len(desc[0])):
        env.s = state
        assert (env.render() == scene.frame(state)).all()
    env.close()


@pytest.mark.parametrize("size", range(2, 9))
def test_steps_are_gymnasium_transitions(size):
    for index in range(5):
        scene = board(size, index)
        table = FrozenLakeEnv(desc=list(scene.desc), is_slippery=False).P
        letters = "".join(scene.desc)
        for state in range(size * size):
            for action in range(4):
                [(probability, after, reward, done)] = table[state][action]
                found, outcome = scene.step(state, action)
                assert probability == 1 and found == after
                expected = {"G": Outcome.SUCCESS, "H": Outcome.FAILURE}.get(letters[after], Outcome.CONTINUE)
                assert outcome is expected
                if letters[state] in "SF":
                    assert done == (outcome is not Outcome.CONTINUE)
                    assert (reward == 1) == (outcome is Outcome.SUCCESS)


class Walk:
    """FrozenLake's rules written once more, from the letters alone."""

    def __init__(self, desc):
        self.desc = desc

    def find(self, letter):
        return next((r, c) for r, row in enumerate(self.desc) for c, cell in enumerate(row) if cell == letter)

    def move(self, place, action):
        """The cell that ``action`` leads to; the same one at a wall."""
        row, column = place
        row += {"down": 1, "up": -1}.get(ACTIONS[action], 0)
        column += {"right": 1, "left": -1}.get(ACTIONS[action], 0)
        inside = 0 <= row < len(self.desc) and 0 <= column < len(self.desc[0])
        return (row, column) if inside else place

    def distance(self, place):
        """Breadth-first search forwards."""
        reached, steps = {place}, 0
        if self.desc[place[0]][place[1]] == "H":
            return None
        while reached:
            if self.find("G") in reached:
                return steps
            walkable = {p for p in reached if self.desc[p[0]][p[1]] != "H"}
            wider = reached | {self.move(p, a) for p in walkable for a in range(4)}
            if wider == reached:
                return None
            reached, steps = wider, steps + 1
        return None

    def verdict(self, plan):
        """(exact, progress, valid, success) of a plan."""
        place, legal, leading, correct = self.find("S"), True, True, 0
        best = self.distance(place)
        for number, action in enumerate(plan):
            if self.desc[place[0]][place[1]] in "GH":
                legal = False
                break
            after = self.move(place, action)
            legal = legal and after != place and self.desc[after[0]][after[1]] != "H"
            leading = leading and self.distance(after) == best - number - 1
            correct += leading
            place = after
        success = legal and place == self.find("G")
        return success and len(plan) == best, correct / best, legal, success


@pytest.mark.parametrize("size", range(2, 7))
def test_distances_equal_a_forward_search(size):
    dead_ends = 0
    for index in range(6):
        scene = board(size, index)
        walk = Walk(scene.desc)
        for state in range(size * size):
            distance = walk.distance(divmod(state, size))
            assert scene.distance(state) == distance
            dead_ends += distance is None
    assert dead_ends > 0 or size == 2


@pytest.mark.parametrize("desc", [OPEN, MAZE, ["SG", "FF"], ["SFH", "FFG", "HFF"], ["GFS", "HFF"], ["FHG", "SFF"]])
def test_the_verifier_judges_every_plan_right(desc):
    scene, walk = WORLD.scene({"desc": desc}), Walk(desc)
    counts = Counter()
    for length in range(1, 5):
        for plan in itertools.product(range(4), repeat=length):
            found = verify_plan(scene, plan)
            assert (found.exact, found.progress, found.valid, found.success) == walk.verdict(plan)
            counts[found.exact, found.success] += 1
    assert counts[True, True] >= 1
    assert counts[False, False] > counts[False, True]


def test_walls_holes_and_moves_after_the_end_make_a_plan_illegal():
    scene = WORLD.scene({"desc": MAZE})

    def judge(plan):
        verdict = verify_plan(scene, [ACTIONS.index(word) for word in plan.split()])
        return verdict.exact, verdict.progress, verdict.valid, verdict.success

    assert judge("right right down down") == (True, 1, True, True)
    assert judge("down down right right") == (True, 1, True, True)
    assert judge("left right right down down") == (False, 0, False, False)  # a wall
    assert judge("right down down right") == (False, 0.25, False, False)  # a hole
    assert judge("right right down down down") == (False, 1, False, False)  # after the end
    assert judge("right right down") == (False, 0.75, True, False)  # stops short
    assert judge("right left right right down down") == (False, 0.25, True, True)  # a detour


def test_an_answer_is_judged_by_what_it_states():
    rng = stream(0)
    plan = WORLD.ask(WORLD.scene({"desc": MAZE}), QuestionKind.PLAN, rng)
    for text in ("right, right, down, down", "Right then right. down and DOWN", " right right down down\n"):
        assert WORLD.verify(plan, text).exact
    for text in ("", NO_PLAN, "right, right, down, down!", "I go right, right, down, down", "2 2 1 1"):
        verdict = WORLD.verify(plan, text)
        assert (verdict.exact, verdict.progress, verdict.valid, verdict.success) == (False, 0, False, False)
    predict = WORLD.ask(WORLD.scene({"desc": MAZE}), QuestionKind.PREDICT, rng, (2, 1))
    assert "right, down" in predict.text and predict.script == (2, 1)
    truth = "the elf falls into a hole after 2 moves"
    assert WORLD.verify(predict, truth).exact and WORLD.verify(predict, f" {truth}. ").exact
    for text in ("the elf falls into a hole after 3 moves", "the elf is still on the ice", "", f"{truth} or not"):
        assert not WORLD.verify(predict, text).exact


def test_splits_are_disjoint_and_80_10_10():
    scenes = {split: [board(4, i, split) for i in range(150)] for split in Split}
    keys = {split: {scene.key for scene in found} for split, found in scenes.items()}
    for a, b in itertools.combinations(Split, 2):
        assert not keys[a] & keys[b]
    for split, found in scenes.items():
        assert {split_of("/".join(scene.desc)) for scene in found} == {split}
        assert len(keys[split]) > 140
    rng = np.random.default_rng(0)
    texts = {"".join(rng.choice(list("FH"), 16)) for _ in range(6000)}
    shares = Counter(split_of(text) for text in texts)
    assert shares[Split.TRAIN] / len(texts) == pytest.approx(0.8, abs=0.02)
    assert shares[Split.VALIDATION] / len(texts) == pytest.approx(0.1, abs=0.015)
    assert shares[Split.TEST] / len(texts) == pytest.approx(0.1, abs=0.015)


def test_the_splits_of_the_smallest_boards_are_known():
    """Held-out numbers can only be compared if the hash never changes."""
    found = Counter()
    for cells in itertools.product("FHSG", repeat=4):
        text = "".join(cells)
        if text.count("S") == text.count("G") == 1:
            found[split_of(f"{text[:2]}/{text[2:]}")] += 1
    assert sum(found.values()) == 4 * 3 * 4
    assert split_of("SG/FF") is split_of("SG/FF") and set(found) == set(Split)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_sampled_boards_are_solvable_varied_and_reproducible(size):
    scenes = [board(size, index) for index in range(40)]
    assert [s.desc for s in scenes] == [board(size, index).desc for index in range(40)]
    for scene in scenes:
        letters = Counter("".join(scene.desc))
        assert letters["S"] == letters["G"] == 1 and letters.total() == size * size
        assert Walk(scene.desc).distance(divmod(scene.start, size)) == scene.distance(scene.start) > 0
    assert len({scene.start for scene in scenes}) > size
    holes = np.mean(["".join(scene.desc).count("H") / (size * size - 2) for scene in scenes])
    assert 0.05 < holes < 0.3  # about a fifth, less because unsolvable boards are left out


@pytest.mark.parametrize("size", [1, 0, 9, -3])
def test_sizes_that_do_not_exist(size):
    with pytest.raises(WorldError, match=rf"size \({size}\) must be between 2 and 8"):
        WORLD.sample_scene(stream(0), Split.TRAIN, size)


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, '"desc" is missing'),
        ({"dsec": OPEN}, 'unknown option "dsec"'),
        ({"desc": OPEN, "is_slippery": True}, 'unknown option "is_slippery"'),
        ({"desc": "SFG"}, "must be a list of strings"),
        ({"desc": None}, "must be a list of strings"),
        ({"desc": []}, "must be a list of strings"),
        ({"desc": [1, 2]}, "must be a list of strings"),
        ({"desc": [["S", "F"], ["F", "G"]]}, "must be a list of strings"),
        ({"desc": {"SF": 1}}, "must be a list of strings"),
        ({"desc": ["SFF", "FF", "FFG"]}, "row 1 has 3 cells, row 2 has 2"),
        ({"desc": ["SG"]}, "board is 1x2; both sides must be between 2 and 8"),
        ({"desc": ["", ""]}, "board is 2x0"),
        ({"desc": ["SFFFFFFFG"] * 9}, "board is 9x9"),
        ({"desc": ["SFX", "FFG"]}, 'unknown letter "X"'),
        ({"desc": ["sff", "FFG"]}, 'unknown letter "f"'),
        ({"desc": ["S\nF", "FFG"]}, "unknown letter"),
        ({"desc": ["FF", "FG"]}, "board has 0 S \\(start\\)"),
        ({"desc": ["SS", "FG"]}, "board has 2 S \\(start\\)"),
        ({"desc": ["SF", "FF"]}, "board has 0 G \\(goal\\)"),
        ({"desc": ["SG", "GG"]}, "board has 3 G \\(goal\\)"),
        ({"desc": ["SH", "HG"]}, "no path from S to G"),
    ],
)
def test_a_bad_board_is_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


def test_a_world_that_does_not_exist_or_is_too_small():
    with pytest.raises(WorldError, match='unknown world "frozenlake"; did you mean "frozen_lake"'):
        make_world("frozenlake")
    with pytest.raises(WorldError, match=r"patch_size \(7\) must be >= 8"):
        FrozenLake(7)
