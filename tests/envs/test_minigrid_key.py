"""Keys and doors against the simulator, and counterfactuals against a simulator without keys."""

import itertools
import re
from collections import Counter, deque

import numpy as np
import pytest
from minigrid_reference import Room, name_of, seen_in

from dreamrl.nn.codec import to_patches
from envs.questions import stream
from envs.world import Outcome, QuestionKind, Split, WorldError, random_play, roll
from envs.worlds.minigrid_key import HAPPENS, OPENS, MiniGridKey
from envs.worlds.minigrid_key_scene import NOTHING, REMOVE_KEYS
from envs.worlds.minigrid_rules import NAMES

WORLD = MiniGridKey()
LOCKED = {
    "size": 5,
    "agent": [1, 2, "up"],
    "objects": {"locked red door": [2, 2], "goal": [3, 3], "red key": [1, 1], "blue key": [1, 3]},
}
PLAN = "pick up, turn right, toggle, forward, forward, turn right, forward"


def room(size=5, index=0, split=Split.TRAIN, world=WORLD):
    return world.sample_scene(stream(15, size, index), split, size)


def told(options, text):
    question = WORLD.interpret(text, WORLD.scene(options))
    return question.topic, WORLD.tell(question, roll(question.scene, question.script))


@pytest.mark.parametrize("index", range(20))
def test_every_step_is_that_of_the_simulator(index):
    scene = room(5 + index % 3, index)
    env, state = Room(scene.start, scene.size), scene.start
    for action in stream(3, index).integers(5, size=60).tolist():
        ended = env.do(WORLD.actions[action])
        state, outcome = scene.step(state, action)
        assert env.seen() == seen_in(state)
        assert ended == (outcome is Outcome.SUCCESS)
        if ended:
            break


def test_without_keys_is_a_simulator_without_keys():
    for index in range(30):
        scene = room(5, index)
        bare = scene.step(scene.start, REMOVE_KEYS)[0]
        assert not [code for code in (*bare.cells, bare.carrying) if NAMES[code].endswith("key")]
        env, state = Room(scene.start, 5), bare
        env.carrying = None
        for place, cell in enumerate(env.grid.grid):
            if cell is not None and cell.type == "key":
                env.grid.grid[place] = None
        for action in stream(4, index).integers(5, size=15).tolist():
            env.do(WORLD.actions[action])
            state, _ = scene.step(state, action)
            assert env.seen() == seen_in(state)


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("size", [5, 7])
def test_a_frame_is_what_minigrid_renders_above_what_is_carried(size, patch_size):
    world, carried = MiniGridKey(patch_size), set()
    for index in range(4):
        scene = room(size, index, world=world)
        assert scene.grid == world.grid_at(size) == (size + 1, size)
        for state in random_play(scene, 6, 8, stream(5, index)).states:
            frame = scene.frame(state)
            assert (frame[: size * patch_size] == Room(state, size).picture(patch_size)).all()
            below = frame[size * patch_size :]
            assert below[:, :patch_size].any() == (state.carrying != NOTHING)
            assert not below[:, patch_size:].any()
            carried.add(state.carrying)
    assert len(carried) > 1


def search(scene):
    """Fewest actions to the goal, by the real simulator alone."""
    seen, queue = {seen_key(scene.start)}, deque([(scene.start, 0)])
    while queue:
        state, steps = queue.popleft()
        for action in range(5):
            env = Room(state, scene.size)
            if env.do(WORLD.actions[action]):
                return steps + 1
            x, y, direction, carrying, cells = env.seen()
            after = state._replace(
                x=x, y=y, direction=direction, carrying=NAMES.index(carrying), cells=bytes(map(NAMES.index, cells))
            )
            if seen_key(after) not in seen:
                seen.add(seen_key(after))
                queue.append((after, steps + 1))
    return None


def seen_key(state):
    return seen_in(state)[:4] + (state.cells,)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_distances_equal_a_search_in_the_simulator(index):
    scene = room(5, index)
    assert scene.distance(scene.start) == search(scene)


def test_distances_fall_by_one_along_the_best_way():
    for index in range(10):
        scene = room(6, index)
        for state in random_play(scene, 6, 8, stream(2, index)).states:
            distance = scene.distance(state)
            after = [scene.distance(scene.step(state, a)[0]) for a in range(6)]
            if distance is None:
                assert set(after) == {None}
            elif distance > 0:
                assert min(d for d in after if d is not None) == distance - 1


def test_a_plan_needs_the_key():
    question = WORLD.interpret("How does the agent get to the goal?", WORLD.scene(LOCKED))
    assert question.kind is QuestionKind.PLAN and search(question.scene) == 7
    assert WORLD.verify(question, PLAN).exact
    assert not WORLD.verify(question, PLAN.removeprefix("pick up, ")).success
    wrong = "turn left, turn left, pick up, turn left, toggle, forward, forward, turn right, forward"
    assert not WORLD.verify(question, wrong).success  # the blue key
    assert WORLD.verify(question, f"turn left, turn right, {PLAN}").success


CLOSED = LOCKED | {"objects": {"closed red door": [2, 2], "goal": [3, 3], "red key": [1, 1]}}
OTHER = LOCKED | {"objects": {"locked red door": [2, 2], "goal": [3, 3]}, "carrying": "blue key"}


