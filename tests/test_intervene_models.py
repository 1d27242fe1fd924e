"""The causal test on models: a trained one follows the edits, untrained ones do not."""

import pytest

from dreamrl.config import DreamingConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.edits import INTERVENTIONS
from dreamrl.intervene import intervene_command, measure, questions_on, untrained_reader
from dreamrl.pretrain import pretrain_loop
from dreamrl.saving import weights
from envs.questions import stream
from envs.world import QuestionKind, Split


def test_an_untrained_reader_shares_all_but_the_reading(loaded):
    fresh = untrained_reader(loaded)
    own, other = weights(loaded.model), weights(fresh.model)
    reading = {name for name in own if (own[name] != other[name]).any()}
    assert reading and all(name.startswith(("graph_reasoner.", "output_decoder.")) for name in reading)
    assert len(reading) > 20 and any("score" in name for name in reading)


def test_an_untrained_model_follows_no_edit(loaded):
    plans = [
        loaded.world.ask(loaded.world.sample_scene(stream(3, i), Split.TEST, 3), QuestionKind.PLAN, stream(3))
        for i in range(8)
    ]
    done = []
    tallies = measure(loaded, questions_on(loaded.world, plans, 4, 0), 3, 0, progress=done.append)
    assert sum(done) == 16
    for name, tally in tallies.items():
        if not INTERVENTIONS[name].control:
            assert not any(t.after in t.right for t in tally.trials)


@pytest.mark.slow
def test_a_trained_reader_follows_the_edits_and_an_untrained_one_does_not(tmp_path):
    """One to two minutes of random play on 3x3 boards, no PPO: the reading of dreams is learned there."""
    settings = RunConfig(
        model=DreamingConfig(dream_length=6),
        world=WorldConfig(sizes=(3,)),
        pretrain=PretrainConfig(steps=260, scenes_per_step=24, num_workers=1),
    )
    pretrain_loop(settings, tmp_path)
    result = intervene_command(tmp_path / "pretrained", "frozen_lake", None, 150, 0, (3,), 8, tmp_path / "strips")
    found = result["interventions"]
    for name in ("step", "result"):
        assert found[name]["cases"] >= 20
        assert found[name]["predicted_ci"][0] > 0.5 > 0.1 > found[name]["untrained"], (name, found[name])
        assert found[name]["predicted"] > found[name]["chance"] + 0.2
    assert found["order"]["predicted"] > 0.95 and found["copy"]["predicted"] > 0.9
    assert all((tmp_path / "strips" / f"step-1-{when}.png").is_file() for when in ("before", "after"))
    assert len(result["saved"]) == 2 * 3 * len(INTERVENTIONS)
