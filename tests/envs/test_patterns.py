"""Patterns against the package's own data sets, its scores and re-arc's own solvers."""

import itertools
import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from reasoning_gym.algorithmic.game_of_life import GameOfLifeConfig, GameOfLifeDataset
from reasoning_gym.algorithmic.rotate_matrix import RotateMatrixConfig, RotateMatrixDataset
from reasoning_gym.arc.rearc import ReArcConfig, ReArcDataset
from reasoning_gym.arc.rearc_utils import verifiers

from envs.questions import stream
from envs.world import Outcome, PictureScene, QuestionKind, Split, WorldError, roll, split_of
from envs.worlds.patterns import TEXTS, TOPICS, Patterns, content, fill, grid_text, parse_grid
from envs.worlds.patterns_rules import RULES, draw_rule, is_clear

WORLD = Patterns()


def sampled(index, split=Split.TRAIN, world=WORLD, length=8):
    rng = stream(8, index)
    scene = world.sample_scene(rng, split, 3 + index % 2)
    return scene, world.draw(scene, True, length, rng)


def rows(grid):
    return ["".join(map(str, row)) for row in grid]


def near_misses(grid):
    """Grids with one cell changed, a row lost or doubled, and turned over."""
    for r, c in itertools.product(range(len(grid)), range(len(grid[0]))):
        wrong = [list(row) for row in grid]
        wrong[r][c] = 1 - wrong[r][c] if wrong[r][c] < 2 else 0
        yield wrong
    yield from ([list(row) for row in grid[:-1]], [list(row) for row in (*grid, grid[0])])


def test_turns_and_their_scores_are_the_packages():
    turns = Counter()
    for seed in range(60):
        config = RotateMatrixConfig(min_n=2, max_n=4, min_rotations=1, max_rotations=6, seed=seed, size=1)
        package = RotateMatrixDataset(config)
        entry = package[0]
        scene = WORLD.scene({"topic": "rotate", "grid": rows(entry["metadata"]["matrix"])})
        times = entry["metadata"]["num_rotations"]
        question = WORLD.interpret(fill(TEXTS["rotate"][seed % 3], times), scene)
        assert WORLD.verify(question, entry["answer"]).exact
        assert parse_grid(entry["answer"]) == tuple(map(tuple, entry["metadata"]["solution"]))
        for wrong in near_misses(entry["metadata"]["solution"]):
            text = "\n".join(" ".join(map(str, row)) for row in wrong)
            assert WORLD.verify(question, text).exact == (package.score_answer(text, entry) == 1)
        turns[times] += 1
    assert set(turns) == set(range(1, 7))


def test_life_and_its_scores_are_the_packages():
    for seed, steps in itertools.product(range(12), (1, 2, 3, 5)):
        config = GameOfLifeConfig(
            grid_size_x=4, grid_size_y=4, filled_cells=8, simulation_steps=steps, seed=seed, size=1
        )
        package = GameOfLifeDataset(config)
        entry = package[0]
        board = re.search(r"\[\[.*\]\]", entry["question"].split("\n\n")[1], re.DOTALL).group().replace("\n", "")
        scene = WORLD.scene({"topic": "life", "grid": rows(json.loads(board))})
        question = WORLD.interpret(fill(TEXTS["life"][seed % 3], steps), scene)
        truth = json.loads(entry["answer"])
        assert WORLD.verify(question, entry["answer"]).exact
        for wrong in (truth, *near_misses(truth)):
            if len(wrong) <= len(truth):  # the package overlooks rows too many
                text = json.dumps(wrong)
                assert WORLD.verify(question, text).exact == (package.score_answer(text, entry) == 1)


def test_life_on_boards_that_are_not_square():
    """A live column of a board of 3 rows with joined edges: its cells have 2 live neighbours, those beside it 3."""
    scene = WORLD.scene({"topic": "life", "grid": ["0100"] * 3})
    assert grid_text(scene.step((), 1)[0]) == "1110/1110/1110"