@pytest.mark.parametrize(
    "options, text, topic, truth",
    [
        (LOCKED, "What happens after pick up?", "happens", "the agent takes a key"),
        (LOCKED, "What happens after pick up, turn right, toggle?", "happens", "the door opens"),
        (LOCKED, "What happens after turn right, toggle?", "happens", "the door stays shut"),
        (LOCKED, f"What happens after {PLAN}?", "happens", "the agent reaches the goal"),
        (OTHER, "The agent does turn right, toggle. What happens?", "happens", "the door stays shut"),
        (LOCKED, "Is the door open after pick up, turn right, toggle?", "opens", "yes, it is open"),
        (OTHER, "Is the door open after turn right, toggle?", "opens", "no, it is shut"),
        (CLOSED, "Is the door open after turn right, toggle?", "opens", "yes, it is open"),
        (CLOSED, "Is the door open after turn right, toggle, toggle?", "opens", "no, it is shut"),
        (LOCKED, "Would the door be open without keys after pick up, turn right, toggle?", "without", "no, it is shut"),
        (CLOSED, "Would the door be open without keys after turn right, toggle?", "without", "yes, it is open"),
        (CLOSED, "If there were no key, would turn right, toggle open the door?", "without", "yes, it is open"),
    ],
)
def test_what_follows_and_what_would(options, text, topic, truth):
    assert told(options, text) == (topic, truth)


def questions(count, predict=True):
    return [WORLD.draw(room(5, i), predict, 8, stream(6, i)) for i in range(count)]


def test_what_is_asked_is_what_is_understood_and_verified():
    for index, asked in enumerate(questions(200)):
        found = WORLD.interpret(asked.text, room(5, index))
        assert (found.kind, found.script, found.topic) == (asked.kind, asked.script, asked.topic)
        assert found.scene.key == asked.scene.key and 1 <= len(asked.script) <= 6
        truth = WORLD.tell(asked, roll(asked.scene, asked.script))
        assert [a for a in (*HAPPENS, *OPENS) if WORLD.verify(asked, a).exact] == [truth]
        assert roll(asked.scene, asked.script).actions == asked.script
        assert (asked.script[0] == REMOVE_KEYS) == (asked.topic == "without")
    for index, asked in enumerate(questions(50, False)):
        found = WORLD.interpret(asked.text, room(5, index))
        assert (found.kind, found.scene.key) == (QuestionKind.PLAN, asked.scene.key)
        assert 3 <= asked.scene.distance(asked.scene.start) <= 8


def test_a_counterfactual_is_about_moves_that_do_open_the_door():
    found = [q for q in questions(150) if q.topic == "without"]
    assert len(found) > 30
    for question in found:
        env = Room(question.scene.start, 5)
        for action in question.script[1:]:
            env.do(WORLD.actions[action])
        assert any(name_of(cell).startswith("open") for cell in env.grid.grid)


def test_answers_are_balanced():
    said = {topic: Counter() for topic in ("happens", "opens", "without")}
    for question in questions(900):
        said[question.topic][WORLD.tell(question, roll(question.scene, question.script))] += 1
    assert max(said["happens"].values()) / said["happens"].total() < 0.4
    for topic in ("opens", "without"):
        assert max(said[topic].values()) / said[topic].total() < 0.58


def test_frames_are_made_of_few_patches():
    seen = set()
    for index in range(200):
        scene = room(5 + index % 3, index)
        for state in random_play(scene, 6, 8, stream(5, index)).states:
            seen |= {patch.tobytes() for patch in to_patches(scene.frame(state), 16)}
    assert 25 <= len(seen) <= 60


def test_splits_are_disjoint_and_scenes_reproducible():
    found = {split: [room(5, i, split).key for i in range(40)] for split in Split}
    for a, b in itertools.combinations(Split, 2):
        assert not set(found[a]) & set(found[b])
    assert found[Split.TEST] == [room(5, i, Split.TEST).key for i in range(40)]
    assert WORLD.scene(LOCKED).key == "3363dc17d85d52906c65cd6f7ac3d903"


def test_all_words_are_in_the_corpus():
    words = set(re.findall(r"\w+", " ".join(WORLD.corpus()).lower()))
    for question in questions(60):
        said = question.text + " " + WORLD.tell(question, roll(question.scene, question.script))
        assert set(re.findall(r"\w+", said.lower())) <= words


@pytest.mark.parametrize("text", ["", "Who are you?", "Is the door red?", "goal", "日本"])
def test_free_text_that_asks_nothing(text):
    assert WORLD.interpret(text, WORLD.scene(LOCKED)) is None


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"size": 8}, "from 5 to 7"),
        ({"door": "red"}, 'unknown option "door"'),
        ({"objects": {"goal": [3, 3]}}, '"objects" has 0 of "door"'),
        ({"objects": {"open red door": [2, 2]}}, '"objects" has 0 of "goal"'),
        ({"objects": {"open red door": [2, 2], "closed blue door": [2, 1], "goal": [3, 3]}}, 'has 2 of "door"'),
        ({"objects": {"open red door": [1, 1], "goal": [3, 3]}}, "the door is in column 1; put it in 2 to 2"),
        ({"objects": {"open red door": [2, 1], "goal": [2, 2]}}, "column 2 is the door's wall"),
        ({"agent": [2, 1, "up"]}, "column 2 is the door's wall"),
        ({"objects": {"red door": [2, 2], "goal": [3, 3]}}, '"objects" names "red door"; did you mean'),
        ({"objects": {"red ball": [2, 2]}}, '"objects" names "red ball"'),
        ({"carrying": "red ball"}, '"carrying" names "red ball"; it must be something like "red key"'),
        ({"carrying": None}, '"carrying" names null'),
    ],
)
def test_a_bad_room_is_one_clear_line(change, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(LOCKED | change)
    assert "\n" not in str(caught.value)


def test_steps_leave_their_state_as_it_was():
    scene = room()
    before = tuple(scene.start)
    frame = scene.frame(scene.start)
    for action in range(6):
        assert scene.step(scene.start, action) == scene.step(scene.start, action)
    assert tuple(scene.start) == before and np.array_equal(frame, scene.frame(scene.start))
