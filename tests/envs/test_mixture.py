"""Mixtures: each member's scenes, questions and verdicts are its own, under the mixture's actions."""

import numpy as np
import pytest

from envs.conformance import check_world
from envs.gymnasium_world import GymnasiumWorld
from envs.mixture import Mixture
from envs.questions import draw_question, stream
from envs.registry import make_world, parse_entry
from envs.scene import Outcome, QuestionKind, Split
from envs.world import WorldError, random_play, roll
from envs.worlds.frozen_lake import FrozenLake


def cliff():
    return GymnasiumWorld(
        "CliffWalking-v1",
        actions=["up", "right", "down", "left"],
        question="Find the way to the cookie.",
        success=lambda env, observation, reward, terminated: terminated,
        name="cliff",
        family="paths",
        warm_up=6,
    )


@pytest.fixture(scope="module")
def mixture():
    lake = FrozenLake()
    lake.sizes = (3, 5)
    return Mixture([(lake, 3.0), (cliff(), 1.0)])


def scenes(mixture, count):
    return [mixture.sample_scene(stream(5, i), Split.TRAIN, 1) for i in range(count)]


def test_actions_are_the_union_and_scenes_come_by_weight(mixture):
    assert mixture.actions == ("left", "down", "right", "up")
    names = [mixture.about(scene).name for scene in scenes(mixture, 200)]
    assert 0.65 < names.count("frozen_lake") / 200 < 0.85
    assert mixture.grid_at(1) == (5, 8) and mixture.max_patches == 25 and mixture.max_side == 8


def test_steps_and_frames_are_the_members(mixture):
    """Action names mean the same: "up" is number 3 here and number 0 in the member."""
    for scene in scenes(mixture, 12):
        world, inner = mixture.about(scene), scene.inner
        rollout = random_play(scene, 4, 5, np.random.default_rng(0))
        own = roll(inner, [world.actions.index(mixture.actions[a]) for a in rollout.actions])
        assert [s == t for s, t in zip(rollout.states, own.states, strict=True)] and rollout.outcome is own.outcome
        assert all(np.array_equal(scene.frame(s), inner.frame(s)) for s in rollout.states)


def test_foreign_actions_change_nothing():
    class Jumper(FrozenLake):
        name = "jumper"
        actions = ("left", "down", "right", "jump")

    mixed = Mixture([(FrozenLake(), 1.0), (Jumper(), 1.0)])
    assert mixed.actions == ("left", "down", "right", "up", "jump")
    for index in range(20):
        scene = mixed.sample_scene(stream(1, index), Split.TRAIN, 1)
        foreign = "jump" if mixed.about(scene).name == "frozen_lake" else "up"
        assert scene.step(scene.start, mixed.actions.index(foreign)) == (scene.start, Outcome.CONTINUE)
        taken = random_play(scene, 5, 30, np.random.default_rng(index)).actions
        assert mixed.actions.index(foreign) not in taken


def test_questions_verdicts_and_true_answers_are_the_members(mixture):
    for index, scene in enumerate(scenes(mixture, 40)):
        question = draw_question(mixture, scene, bool(index % 2), 5, stream(6, index))
        world = mixture.about(scene)
        rollouts = [random_play(scene, 4, 5, stream(7, index, k)) for k in range(4)]
        if question.script:
            rollouts.append(roll(scene, question.script))
        own_rollouts = [
            roll(scene.inner, [world.actions.index(mixture.actions[a]) for a in r.actions]) for r in rollouts
        ]
        own_script = [world.actions.index(mixture.actions[a]) for a in question.script]
        own = world.interpret(question.text, scene.inner)
        assert own is not None and own.kind is question.kind and list(own.script) == own_script
        best, answer = mixture.true_answer(question, rollouts)
        assert (best, answer) == world.true_answer(own, own_rollouts)
        assert mixture.verify(question, answer) == world.verify(own, answer)
        found = mixture.interpret(question.text, scene)
        assert found is not None and found.script == question.script and found.kind is question.kind


def test_one_member_alone(mixture):
    lake = mixture.only("frozen_lake")
    assert {lake.about(scene).name for scene in scenes(lake, 20)} == {"frozen_lake"}
    assert lake.actions == mixture.actions and lake.grid_at(1) == mixture.grid_at(1)
    with pytest.raises(WorldError, match='trained on frozen_lake, cliff, not on "physics"'):
        mixture.only("physics")


@pytest.mark.slow
def test_a_mixture_holds_to_the_interface(mixture):
    found = check_world(mixture)
    assert all(finding.ok for finding in found), [f for f in found if not f.ok]


def test_scene_options_name_the_member(mixture):
    scene = mixture.scene({"world": "frozen_lake", "desc": ["SF", "FG"]})
    assert mixture.about(scene).name == "frozen_lake" and scene.inner.desc == ("SF", "FG")
    assert mixture.ask(scene, QuestionKind.PLAN, np.random.default_rng(0)).scene is scene
    with pytest.raises(WorldError, match='"world" .None. must be one of frozen_lake, cliff'):
        mixture.scene({"desc": ["SF", "FG"]})


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ("frozen_lake", ("frozen_lake", (), 1.0)),
        ("frozen_lake@3-6*2", ("frozen_lake", (3, 4, 5, 6), 2.0)),
        ("frozen_lake@4", ("frozen_lake", (4,), 1.0)),
        ("my.module:Name*0.5", ("my.module:Name", (), 0.5)),
    ],
)
def test_entries(entry, parsed):
    assert parse_entry(entry) == parsed


@pytest.mark.parametrize("entry", ["", "a@", "a@5-3", "a*0", "a*x", "a@b"])
def test_wrong_entries(entry):
    with pytest.raises(WorldError, match="NAME.@LOW-HIGH..*WEIGHT."):
        parse_entry(entry)


def test_mixtures_by_name():
    made = make_world("frozen_lake", worlds=["frozen_lake@3-4"])
    assert isinstance(made, Mixture) and made.members[0].sizes == (3, 4)
    with pytest.raises(WorldError, match="twice"):
        make_world("", worlds=["frozen_lake", "frozen_lake"])
    with pytest.raises(WorldError, match="contradicts"):
        make_world("", worlds=["frozen_lake"], sizes=[3])
    with pytest.raises(WorldError, match="each 2 to 8 for frozen_lake"):
        make_world("", worlds=["frozen_lake@3-9"])