def test_rules_their_answers_and_their_scores_are_re_arcs():
    package, tasks = ReArcDataset(ReArcConfig(seed=0, size=1)), set()
    for index in range(150):
        pairs, task = draw_rule(stream(9, index))
        solve = getattr(verifiers, f"verify_{task}")
        assert all(solve(before) == after for before, after in pairs)
        scene = WORLD.scene({"topic": "rule", "pairs": [[rows(a), rows(b)] for a, b in pairs]})
        question = WORLD.interpret(TEXTS["rule"][index % 3], scene)
        answer = pairs[-1][1]
        for grid in (answer, *near_misses(answer)):
            text = "\n".join(" ".join(map(str, row)) for row in grid)
            score = package.score_answer(text, {"metadata": {"output": answer}})
            assert WORLD.verify(question, text).exact == (score == 1) == (tuple(map(tuple, grid)) == answer)
        assert max(len(side) for pair in pairs for grid in pair for side in (grid, grid[0])) <= 3
        tasks.add(task)
    assert len(tasks) > 20 and tasks <= set(RULES)


def agrees(task, pairs):
    """Whether a rule explains ``pairs``; verifiers fail in all ways on what is not theirs."""
    try:
        return all(getattr(verifiers, f"verify_{task}")(before) == after for before, after in pairs)
    except Exception:
        return False


def test_no_other_rule_explains_the_examples_and_gives_another_answer():
    rivals = 0
    for index in range(60):
        pairs, _ = draw_rule(stream(9, index))
        assert pairs[0] != pairs[1] and pairs[2][0] not in (pairs[0][0], pairs[1][0])
        explain = [task for task in RULES if agrees(task, pairs[:2])]
        assert explain and all(agrees(task, pairs) for task in explain)
        rivals += len(explain) > 1
    assert rivals > 0
    mirror = ((1, 2), (1, 2)), ((2, 1), (2, 1))  # half a turn explains it as well
    other = ((3, 4), (3, 4)), ((4, 3), (4, 3))
    last = ((1, 2), (3, 4)), ((2, 1), (4, 3))
    assert agrees("67a3c6ac", [mirror, other, last]) and not is_clear("67a3c6ac", [mirror, other], last)


def test_the_picture_says_what_is_asked_and_what_came_out():
    names = {}
    for digit in "0123456789":
        scene = WORLD.scene({"topic": "rotate", "grid": [digit * 2] * 2})
        names[scene.frame(())[:16, :16].tobytes()] = digit
    for index in range(60):
        scene, question = sampled(index)
        if scene.topic == "rule":
            continue
        rollout = roll(scene, question.script)
        for state in rollout.states:
            frame, side = scene.frame(state), scene.grid[0]
            cells = [[names.get(frame[r : r + 16, c : c + 16].tobytes(), ".") for c in range(0, frame.shape[1], 16)]
                     for r in range(0, frame.shape[0], 16)]  # fmt: skip
            assert ["".join(row[:side]) for row in cells] == rows(scene.given)
            assert ["".join(row[side + 1 :]) for row in cells] == (["." * side] * side if not state else rows(state))
        assert WORLD.tell(question, rollout) == "/".join("".join(row[side + 1 :]) for row in cells)


def test_a_rule_shows_its_answer_and_changes_nothing_else():
    for index in range(60):
        scene, question = sampled(index)
        if scene.topic != "rule":
            continue
        before, after = scene.frame(()), scene.frame(roll(scene, question.script).states[-1])
        assert before.shape == after.shape == (7 * 16, 9 * 16, 3)
        changed = (before != after).any(-1)
        assert changed[4 * 16 :, 6 * 16 :].any() and not changed[: 4 * 16].any() and not changed[:, : 6 * 16].any()
        done = WORLD.scene({"topic": "rule", "pairs": [[rows(a), rows(b)] for a, b in [scene.pairs[-1]] * 3]})
        shown = done.frame(())[4 * 16 :, 3 * 16 : 6 * 16]  # the same grid as the output of an example
        assert (shown == after[4 * 16 :, 6 * 16 :]).all()


