"""MiniGrid rooms against the simulator and BabyAI's own verifier, stepped side by side."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc
from minigrid_reference import ACTIONS, Room, seen_in, thing

from dreamrl.nn.codec import to_patches
from envs.questions import stream
from envs.world import Outcome, QuestionKind, Split, WorldError, random_play, roll
from envs.worlds.minigrid import MiniGrid
from envs.worlds.minigrid_rules import FLOOR, NAMES, WALL, RoomState, act, walled

WORLD = MiniGrid()
ROOM = {
    "size": 5,
    "agent": [1, 3, "up"],
    "objects": {"red ball": [3, 1], "blue key": [1, 1], "green box": [2, 3]},
    "target": "red ball",
}


def room(size=5, index=0, split=Split.TRAIN, world=WORLD):
    return world.sample_scene(stream(14, size, index), split, size)


@pytest.mark.parametrize("seed", range(40))
def test_every_step_is_that_of_the_simulator(seed):
    """Any thing anywhere, doors and goals included, and all five actions."""
    rng = stream(3, seed)
    cells = walled(5, 5)
    free = [place for place, code in enumerate(cells) if code == FLOOR]
    for place in free[1:]:
        if rng.random() < 0.5:
            cells[place] = int(rng.integers(2, len(NAMES)))
    carried = [FLOOR, *(code for code, name in enumerate(NAMES) if name.endswith("key"))]
    state = RoomState(1, 1, int(rng.integers(4)), int(rng.choice(carried)), bytes(cells))
    env = Room(state, 5)
    for name in rng.choice(list(ACTIONS), 60).tolist():
        before = state
        state, ended = act(state, ACTIONS[name], 5)
        assert env.do(name) == ended
        assert env.seen() == seen_in(state)
        assert hash(before) == hash(RoomState(*before))


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("size", [5, 6, 8])
def test_frames_are_those_that_minigrid_renders(size, patch_size):
    world = MiniGrid(patch_size)
    for index in range(3):
        scene = room(size, index, world=world)
        for state in random_play(scene, 3, 8, stream(5, index)).states:
            assert (scene.frame(state) == Room(state, size).picture(patch_size)).all()
        assert scene.grid == (size, size) == world.grid_at(size)


class Mission(RoomGridLevel):
    """BabyAI's own mission about a scene, for its verifier."""

    def __init__(self, scene):
        self.scene = scene
        super().__init__(num_rows=1, num_cols=1, room_size=scene.size)

    def gen_mission(self):
        start = self.scene.start
        for place, code in enumerate(start.cells):
            if code not in (FLOOR, WALL):
                self.grid.set(place % self.width, place // self.width, thing(NAMES[code]))
        self.agent_pos, self.agent_dir = (start.x, start.y), start.direction
        color, kind = NAMES[self.scene.target].split()
        self.instrs = GoToInstr(ObjDesc(kind, color))


@pytest.mark.parametrize("index", range(15))
def test_success_is_what_babyai_calls_success(index):
    scene = room(index=index)
    level = Mission(scene)
    level.reset(seed=0)
    assert level.mission == f"go to the {NAMES[scene.target]}"
    state = scene.start
    for action in stream(8, index).integers(3, size=60).tolist():
        state, outcome = scene.step(state, action)
        terminated = level.step(ACTIONS[WORLD.actions[action]])[2]
        assert terminated == (outcome is Outcome.SUCCESS)
        if terminated:
            break


def forward_search(scene, state):
    """Fewest steps of the real simulator to a cell before the target, looking at it."""
    level, known, steps = {(state.x, state.y, state.direction)}, set(), 0
    target = divmod(scene.start.cells.index(scene.target), scene.size)[::-1]
    while level:
        wider = set()
        for pose in level:
            env = Room(state._replace(x=pose[0], y=pose[1], direction=pose[2]), scene.size)
            if tuple(env.front_pos) == target:
                return steps
            for name in WORLD.actions:
                env.agent_pos, env.agent_dir = pose[:2], pose[2]
                env.do(name)
                wider.add((*map(int, env.agent_pos), env.agent_dir))
        known |= level
        level, steps = wider - known, steps + 1
    return None


@pytest.mark.parametrize("index", range(6))
def test_distances_equal_a_search_in_the_simulator(index):
    scene = room(index=index)
    for state in random_play(scene, 3, 3, stream(9, index)).states:
        assert scene.distance(state) == forward_search(scene, state)


def test_a_thing_that_is_walled_in_cannot_be_reached():
    objects = {"red ball": [1, 1], "blue key": [2, 1], "blue box": [1, 2]}
    options = ROOM | {"agent": [3, 3, "up"], "objects": objects}
    with pytest.raises(WorldError, match="cannot get to the red ball"):
        WORLD.scene(options)
    scene = WORLD.scene(options | {"target": "blue key"})
    assert scene.distance(scene.start) == forward_search(scene, scene.start)


def test_the_expert_is_babyais_bot_and_arrives():
    optimal = 0
    for index in range(8):
        scene = room(index=index)
        state, steps = scene.start, 0
        while scene.distance(state) and steps < 20:
            state, steps = scene.step(state, scene.expert(state))[0], steps + 1
        assert scene.distance(state) == 0
        assert scene.expert(state) is None
        optimal += steps == scene.distance(scene.start)
    assert optimal >= 4


def test_what_is_faced():
    scene = WORLD.scene(ROOM)
    said = {}
    for moves in ("forward", "turn right", "turn left", "turn right, turn right", "forward, turn right, forward"):
        question = WORLD.interpret(f"What does the agent face after {moves}?", scene)
        said[moves] = WORLD.tell(question, roll(question.scene, question.script))
        assert question.scene.distance(question.scene.start) is None
    assert said == {
        "forward": "the agent faces the blue key",
        "turn right": "the agent faces the green box",
        "turn left": "the agent faces a wall",
        "turn right, turn right": "the agent faces a wall",
        "forward, turn right, forward": "the agent faces empty floor",
    }


def test_the_same_room_with_other_things_asked_for():
    scene = WORLD.scene(ROOM)
    other = WORLD.interpret("Go to the blue key.", scene)
    assert (other.kind, NAMES[other.scene.target]) == (QuestionKind.PLAN, "blue key")
    assert other.scene.key != scene.key and other.scene.start == scene.start
    assert WORLD.verify(other, "forward").exact
    same = WORLD.interpret("How do I get to the red ball", scene)
    assert same.scene.key == scene.key and not WORLD.verify(same, "forward").success
    assert WORLD.verify(same, "forward, turn right, forward, forward, turn left").exact
    assert WORLD.verify(same, "turn right, turn left, forward, turn right, forward, forward, turn left").success


def test_every_plan_is_judged_right():
    scene = WORLD.scene(ROOM | {"target": "green box", "agent": [1, 2, "up"]})
    question = WORLD.interpret("Go to the green box.", scene)
    exact = 0
    for length in range(1, 5):
        for plan in itertools.product(range(3), repeat=length):
            env = Room(scene.start, 5)
            faced = []
            for action in plan:
                env.do(WORLD.actions[action])
                faced.append(tuple(env.front_pos) == (2, 3))
            verdict = WORLD.verify(question, WORLD.plan_text(plan))
            if verdict.success:
                assert faced.index(True) == length - 1
            exact += verdict.exact
            assert not verdict.exact or length == forward_search(scene, scene.start)
    assert exact >= 1


@pytest.mark.parametrize("predict", [False, True])
def test_what_is_asked_is_what_is_understood(predict):
    for index in range(150):
        asked = WORLD.draw(room(5 + index % 2, index), predict, 8, stream(6, index))
        found = WORLD.interpret(asked.text, room(5 + index % 2, index))
        assert (found.kind, found.script, found.topic) == (asked.kind, asked.script, asked.topic)
        assert found.scene.key == asked.scene.key
        assert len(asked.script) <= 6
        if predict:
            truth = WORLD.tell(asked, roll(asked.scene, asked.script))
            things = ["a wall", "empty floor", *(f"the {NAMES[c]}" for c in asked.scene.things)]
            right = [t for t in things if WORLD.verify(asked, f"the agent faces {t}").exact]
            assert [f"the agent faces {t}" for t in right] == [truth]
        else:
            assert 1 <= asked.scene.distance(asked.scene.start) <= 8


@pytest.mark.parametrize(
    "text", ["", "Who are you?", "Go home.", "Go to the pink ball.", "red ball", "Go to the yellow ball.", "日本"]
)
def test_free_text_that_asks_nothing(text):
    assert WORLD.interpret(text, WORLD.scene(ROOM)) is None


def test_answers_are_balanced():
    said = Counter()
    for index in range(600):
        question = WORLD.draw(room(5, index), True, 8, stream(7, index))
        said[WORLD.tell(question, roll(question.scene, question.script))] += 1
    assert max(said.values()) / said.total() < 0.33


def test_frames_are_made_of_few_patches():
    seen = set()
    for index in range(300):
        scene = room(5 + index % 4, index)
        for state in random_play(scene, 3, 4, stream(5, index)).states:
            seen |= {patch.tobytes() for patch in to_patches(scene.frame(state), 16)}
    assert 20 <= len(seen) <= 2 + 4 + 18


def test_splits_are_disjoint_and_scenes_reproducible():
    found = {split: [room(5, i, split) for i in range(60)] for split in Split}
    starts = {split: {(s.size, s.start) for s in scenes} for split, scenes in found.items()}
    for a, b in itertools.combinations(Split, 2):
        assert not starts[a] & starts[b]
    assert [s.key for s in found[Split.TEST]] == [room(5, i, Split.TEST).key for i in range(60)]
    assert len({s.key for s in found[Split.TRAIN]}) > 55
    assert re.fullmatch("[0-9a-f]{32}", found[Split.TEST][0].key)
    assert WORLD.scene(ROOM).key == "dec0e40cee4a85ce57e13bea337f106e"


def test_all_words_are_in_the_corpus():
    words = set(re.findall(r"\w+", " ".join(WORLD.corpus()).lower()))
    for index in range(100):
        question = WORLD.draw(room(5, index), bool(index % 2), 8, stream(6, index))
        said = WORLD.tell(question, roll(question.scene, question.script))
        assert set(re.findall(r"\w+", f"{question.text} {said}".lower())) <= words


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"size": 9}, '"size" must be a whole number from 5 to 8, got 9'),
        ({"size": "5"}, '"size" must be a whole number'),
        ({"size": True}, '"size" must be a whole number'),
        ({"sizes": 5}, 'unknown option "sizes"; did you mean "size"'),
        ({"agent": [1, 3]}, r'"agent" must be \[column, row, one of right, down, left, up\]'),
        ({"agent": [1, 3, "north"]}, r'"agent" must be \[column, row'),
        ({"agent": [0, 3, "up"]}, r'"agent" must be at \[column 1 to 3, row 1 to 3\], got \[0, 3\]'),
        ({"agent": [1.5, 3, "up"]}, '"agent" must be at'),
        ({"agent": [3, 1, "up"]}, r'"agent" is at \[3, 1\], where the red ball is; move it'),
        ({"objects": {}}, '"objects" is empty'),
        ({"objects": ["red ball"]}, '"objects" must be an object like'),
        ({"objects": {"red bal": [1, 1]}}, '"objects" names "red bal"; did you mean "red ball"'),
        ({"objects": {"wall": [1, 1]}}, '"objects" names "wall"'),
        ({"objects": {"red ball": [4, 1]}}, '"objects.red ball" must be at'),
        ({"objects": {"red ball": "here"}}, '"objects.red ball" must be at'),
        ({"objects": {"red ball": [2, 2], "red key": [2, 2]}}, r"is at \[2, 2\], where the red ball is"),
        ({"target": "grey ball"}, '"target" names "grey ball"; '),
        ({"target": 3}, '"target" names 3'),
        ({"target": "green box", "agent": [1, 3, "right"]}, "the agent is at the green box already"),
    ],
)
def test_a_bad_room_is_one_clear_line(change, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(ROOM | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["size", "agent", "objects"])
def test_a_field_that_is_missing(field):
    with pytest.raises(WorldError, match=f'"{field}" is missing'):
        WORLD.scene({name: value for name, value in ROOM.items() if name != field})


def test_sizes_and_patches_that_do_not_exist():
    with pytest.raises(WorldError, match=r"world.sizes \(\[4\]\)"):
        WORLD.sample_scene(stream(0), Split.TRAIN, 4)
    with pytest.raises(WorldError, match=r"world.patch_size \(7\) must be >= 8"):
        MiniGrid(7)


def test_steps_leave_their_state_as_it_was():
    scene = room()
    before, frame = tuple(scene.start), scene.frame(scene.start)
    for action in range(3):
        assert scene.step(scene.start, action) == scene.step(scene.start, action)
    assert np.array_equal(frame, scene.frame(scene.start))
    assert tuple(scene.start) == before
