"""The curriculum: which stages there are, when one ends, and that a stage is what it says."""

import dataclasses
import json

import numpy as np
import pytest

from dreamrl.config import ConfigError, CurriculumConfig, DreamingConfig, PPOConfig, RunConfig, WorldConfig
from dreamrl.curriculum import Curriculum, grow, stages_of
from dreamrl.settings import from_dict, load_settings, to_dict
from envs.mixture import Mixture
from envs.questions import stream
from envs.reasoning_batch import training_question
from envs.registry import world_of
from envs.scene import Split
from envs.worlds.frozen_lake import FrozenLake

SIZES = ["world.sizes=3,4,5,6", "curriculum.enabled=true"]


def stages(*overrides):
    run = load_settings("nano", None, [*SIZES, *overrides])
    return stages_of(run, world_of(run))


def test_default_stages_of_frozen_lake():
    found = stages("ppo.iterations=26")
    assert [s.name for s in found] == ["core reasoning", "multi-hop", "causal", "multimodal"]
    assert [tuple(s.world.sizes) for s in found] == [(3,), (3, 4), (3, 4, 5), (3, 4, 5, 6)]
    assert [s.dream_length for s in found] == [4, 6, 7, 8]
    assert [s.dreams for s in found] == [2, 3, 4, 4]
    assert [s.hops for s in found] == [1, 2, 2, 2]
    assert [(s.least, s.most, s.target) for s in found] == [(2, 7, 0.8)] * 3 + [(2, None, 0.8)]
    assert [s.number for s in found] == [0, 1, 2, 3]


def test_there_are_none_unless_asked_for():
    run = RunConfig()
    assert stages_of(run, world_of(run)) == [] and not run.curriculum.enabled


@pytest.mark.parametrize(
    ("most", "count", "expected"), [(8, 4, (4, 6, 7, 8)), (1, 4, (1,) * 4), (12, 4, (6, 8, 10, 12)), (5, 1, (5,))]
)
def test_growth_is_even_and_ends_with_everything(most, count, expected):
    assert grow(most, count) == expected


def test_stages_that_are_given():
    found = stages(
        "curriculum.stages=easy,hard",
        "curriculum.worlds=frozen_lake@5,frozen_lake@3-4*2",
        "curriculum.dream_length=3,8",
        "curriculum.dreams=1,4",
        "curriculum.hops=0,2",
        "curriculum.targets=0.5,0.9",
        "curriculum.min_iterations=1,3",
        "curriculum.max_iterations=9",
    )
    assert [tuple(s.world.sizes) for s in found] == [(5,), (3, 4)]
    assert [tuple(s.replay.sizes) for s in found] == [(5,), (3, 4, 5)]
    assert [(s.dream_length, s.dreams, s.hops, s.target, s.least, s.most) for s in found] == [
        (3, 1, 0, 0.5, 1, 9),
        (8, 4, 2, 0.9, 3, None),
    ]


def mixture(**families):
    members = []
    for weight, (name, family) in enumerate(families.items(), 1):
        lake = FrozenLake()
        lake.name, lake.family = name, family
        members.append((lake, float(weight)))
    return Mixture(members)


def weights_of(world):
    return {m.name: round(float(w), 6) for m, w in zip(world.members, world.weights, strict=True) if w}


def test_families_of_a_mixture_join_in_turn():
    run = RunConfig(curriculum=CurriculumConfig(enabled=True))
    found = stages_of(run, mixture(v="vqa", a="spatial", c="causal", b="temporal"))
    joined = [list(weights_of(stage.world)) for stage in found]
    assert joined == [["a"], ["a", "b"], ["a", "c", "b"], ["v", "a", "c", "b"]]
    assert weights_of(found[1].world) == {"a": round(2 / 6, 6), "b": round(4 / 6, 6)}
    assert weights_of(found[3].world) == {"v": 0.1, "a": 0.2, "c": 0.3, "b": 0.4}


def test_the_first_stage_of_a_mixture_always_asks_about_something():
    run = RunConfig(curriculum=CurriculumConfig(enabled=True))
    found = stages_of(run, mixture(v="vqa", c="causal"))
    assert [list(weights_of(stage.world)) for stage in found] == [["c"], ["c"], ["c"], ["v", "c"]]
    (only,) = stages_of(dataclasses.replace(run, curriculum=CurriculumConfig(enabled=True, stages=("all",))), mixture(
        a="spatial", v="vqa"
    ))  # fmt: skip
    assert list(weights_of(only.world)) == ["a", "v"]