def test_only_the_scenes_own_action_does_something():
    for index in range(30):
        scene, question = sampled(index)
        own = TOPICS.index(scene.topic)
        assert scene.legal == (own,) and set(question.script) == {own} and question.kind is QuestionKind.PREDICT
        for action in {0, 1, 2} - {own}:
            assert scene.step((), action) == ((), Outcome.CONTINUE)
        rollout = roll(scene, question.script)
        assert question.belief(rollout.outcome, len(question.script)) is Outcome.STOP
        assert len(question.script) <= (1 if scene.topic == "rule" else 3)
    assert all(len(sampled(index, length=1)[1].script) == 1 for index in range(20))


@pytest.mark.parametrize("size", [8, 16, 32])
def test_few_different_patches_in_many_frames(size):
    world, patches = Patterns(size), set()
    for index in range(120):
        scene, question = sampled(index, world=world)
        for state in roll(scene, question.script).states:
            frame = scene.frame(state)
            high, wide = scene.grid
            assert frame.shape == (high * size, wide * size, 3) and frame.dtype == np.uint8
            assert high <= world.grid_at(3)[0] and wide <= world.grid_at(3)[1] and high * wide <= 64
            patches |= {p.tobytes() for row in np.split(frame, high) for p in np.split(row, wide, axis=1)}
    assert 20 < len(patches) < 40


def test_splits_are_disjoint_and_scenes_reproducible():
    keys = {}
    for split in Split:
        scenes = [sampled(index, split)[0] for index in range(80)]
        assert {split_of(content(s.topic, s.pairs, s.given)) for s in scenes} == {split}
        assert {s.topic for s in scenes} == set(TOPICS)
        keys[split] = {s.key for s in scenes}
        assert len(keys[split]) == 80
        assert [s.key for s in scenes] == [sampled(index, split)[0].key for index in range(80)]
    assert not any(keys[a] & keys[b] for a, b in itertools.combinations(Split, 2))


def test_no_constant_answer_is_right_often():
    answers = defaultdict(Counter)
    for index in range(600):
        scene, question = sampled(index)
        answer = WORLD.tell(question, roll(scene, question.script))
        assert WORLD.verify(question, answer).exact and len(answer) <= 19
        answers[scene.topic][answer] += 1
    assert set(answers) == set(TOPICS)
    assert all(max(found.values()) < 0.05 * found.total() for found in answers.values())


def test_boards_go_on_living_and_grids_show_their_turns():
    for index in range(1, 80, 2):
        scene, _ = sampled(index)
        states = [scene.given, *roll(scene, scene.legal * 3).states[1:]]
        if scene.topic == "life":
            assert len(set(states)) == 4 and all(any(map(any, board)) for board in states)
        if scene.topic == "rotate":
            assert len(set(states)) == 4


@pytest.mark.parametrize(
    "answer, grid",
    [
        ("01/23", ((0, 1), (2, 3))),
        (" 0 1 / 2 3. ", ((0, 1), (2, 3))),
        ("0 1\n2 3\n", ((0, 1), (2, 3))),
        ("[[0, 1], [2, 3]]", ((0, 1), (2, 3))),
        ("0,1/2,3", ((0, 1), (2, 3))),
        ("7", ((7,),)),
        ("", None),
        ("0a/12", None),
        ("01/", None),
        ("the grid is 01/23", None),
        ("٣", None),
    ],
)
def test_how_a_grid_may_be_written(answer, grid):
    assert parse_grid(answer) == grid


