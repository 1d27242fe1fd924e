"""Worlds made of Gymnasium environments, compared with the environments themselves."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from envs import GymnasiumWorld
from envs.conformance import check_world
from envs.gymnasium_scene import copy_env
from envs.questions import draw_question
from envs.world import Outcome, Question, QuestionKind, Split, WorldError, random_play, roll

CLIFF = ["up", "right", "down", "left"]


def forget_direction(env):
    env.lastaction = None


def cliff(**options):
    return GymnasiumWorld(
        "CliffWalking-v1",
        actions=CLIFF,
        question=["Find the shortest way to the cookie.", "How does the elf get to the cookie?"],
        success=lambda env, observation, reward, terminated: terminated,
        before_render=forget_direction,
        warm_up=10,
        **options,
    )


class Corridor(gym.Env):
    """Five cells in a row; the agent stands on one of them. Nothing that pygame draws."""

    metadata = {"render_modes": ["rgb_array"]}
    action_space: gym.Space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(5)
    render_mode = "rgb_array"

    def __init__(self, copies=True, slips=False, grows=False):
        self.copies, self.slips, self.grows, self.place = copies, slips, grows, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(4))
        return self.place, {}

    def step(self, action):
        if self.slips and self.np_random.random() < 0.5:
            action = 1 - action
        self.place = min(4, max(0, self.place + (1 if action else -1)))
        return self.place, 0.0, self.place == 4, False, {}

    def render(self):
        frame = np.zeros((16, 16 * (5 + self.place * self.grows), 3), np.uint8)
        frame[:, 16 * self.place : 16 * self.place + 16] = 255
        return frame

    def __deepcopy__(self, memo):
        if not self.copies:
            raise TypeError("cannot be copied")
        made = Corridor(self.copies, self.slips, self.grows)
        made.place, made.np_random = self.place, np.random.default_rng(0)
        return made


class Stiff(Corridor):
    """Cannot be copied."""


def corridor(make, **options):
    actions = options.pop("actions", ["left", "right"])
    question = options.pop("question", "Go to the end.")
    return GymnasiumWorld(
        make, actions=actions, question=question, success=lambda env, o, r, terminated: terminated, **options
    )


def test_a_scene_does_what_the_environment_does():
    """Same seed, same moves: states, frames and the end equal a plain environment's."""
    world = cliff(frame_size=(48, 144))  # every pixel a block of 5 x 5
    rng = np.random.default_rng(0)
    for _ in range(4):
        scene = world.sample_scene(rng, Split.TRAIN, 1)
        rollout = random_play(scene, 4, 6, rng)
        env = gym.make("CliffWalking-v1", render_mode="rgb_array")
        env.reset(seed=scene.seed)
        for action in scene.moves:
            env.step(action)
        for index, action in enumerate(rollout.actions):
            _, _, terminated, _, _ = env.step(action)
            env.unwrapped.lastaction = None
            raw = env.render()
            shown = scene.frame(rollout.states[index + 1])
            blocks = raw.reshape(48, 5, 144, 5, 3).astype(float).mean((1, 3))
            assert np.abs(blocks - shown).max() <= 1
            assert terminated == (index + 1 == len(rollout.actions) and rollout.outcome is Outcome.SUCCESS)
        env.close()


def test_distance_is_that_of_a_search_over_the_table_of_the_environment():
    """CliffWalking's own table P, searched by value iteration, against the search over snapshots."""
    world = cliff()
    table = gym.make("CliffWalking-v1").unwrapped.P
    far = np.full(48, 99)
    far[47] = 0
    for _ in range(60):
        far = np.array([0 if s == 47 else 1 + min(far[table[s][a][0][1]] for a in range(4)) for s in range(48)])
    rng = np.random.default_rng(1)
    for _ in range(3):
        scene = world.sample_scene(rng, Split.TRAIN, 1)
        for state in random_play(scene, 4, 5, rng).states:
            place = scene.look(state, lambda env: int(env.s))
            assert scene.distance(state) == far[place]


def test_states_that_look_alike_are_equal_and_steps_change_nothing():
    scene = corridor(Corridor).sample_scene(np.random.default_rng(0), Split.TRAIN, 1)
    there, _ = scene.step(scene.start, 1)
    back, _ = scene.step(there, 0)
    assert back == scene.start and hash(back) == hash(scene.start)
    assert scene.step(scene.start, 1) == (there, Outcome.CONTINUE)