def test_a_stage_of_a_mixture_keeps_the_numbers_of_worlds_and_actions():
    world = WorldConfig(worlds=("frozen_lake@3-4", "minigrid@5*3"))
    worlds = ("minigrid", "frozen_lake@3", "frozen_lake@4+minigrid*2", "frozen_lake+minigrid")
    run = RunConfig(world=world, curriculum=CurriculumConfig(enabled=True, worlds=worlds))
    whole = world_of(run)
    found = stages_of(run, whole)
    assert [weights_of(s.world) for s in found] == [
        {"minigrid": 1.0},
        {"frozen_lake": 1.0},
        {"frozen_lake": round(1 / 3, 6), "minigrid": round(2 / 3, 6)},
        {"frozen_lake": 0.5, "minigrid": 0.5},
    ]
    assert weights_of(found[1].replay) == {"frozen_lake": 0.5, "minigrid": 0.5}
    assert [tuple(s.replay.members[0].sizes) for s in found[1:]] == [(3,), (3, 4), (3, 4)]
    for stage in found:
        assert stage.world.actions == whole.actions
        for index in range(4):
            question = training_question(run, stage.world, index)
            assert whole.about(question.scene).name in weights_of(stage.world)
            if question.scene.member == 0:
                assert question.scene.grid[0] in stage.world.members[0].sizes
    assert [tuple(m.sizes) for m in whole.members] == [(3, 4), (5,)]  # untouched


def test_questions_of_a_stage_have_its_sizes_and_are_short_enough():
    run = RunConfig(
        world=WorldConfig(sizes=(3, 4, 5)), ppo=PPOConfig(predict_share=1.0), curriculum=CurriculumConfig(enabled=True)
    )
    whole = world_of(run)
    for stage in stages_of(run, whole):
        asked = [training_question(run, stage.world, i, length=stage.dream_length) for i in range(60)]
        assert {q.scene.grid[0] for q in asked} == set(stage.world.sizes)
        assert max(len(q.script) for q in asked) == stage.dream_length
    again = [training_question(run, whole, i) for i in range(60)]
    assert [q.text for q in again] == [q.text for q in asked]  # the last stage is all there is


def plain(**settings):
    """A curriculum of three stages over 10 questions an iteration."""
    given = {"stages": ("a", "b", "c"), "window": 20, "min_iterations": (2,), "max_iterations": (5,)}
    curriculum = CurriculumConfig(**(given | {"targets": (0.8, 0.5, 1.0), "enabled": True} | settings))
    ppo = PPOConfig(questions_per_iteration=10, num_learners=0, minibatch_size=10)
    run = RunConfig(ppo=ppo, curriculum=curriculum)
    return Curriculum(run, world_of(run))


def test_a_stage_ends_when_its_target_is_reached_over_the_window():
    curriculum = plain()
    told = [curriculum.record(exact) for exact in (1.0, 0.5, 0.9, 0.8)]
    assert [t["curriculum/stage"] for t in told] == [1, 1, 1, 1]
    assert [t["curriculum/success"] for t in told] == pytest.approx([1.0, 0.75, 0.7, 0.85])
    assert [t["curriculum/mastered"] for t in told] == [0, 0, 0, 1]
    assert [t["curriculum/iterations"] for t in told] == [1, 2, 3, 4]
    assert curriculum.stage.name == "b" and np.isnan(curriculum.success)
    assert curriculum.news == 'curriculum: "a" mastered (exact match 0.85, target 0.80); now "b"'


def test_a_stage_that_is_not_mastered_ends_after_its_most_iterations_and_says_so():
    curriculum = plain()
    told = [curriculum.record(0.79) for _ in range(5)]
    assert [t["curriculum/forced"] for t in told] == [0, 0, 0, 0, 1]
    assert curriculum.number == 1 and curriculum.mastered == 0
    reason = "NOT mastered, but its iterations are used up (exact match 0.79, target 0.80)"
    assert curriculum.news == f'curriculum: "a" {reason}; now "b"'
    curriculum.record(0.1)
    assert curriculum.news == ""


def test_fewest_iterations_and_a_full_window_are_waited_for():
    slow, wide = plain(min_iterations=(4,)), plain(window=30, min_iterations=(1,))
    for curriculum, expected in ((slow, 4), (wide, 3)):
        for _ in range(expected):
            assert curriculum.number == 0
            curriculum.record(1.0)
        assert curriculum.number == 1


def test_it_never_goes_back_and_the_last_stage_never_ends():
    curriculum = plain()
    numbers = []
    for exact in np.random.default_rng(0).random(60):
        numbers.append(curriculum.number)
        curriculum.record(exact)
    assert numbers == sorted(numbers) and numbers[-1] == 2
    values = [curriculum.record(1.0) for _ in range(50)][-1]
    assert curriculum.number == 2 and values["curriculum/stage"] == 3 and values["curriculum/iterations"] > 50
    assert values["curriculum/mastered"] + values["curriculum/forced"] == 2


def slow_stages(history, targets, least, most, window):
    """The stage of each iteration, from the whole history anew each time."""
    stage, since, out = 0, 0, []
    for i in range(len(history)):
        out.append(stage)
        own = history[since : i + 1]
        mastered = len(own) >= least and len(own) >= window and np.mean(own[-window:]) >= targets[stage] - 1e-9
        if stage < len(targets) - 1 and (mastered or len(own) >= most):
            stage, since = stage + 1, i + 1
    return out


