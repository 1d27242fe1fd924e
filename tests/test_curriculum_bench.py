"""``dreamrl bench curriculum``, very small: both arms start alike, steps are counted, and it goes on where it was."""

import json
import shutil

import pytest

from dreamrl.bench.curriculum import steps_to
from dreamrl.bench.run import run_bench
from dreamrl.errors import UserError

pytestmark = pytest.mark.slow

SMALL = [
    "seeds=5", "sizes=2,3", "budget=500", "iterations=6", "questions=8", "every=1", "boards=4", "pretrain_steps=2",
    "dream_length=4", "embedding_dim=16", "target=1.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "curriculum"
    return out, run_bench("curriculum", [*SMALL, f"out={out}"])


def test_both_arms_start_alike_and_spend_the_budget(done):
    _, result = done
    plain, ours = (result["arms"][arm]["5"] for arm in ("plain", "curriculum"))
    assert plain[0]["exact_match"] == ours[0]["exact_match"]
    # Nothing is learned so fast.
    assert result["steps_to"]["1.0"] == {"plain": [None], "curriculum": [None], "ratio": None}
    for arm in (plain, ours):
        steps = [point["steps"] for point in arm]
        assert steps[0] == 0 and steps[-2] < 500 <= steps[-1]
        # A question costs an answer and, for each of up to 4 dreams, 1 to 4 steps.
        assert all(8 * 2 < after - before <= 8 * (1 + 4 * 4) for before, after in zip(steps, steps[1:], strict=False))
    assert {p["stage"] for p in plain} == {None} and ours[-1]["stage"] == 4
    first = [arm[1]["steps"] for arm in (plain, ours)]
    assert first[1] <= 8 * (1 + 2 * 2)  # two dreams of two steps in the first stage
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(("goal", "steps"), [(0.1, 0), (0.3, 0), (0.4, 50), (0.5, 100), (0.6, 260), (0.8, None)])
def test_steps_are_counted_between_two_measurements(goal, steps):
    exact = [0.3, 0.5, 0.45, 0.7]
    curve = [{"steps": 100 * i, "exact_match": value} for i, value in enumerate(exact)]
    assert steps_to(curve, goal) == (steps)


def test_it_goes_on_from_its_newest_checkpoint(done):
    out, result = done
    for arm in ("plain", "curriculum"):
        newest = max((out / "seed5" / arm).glob("ppo-*"))
        shutil.rmtree(newest)
    assert run_bench("curriculum", [*SMALL, f"out={out}"]) == result


def test_other_settings_need_another_place(done):
    out, _ = done
    with pytest.raises(UserError, match="seed5 holds a benchmark with other settings; give another out=DIR"):
        run_bench("curriculum", [*SMALL, "boards=5", f"out={out}"])