@pytest.mark.parametrize("make", [Corridor, lambda: Stiff(copies=False)], ids=["copied", "replayed"])
def test_environments_that_cannot_be_copied_are_replayed(make):
    """Both ways give the same frames and distances."""
    world = corridor(make, name="corridor")
    scene = world.scene({"seed": 3})
    reference = Corridor()
    reference.reset(seed=3)
    start = reference.place
    assert scene.distance(scene.start) == 4 - start
    rollout = roll(scene, [0, 1, 1])
    place = start
    for action, state in zip(rollout.actions, rollout.states[1:], strict=True):
        place = min(4, max(0, place + (1 if action else -1)))
        assert scene.frame(state)[0, 16 * place].tolist() == [255, 255, 255]
    assert (scene.start.env is None) == (make is not Corridor)


def test_a_copy_shares_surfaces_but_not_the_situation():
    env = FrozenLakeEnv(render_mode="rgb_array", is_slippery=False)
    env.reset(seed=0)
    before = env.render()
    other = copy_env(env)
    other.step(2)
    assert other.window_surface is env.window_surface and other.s != env.s
    env.lastaction = None
    assert np.array_equal(env.render(), before)


def test_questions_and_answers():
    world = corridor(Corridor, describe=lambda env: f"at place {env.place}")
    scene = world.scene({"seed": 3, "moves": ["left"]})
    place = scene.look(scene.start, lambda env: env.place)
    plan = draw_question(world, scene, False, 8, np.random.default_rng(0))
    assert plan.text == "Go to the end."
    assert world.verify(plan, ", ".join(["right"] * (4 - place))).exact
    assert not world.verify(plan, ", ".join(["right"] * (5 - place))).exact
    asked = Question(kind=QuestionKind.PREDICT, text="", scene=scene, script=(1, 1))
    assert world.verify(asked, f"at place {place + 2}").exact
    assert not world.verify(asked, f"at place {place + 1}").exact
    assert any("at place 2" in text for text in world.corpus())


@pytest.mark.slow
def test_conformance_of_a_world_in_a_few_lines():
    assert all(finding.ok for finding in check_world(cliff()))


def test_conformance_finds_chance():
    found = {f.check: f for f in check_world(corridor(lambda: Corridor(slips=True), name="slips", warm_up=3))}
    assert not found["determinism"].ok and "chance" in found["determinism"].message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: corridor("NoSuchEnv-v0"), "NoSuchEnv"),
        (lambda: corridor("Pendulum-v1", actions=["push"]), "Discrete"),
        (lambda: corridor("CartPole-v1", actions=["left"]), "has 2 actions, 1 names"),
        (lambda: corridor(Corridor, actions=["left", "left"]), "must differ"),
        (lambda: corridor(Corridor, actions=["Left", "right"]), '"Left" must be small letters'),
        (lambda: corridor(Corridor, question=""), "question must not be empty"),
        (lambda: corridor(Corridor, frame_size=(20, 80)), "multiples of patch_size"),
        (lambda: corridor(lambda: gym.make("CartPole-v1"), name="silent"), 'render_mode="rgb_array"'),
        (lambda: corridor("Blackjack-v2", actions=["a", "b"]), "Blackjack-v2"),
    ],
)
def test_wrong_environments_are_one_clear_line(make, words):
    with pytest.raises(WorldError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_frames_that_change_their_size_are_an_error():
    world = corridor(lambda: Corridor(grows=True), name="grows")
    with pytest.raises(WorldError, match="frames change their size"):
        for seed in range(5):
            roll(world.scene({"seed": seed}), [1, 1])


def test_a_success_function_that_fails_is_named():
    world = GymnasiumWorld(Corridor, actions=["left", "right"], question="?", success=lambda *_: 1 / 0)
    with pytest.raises(WorldError, match="success.*ZeroDivisionError"):
        roll(world.scene({"seed": 0}), [0])


def test_a_world_that_always_starts_alike_says_so():
    world = GymnasiumWorld(
        "CliffWalking-v1", actions=CLIFF, question="?", success=lambda env, o, r, terminated: terminated
    )
    with pytest.raises(WorldError, match="warm_up"):
        for split in Split:
            world.sample_scene(np.random.default_rng(0), split, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sed": 1}, 'unknown option "sed"'),
        ({}, '"seed" (None)'),
        ({"seed": True}, '"seed" (True)'),
        ({"seed": 1, "moves": ["jump"]}, "\"moves\" (['jump'])"),
        ({"seed": 1, "moves": ["right"] * 9}, "the episode is over"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WorldError) as caught:
        corridor(Corridor).scene(options)
    assert words in str(caught.value)