@pytest.mark.parametrize("seed", range(8))
def test_stages_equal_a_slow_reference_also_when_interrupted(seed):
    rng = np.random.default_rng(seed)
    history = np.round(rng.random(30) * 0.7 + 0.3, 1).tolist()
    curriculum, found = plain(targets=(0.7, 0.6, 0.9)), []
    for exact in history:
        found.append(curriculum.number)
        curriculum.record(exact)
        if rng.random() < 0.5:  # killed, and started again from its checkpoint
            state = json.loads(json.dumps(curriculum.state()))
            curriculum = plain(targets=(0.7, 0.6, 0.9))
            curriculum.restore(state)
    assert found == slow_stages(history, (0.7, 0.6, 0.9), 2, 5, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dreams=2,4"], "curriculum.dreams ([2, 4]) must hold one item for each of the 4 stages, or none"),
        (["worlds=frozen_lake@3"], """curriculum.worlds (['frozen_lake@3']) must hold one item for each of the 4 """),
        (["dreams=1,2,4,5"], "curriculum.dreams ([1, 2, 4, 5]) must hold numbers from 1 to model.num_dream_seq"),
        (["dreams=0,2,4,4"], "curriculum.dreams ([0, 2, 4, 4]) must hold numbers from 1 to model.num_dream_seq"),
        (["dream_length=4,4,8,9"], "curriculum.dream_length ([4, 4, 8, 9]) must hold numbers from 1 to model.dream_l"),
        (["hops=0,1,2,3"], "curriculum.hops ([0, 1, 2, 3]) must hold numbers from 0 to model.graph_reasoning_hops (2)"),
        (["targets=0.5,0.6"], "curriculum.targets ([0.5, 0.6]) must hold one number for all stages, or one for"),
        (["targets=80"], "curriculum.targets ([80.0]) must hold numbers above 0 and at most 1"),
        (["targets=[]"], "curriculum.targets ([]) must hold one number for all stages"),
        (["window=0"], "curriculum.window (0) must be between 1 and 1e+07"),
        (["min_iterations=0"], "curriculum.min_iterations ([0]) must hold numbers from 1 to 10000000"),
        (["max_iterations=1"], "curriculum.max_iterations ([1]) must be >= curriculum.min_iterations ([2]) in every"),
        (["max_iterations=2,3"], "curriculum.max_iterations ([2, 3]) must hold one number for all stages, or one"),
        (["stages=a,a"], "curriculum.stages (['a', 'a']) must hold at least one name, all different"),
        (["stages=[]"], "curriculum.stages ([]) must hold at least one name, all different"),
        (["stages=a", "worlds=frozen_lake@"], 'curriculum.worlds ("frozen_lake@") must be NAME[@LOW-HIGH][*WEIGHT], '),
        (["stages=a", "worlds=patterns"], 'curriculum.worlds ("patterns") must name worlds of the run (frozen_lake)'),
        (["stages=a", "worlds=frozen_lake@6-7"], 'curriculum.worlds ("frozen_lake@6-7") must keep to the sizes '),
        (["stages=a", "worlds=frozen_lake+frozen_lake"], "must name frozen_lake once, with a weight"),
        (["enabled=yes please"], 'curriculum.enabled ("yes please") must be true or false'),
        (["window=1.5"], "curriculum.window (1.5) must be a whole number"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line_before_anything_starts(settings, message):
    with pytest.raises(ConfigError) as caught:
        load_settings("nano", None, [*SIZES, *(f"curriculum.{setting}" for setting in settings)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_sizes_that_only_the_world_knows_are_checked_with_the_world():
    run = load_settings(
        "nano", None, ["curriculum.enabled=true", "curriculum.stages=a", "curriculum.worlds=frozen_lake@5"]
    )
    with pytest.raises(ConfigError, match=r"keep to the sizes that the run trains on \(3, 4\); add size 5"):
        stages_of(run, world_of(run))


def test_settings_survive_writing():
    run = load_settings(
        "nano", None, [*SIZES, "curriculum.worlds=frozen_lake@3,frozen_lake,frozen_lake,frozen_lake@3-6"]
    )
    assert from_dict(to_dict(run), "here") == run


def test_random_play_of_a_stage_shows_the_boards_so_far():
    run = RunConfig(
        model=DreamingConfig(),
        world=WorldConfig(sizes=(3, 4, 5)),
        curriculum=CurriculumConfig(enabled=True, stages=("a", "b"), worlds=("frozen_lake@5", "frozen_lake@3")),
    )
    for stage, expected in zip(stages_of(run, world_of(run)), ({5}, {3, 5}), strict=True):
        rng = stream(0)
        sizes = [
            stage.replay.sample_scene(rng, Split.TRAIN, int(rng.choice(stage.replay.sizes))).grid for _ in range(20)
        ]
        assert {grid[0] for grid in sizes} == expected