def test_questions_are_understood():
    corpus, seen = set(WORLD.corpus()), set()
    for index in range(300):
        scene, question = sampled(index)
        assert WORLD.interpret(question.text, scene) == question
        assert question.text in corpus
        seen.add(question.text)
        others = [fill(TEXTS[topic][0], 1) for topic in TOPICS if topic != scene.topic]
        assert all(WORLD.interpret(text, scene) is None for text in others)
    assert len(seen) == 3 * 3 + 3 * 3 + 3
    picture = PictureScene(scene.frame(()), 16)
    assert WORLD.interpret("READ the board after 8 steps of  life.", picture).script == (1,) * 8
    for text in ("", "turn", "Read the board after 9 steps of life.", "Turn the grid 45 degrees clockwise.", "apply"):
        assert WORLD.interpret(text, picture) is None


def test_only_questions_that_make_sense_are_asked():
    scene = WORLD.scene({"topic": "rotate", "grid": ["01", "23"]})
    assert WORLD.ask(scene, QuestionKind.PREDICT, stream(0), (0,) * 8).script == (0,) * 8
    for script in ((), (1,), (0, 1), (0,) * 9):
        with pytest.raises(WorldError, match='a rotate scene is asked about 1 to 8 times "turn"'):
            WORLD.ask(scene, QuestionKind.PREDICT, stream(0), script)


PAIR = [["01", "11"], ["10", "11"]]


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, '"topic" must be one of rotate, life, rule, got None'),
        ({"topic": "mirror"}, "must be one of rotate, life, rule, got 'mirror'"),
        ({"topic": "life"}, '"grid" is missing; topic "life" needs it'),
        ({"topic": "rule", "grid": ["01", "11"]}, 'unknown option "grid"; topic "rule" takes "pairs"'),
        ({"topic": "life", "grid": ["000"] * 3, "steps": 2}, 'unknown option "steps"'),
        ({"topic": "life", "grid": ["0120", "0000", "0000"]}, '"grid" has "2"; the cells of topic life are 01'),
        ({"topic": "life", "grid": ["00", "00"]}, "is 2x2; both sides must be between 3 and 4"),
        ({"topic": "rotate", "grid": ["01234"] * 5}, "is 5x5; both sides must be between 2 and 4"),
        ({"topic": "rotate", "grid": ["012", "345"]}, "is 2x3; a grid to turn must be square"),
        ({"topic": "rotate", "grid": ["012", "34", "678"]}, "row 1 has 3 cells, row 2 has 2"),
        ({"topic": "rotate", "grid": ["0a", "11"]}, 'has "a"'),
        ({"topic": "rotate", "grid": "0123"}, "must be a list of rows"),
        ({"topic": "rotate", "grid": [[0, 1], [2, 3]]}, "must be a list of rows"),
        ({"topic": "rule", "pairs": [PAIR, PAIR]}, "must be a list of 3 pairs"),
        ({"topic": "rule", "pairs": [PAIR, PAIR, ["01"]]}, "pair 3 must be a list of 2 grids"),
        ({"topic": "rule", "pairs": [PAIR, PAIR, [["01"], ["0123"]]]}, "the output of pair 3 is 1x4"),
        ({"topic": "rule", "pairs": [PAIR, [["01"], "1"], PAIR]}, "the output of pair 2 must be a list of rows"),
    ],
)
def test_a_bad_scene_is_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_no_scene_is_larger_than_its_size_says(size):
    grids = {WORLD.sample_scene(stream(6, i), Split.TRAIN, size).grid for i in range(60)}
    rows, columns = WORLD.grid_at(size)
    assert (max(r for r, _ in grids), max(c for _, c in grids)) == (rows, columns)


def test_sizes_that_do_not_exist():
    for size in (1, 5):
        with pytest.raises(WorldError, match=rf"size \({size}\) must be between 2 and 4"):
            WORLD.sample_scene(stream(0), Split.TRAIN, size)
    with pytest.raises(WorldError, match=r"patch_size \(7\) must be >= 8"):
        Patterns(7)
