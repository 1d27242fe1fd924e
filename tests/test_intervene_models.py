"""The causal test on models: a trained one follows the edits, untrained ones do not."""

import numpy as np
import pytest
import torch

from dreamrl.config import DreamingConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.edits import INTERVENTIONS
from dreamrl.imagine import Imagined
from dreamrl.intervene import (
    intervene,
    intervene_command,
    measure,
    model_reader,
    questions_on,
    rewrite,
    untrained_reader,
)
from dreamrl.judge import Judge
from dreamrl.pretrain import pretrain_loop
from dreamrl.saving import weights
from dreamrl.told_dreams import tell
from dreamrl.trials import Tally, summarise
from envs.questions import stream
from envs.reasoning_batch import ReasoningBatch
from envs.world import QuestionKind, Split, random_play, roll


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


def tell_random_play(loaded, questions, dreams):
    """Finished dreams of random play, all true; for PREDICT the first follows the moves that are asked about."""
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), dreams)
    batch.make_room(questions)
    batch.reset(questions)
    with torch.no_grad():
        prompt = loaded.model.ask({k: torch.from_numpy(v) for k, v in batch.asked().items()})
    told = {}
    for q, question in enumerate(questions):
        steps = len(question.script) or loaded.run.model.dream_length
        plays = [random_play(question.scene, 4, steps, stream(5, q, n)) for n in range(dreams)]
        if question.script:
            plays[0] = roll(question.scene, question.script)
        told[q] = [tell(question, play, batch.judge.codes) for play in plays]
    return rewrite(Imagined(batch=batch, prompt=prompt, experts=np.zeros(0), values=np.zeros(0)), told)


@pytest.mark.slow
def test_a_trained_reader_follows_the_edits_and_an_untrained_one_does_not(tmp_path):
    """A minute and a half of random play on 3x3 boards, no PPO: the reading of dreams is learned there.

    Mostly by plans, because most edits are made to dreams about them.
    """
    settings = RunConfig(
        model=DreamingConfig(embedding_dim=32, num_experts=2, codec_hidden=64, dream_length=6),
        world=WorldConfig(sizes=(3,)),
        pretrain=PretrainConfig(steps=400, scenes_per_step=24, predict_share=0.1, num_workers=1),
    )
    loaded = pretrain_loop(settings, tmp_path)
    plans = [
        loaded.world.ask(loaded.world.sample_scene(stream(4, i), Split.TEST, 3), QuestionKind.PLAN, stream(4))
        for i in range(250)
    ]
    imagined = tell_random_play(loaded, questions_on(loaded.world, plans, 6, 0), 4)
    tallies = {name: Tally() for name in INTERVENTIONS}
    intervene(imagined, loaded.world, model_reader(loaded), model_reader(untrained_reader(loaded)), 0, 0, tallies)
    found = {name: summarise(tally, 500) for name, tally in tallies.items()}
    for name in ("action", "step", "result", "swap", "outcome"):
        rates = found[name]
        assert rates["cases"] >= 40, (name, rates)
        assert rates["untrained"] < 0.02 and rates["predicted_ci"][0] > 0.4, (name, rates)
        assert rates["predicted"] > rates["chance"] + 0.1, (name, rates)
        assert rates["changed"] > 0.85, (name, rates)
    for name in ("order", "copy"):
        assert found[name]["predicted"] > 0.9, (name, found[name])
    strips = tmp_path / "strips"
    result = intervene_command(tmp_path / "pretrained", "frozen_lake", None, 40, 0, (3,), 8, strips)
    assert set(result["interventions"]) == set(INTERVENTIONS)
    assert len(result["saved"]) == len(list(strips.iterdir())) >= 2 * 4
    assert (strips / "order-1-before.png").is_file() and (strips / "order-1-after.png").is_file()
